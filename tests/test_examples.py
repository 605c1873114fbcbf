"""The scripts, the notebook and the package in examples/ run, each small.

`train.sh` starts no training here: tests/training/ has real runs of two processes. What is tested is which processes it
starts.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

import longalign
from longalign import plugins
from longalign.preference.model import PREFERENCE_MODELS

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "tour.ipynb"


def loaded(file: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script as a module; its neighbours can be imported from it, as when it runs."""
    monkeypatch.syspath_prepend(file.parent)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"), float)


@pytest.mark.parametrize("name", ["img2img", "inpaint", "controlnet"])
def test_a_script_draws(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a picture of one's own, white as it is, by all nine sentences."""
    Image.new("RGB", (96, 96), "white").save(tmp_path / "in.png")
    given = ["--steps", "4", "--out", str(tmp_path / "out" / "x.png"), "--image", str(tmp_path / "in.png")]
    out = loaded(EXAMPLES / f"{name}.py", monkeypatch).main(given)
    assert capsys.readouterr().out == f"9 sentences → {out}\n"
    drawn = picture(out)
    assert drawn.shape == (96, 96, 3) and drawn.std() > 20
    if name == "inpaint":  # the upper third stays white, as far as the VAE's neighbouring latents let it
        assert drawn[:24].mean() > 235 > drawn[32:].mean()


def test_a_picture_is_drawn_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = loaded(EXAMPLES / "img2img.py", monkeypatch).main(
        ["--steps", "2", "--out", str(tmp_path / "x.png")]
    )
    assert picture(out).shape == (96, 96, 3)


def test_a_reward_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures, one step: both rewards are in the metrics, and the model folder is complete."""
    module = loaded(EXAMPLES / "reward_of_my_own.py", monkeypatch)
    given = {"steps": 1, "sampling-steps": 2, "held-out": 2, "batch": 2, "out": tmp_path / "run"}
    result = module.main([f"--{name}={value}" for name, value in given.items()])
    PREFERENCE_MODELS.pop("warmth")
    assert {"reward_denscore", "reward_warmth"} <= set(result.metrics)
    assert (result.model / "pytorch_lora_weights.safetensors").is_file()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """examples/plugin_package, as pip leaves it: its sources on the path, and its entry points beside them."""
    folder = EXAMPLES / "plugin_package"
    lines = (folder / "pyproject.toml").read_text().splitlines()
    points = re.findall(r'^"(\w+\.\w+)" = "(.+)"$', "\n".join(lines), re.M)
    assert len(points) == 2
    info = tmp_path / "longalign_colours-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: longalign-colours\nVersion: 0.1.0\n")
    said = "".join(f"{name} = {place}\n" for name, place in points)
    (info / "entry_points.txt").write_text(f"[longalign.plugins]\n{said}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(folder / "src")
    assert any(d.metadata["Name"] == "longalign-colours" for d in distributions())
    plugins._of_plugins.cache_clear()
    yield
    plugins._of_plugins.cache_clear()


@pytest.mark.usefixtures("package")
def test_the_plugin_package() -> None:
    """Its names are found. A red picture scores higher than a blue one: tanh(red − blue) of CLIP's scaled colours."""
    from longalign.data.sources import SOURCES

    swatches = SOURCES["swatches"]()
    captioned = {entry.text: entry.image for entry in map(swatches.__getitem__, range(len(swatches)))}
    assert len(captioned) == 5
    model = longalign.PreferenceModel.from_pretrained("warmth")
    scores = model.score(list(captioned.values()), list(captioned))
    score = dict(zip(captioned, scores.overall.tolist(), strict=True))
    assert score["A square of one colour. It is red."] > 95
    assert score["A square of one colour. It is blue."] < -95
    assert [len(of_one) for of_one in scores.segments] == [2] * 5


def started(tmp_path: Path, gpus: int, **environment: str) -> tuple[int, str, list[str]]:
    """What `train.sh stickers-sft seed=3` starts, on a machine with so many GPUs, by a Python that only writes it down.

    Returns:
        exit code, error output, and for each process its environment and arguments.
    """
    python = tmp_path / "python"
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT"
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then echo {gpus}; exit; fi\n'
        f'for n in {names}; do printf "%s=%s " $n "$(printenv $n)"; done >> {tmp_path}/started.$RANK\n'
        f'echo "$@" >> {tmp_path}/started.$RANK\n[ "$RANK" != "$FAILS" ]\n'
    )
    python.chmod(0o755)
    done = subprocess.run(
        [EXAMPLES / "two_machines" / "train.sh", "stickers-sft", "seed=3"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(python), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr, [f.read_text() for f in sorted(tmp_path.glob("started.*"))]


def test_two_machines(tmp_path: Path) -> None:
    """The second machine of two GPUs each has ranks 2 and 3 of 4. A process that fails fails the script."""
    own = {"FIRST": "10.0.0.1", "NUMBER": "1", "OUT": "/shared/x"}
    code, _, found = started(tmp_path, 2, **own)
    assert code == 0
    common = "WORLD_SIZE=4 LOCAL_WORLD_SIZE=2 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500"
    command = "-m longalign train stickers-sft seed=3 --out /shared/x"
    assert found == [f"RANK={r} LOCAL_RANK={r - 2} {common} {command}\n" for r in (2, 3)]
    assert started(tmp_path, 2, **own, FAILS="3")[0] == 1
    code, error, _ = started(tmp_path, 1, FIRST="10.0.0.1", OUT="x")
    assert code == 1 and "NUMBER: is the number of this machine" in error


def outputs(notebook: Any) -> tuple[list[str], list[bytes]]:
    """Text that cells printed, and their pictures. Warnings are left out."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output["text"] for output in found if output.get("name") == "stdout"]
    return texts, [
        base64.b64decode(o["data"]["image/png"]) for o in found if "image/png" in o.get("data", {})
    ]


def test_the_committed_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells are those of the tool that writes it; outputs are kept, small, and without paths or errors."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    tool = loaded(ROOT / "tools" / "tour_notebook.py", monkeypatch)
    assert [cell.source for cell in notebook.cells] == [text.removeprefix(">") for text in tool.CELLS]
    texts, pictures = outputs(notebook)
    assert len(texts) >= 5 and len(pictures) == 3
    for png in pictures:
        assert Image.open(io.BytesIO(png)).size == (392, 192) and len(png) < 60_000
    whole = NOTEBOOK.read_text("utf-8")
    assert "/site-packages" not in whole and "/tmp" not in whole and '"error"' not in whole


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel of its own, with the texts that are committed, as far as rounding has no influence on them."""
    monkeypatch.setenv("PYTHONPATH", str(Path(longalign.__file__).parents[1]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    tool = loaded(ROOT / "tools" / "tour_notebook.py", monkeypatch)
    texts, pictures = outputs(tool.run(tool.notebook()))
    committed, _ = outputs(nbformat.read(NOTEBOOK, as_version=4))
    assert texts[:2] == committed[:2] and len(pictures) == 3
    assert texts[2].count("true") >= 12 and texts[2].count("false") >= 1
    with_lora = re.search(r"with LoRA: (\d+) of 40", "".join(texts))
    assert with_lora is not None and int(with_lora[1]) >= 38
