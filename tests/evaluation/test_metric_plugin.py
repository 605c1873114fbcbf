"""A metric of another package, by name on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plugin_package import install, run_command
from sticker_runs import run_folder

SHARPNESS = '''
import numpy as np

from longalign.metrics.metric import Metric, MetricColumn


class Sharpness(Metric):
    """Mean difference between neighbouring grey values."""

    name = "sharpness"
    columns = (MetricColumn("sharpness", "sharpness", ".3f", "higher"),)

    def measure(self, batch):
        grey = [np.asarray(image.convert("L"), float) for image in batch.images]
        return [float(np.abs(np.diff(x, axis=1)).mean()) for x in grey]
'''


def captioned(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    rows = []
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
        rows.append({"file_name": f"{name}.png", "text": f"A picture called {name}."})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
def test_a_metric_of_another_package_is_used_by_name(tmp_path: Path) -> None:
    """Stripes of 0 and 10 differ by 10 from column to column, a flat picture by 0: means 10, and (0 + 10) / 2 = 5."""
    install(tmp_path / "site", "sharp_metric", SHARPNESS, metric="sharpness = Sharpness")
    stripes, flat = np.zeros((8, 8), np.uint8), np.full((8, 8), 90, np.uint8)
    stripes[:, 1::2] = 10
    sharp = captioned(tmp_path / "sharp", {"a": stripes, "b": stripes})
    mixed = captioned(tmp_path / "mixed", {"a": stripes, "b": flat})
    done = run_command(
        tmp_path / "site",
        *("evaluate", str(sharp), str(mixed), "--metrics", "sharpness", "--samples", "100"),
        *("--out", str(tmp_path / "out"), "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [run["sharpness"]["value"] for run in found["runs"]] == [10, 5]
    assert (found["runs"][1]["sharpness"]["low"], found["runs"][1]["sharpness"]["high"]) == (0, 10)
    assert found["read"] == {"sharpness": "the picture alone: nothing"}
    assert "sharpness ↑" in (tmp_path / "out" / "report.html").read_text()
    wrong = run_command(tmp_path / "site", "evaluate", str(sharp), "--metrics", "sharpnes")
    said = " ".join(wrong.stderr.split())
    assert wrong.returncode == 2 and "metric 'sharpnes' is unknown; did you mean 'sharpness'?" in said


@pytest.mark.slow
def test_an_installed_metric_is_not_computed_unasked(tmp_path: Path) -> None:
    """Its `by_default` is off, so a run without --metrics gives what it gave before the package was installed."""
    install(tmp_path / "site", "sharp_metric", SHARPNESS, metric="sharpness = Sharpness")
    run = run_folder(tmp_path / "run", {"seed 0": [0, 1, 2]})
    done = run_command(tmp_path / "site", "evaluate", str(run), "--samples", "100", "--json")
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)["runs"]
    assert "sharpness" not in found
    assert {"fid", "cmmd", "denscore", "true", "diversity", "looks"} <= found.keys()
