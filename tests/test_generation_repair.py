"""`generate` with repair: before and after in the report, and the same bytes after an interruption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from longalign.errors import LongalignError
from longalign.generation import GenerateConfig, Generation, generate, page
from longalign.weights.stack import load_pipeline

# One step draws too little of the first prompt, so that there is something to repair.
CONFIG = GenerateConfig(steps=1, device="cpu", scorer="stickers", best_of=2, repair=1, seed=3)
PROMPTS = [
    "The background is navy. A fox is in the top left. There is a frog in the middle. A pig is in the top right. "
    "A star is in the bottom left. A car is in the bottom right.",
    "A frog is in the middle.",
]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline("stickers", device="cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pipe: Any) -> Generation:
    return generate(PROMPTS, CONFIG, out=tmp_path_factory.mktemp("whole") / "run", pipe=pipe)


def contents(folder: Path) -> dict[str, bytes]:
    kept = ("images", "parts", "repairs", "metrics.jsonl")
    files = {str(f.relative_to(folder)): f for f in folder.rglob("*") if f.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if name.startswith(kept)}


def test_the_report_shows_before_and_after(whole: Generation) -> None:
    """The first prompt: two pictures, the better one repaired once. Its sentences have P(true) in both columns."""
    line = next(whole.lines())
    [repair] = line["repairs"]
    assert [a["round"] for a in repair["attempts"]] == [0, 0, 1] and repair["calls"] == 3
    assert repair["attempts"][0]["seed"] == 3 and repair["probability"]
    assert repair["before_file"], "choose another seed: the repair was not accepted"
    assert (whole.folder / repair["before_file"]).is_file() and (
        whole.folder / repair["region_file"]
    ).is_file()
    for sentence, value in zip(line["sentences"], repair["attempts"][2]["values"], strict=True):
        assert set(sentence["marks"]) == set(sentence["scores"]) == {"seed 3", "seed 3, before"}
        assert sentence["scores"]["seed 3"] == pytest.approx(100 * value)
    text = (whole.folder / "report.html").read_text()
    for words in ("seed 3, before", "seed 3, drawn again", "denoiser calls", "P(true) by stickers"):
        assert words in text
    assert [
        json.loads(told)["repairs"] for told in (whole.folder / "metrics.jsonl").read_text().splitlines()
    ] == [told["repairs"] for told in whole.lines()]


def test_a_stopped_run_goes_on_to_the_same_bytes(
    whole: Generation, tmp_path: Path, pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind the first picture; and again, after its notes were written and before the picture was.

    Progress counts 2 + 1 steps a picture, taken or not. Many pictures are on pages."""
    out = tmp_path / "run"
    shutil.copytree(whole.folder, out)
    for name in ("parts/00000.jsonl", "metrics.jsonl", "images/0001-3.png"):
        (out / name).unlink()
    monkeypatch.setattr(page, "ONE_PAGE", 1)
    steps: list[int] = []
    made = generate(PROMPTS, CONFIG, out=out, pipe=pipe, on_step=steps.append)
    assert sum(steps) == 6
    assert contents(out) == contents(whole.folder)
    assert b"seed 3, before" in (out / "pages/cases-0001.html").read_bytes()
    (out / "repairs/0000-3.json").unlink()
    (out / "parts/00000.jsonl").unlink()
    with pytest.raises(LongalignError, match=r"repairs/0000-3\.json: cannot be read .* draws it again"):
        generate(PROMPTS, CONFIG, out=out, pipe=pipe)
    assert made.prompt_json(next(whole.lines()))["repairs"]


def test_what_is_refused(pipe: Any, tmp_path: Path) -> None:
    for options, says in (
        ({"repair": 1}, "need a preference model"),
        ({"best_of": 2}, "need a preference model"),
        ({"best_of": 0}, "best of at least 1"),
        ({"repair": -1}, "rounds of repair are 0 or more"),
    ):
        with pytest.raises(LongalignError, match=says):
            generate("A fox.", GenerateConfig(device="cpu", **options), out=tmp_path / "run", pipe=pipe)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
