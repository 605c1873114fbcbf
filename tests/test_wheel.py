"""The wheel, installed alone: what a user of `pip install longalign` has.

It is built without the network, installed into an empty folder without its dependencies, and run with those of the
environment. The folder goes first on Python's path, so nothing of the source tree can help.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("hatchling") is None, reason="hatchling builds the wheel: pip install '.[dev]'"
    ),
]


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed wheel."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    offline = ["--no-deps", "--no-index", "--no-cache-dir", "--quiet"]
    pip("wheel", str(ROOT), *offline, "--no-build-isolation", "--wheel-dir", str(wheels))
    [wheel] = wheels.glob("longalign-*.whl")
    pip("install", str(wheel), *offline, "--target", str(target))
    return target


def longalign(site: Path, cwd: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "longalign", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_the_wheel_that_runs(site: Path, tmp_path: Path) -> None:
    code = "import longalign; print(longalign.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    shown = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True)
    assert Path(shown.strip()).is_relative_to(site)


def test_it_has_the_recipes(site: Path, tmp_path: Path) -> None:
    names = {file.stem for file in (ROOT / "src" / "longalign" / "recipes").glob("*.yaml")}
    assert set(json.loads(longalign(site, tmp_path, "recipes", "--json"))) == names
    assert (site / "longalign" / "recipes" / "README.md").is_file()


def test_it_trains_by_the_name_of_a_recipe(site: Path, tmp_path: Path) -> None:
    """Two steps of the supervised stage of the sticker world, made small."""
    small = ["train.steps=2", "train.batch_size=2", "data.held_out_count=2", "supervised.oracle_scenes=1"]
    made = json.loads(longalign(site, tmp_path, "train", "stickers-sft", *small, "--out", "run", "--json"))
    assert made["step"] == 2 and (tmp_path / "run" / "model").is_dir()


def test_it_draws_the_demo(site: Path, tmp_path: Path) -> None:
    made = json.loads(longalign(site, tmp_path, "demo", "--scenes", "1", "--steps", "2", "--json"))
    assert (tmp_path / made["report"]).is_file()
