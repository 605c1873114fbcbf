"""`generate` in blocks: killed, interrupted, by other processes, on a full disk, on many pages."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_generation
from file_limit import file_limit
from small_generation import LIMITS, PROMPTS, QUICK, small

from longalign.data.prompts import read_prompts
from longalign.engine import Engine
from longalign.errors import Interrupted, LongalignError
from longalign.generation import generate
from longalign.generation.painter import Painter
from longalign.generation.work import GenerateWork
from longalign.weights.stack import load_pipeline

_DATE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
RESULTS = ("images/", "parts/", "metrics.jsonl")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline("stickers", device="cpu")


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in LIMITS:
        monkeypatch.setattr(module, name, value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pipe: Any) -> Path:
    """A run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in LIMITS:
            patch.setattr(module, name, value)
        return small(tmp_path_factory.mktemp("whole") / "run", pipe=pipe).folder


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    """The bytes of all files, or of those whose name begins so. The date of a report is left out."""
    found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    return {name: _DATE.sub(b"", data) for name, data in found.items() if name.startswith(names or "")}


def test_many_pictures_are_on_pages(whole: Path) -> None:
    files = contents(whole)
    assert {name for name in files if not name.startswith(RESULTS)} == {
        "config.yaml",
        "report.html",
        "pages/cases-0001.html",
        "pages/by-worst-0001.html",
    }
    assert sum(name.startswith("images/") for name in files) == 10
    assert sum(name.startswith("parts/") for name in files) == 3
    assert b"../images/0009-0.png" in files["pages/cases-0001.html"]
    assert not any(b"data:image" in files[name] for name in files if name.startswith("pages/"))


def test_a_killed_run_goes_on_to_the_same_bytes(whole: Path, tmp_path: Path, pipe: Any) -> None:
    """Killed at its third picture, and before metrics.jsonl; config.yaml is file 0 each time.

    The second process draws 8 pictures and writes 3 parts. It has removed what the first one had begun.
    """
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, small_generation.__file__, str(out), "3", "12"],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a forked process has none of its parent's threads
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == [f"{int(signal.SIGKILL)} 1"] * 2
    steps: list[int] = []
    small(out, pipe=pipe, on_step=steps.append)
    assert not steps
    assert contents(out) == contents(whole)


def test_blocks_in_any_order_by_two_works(whole: Path, tmp_path: Path, pipe: Any) -> None:
    """As Ray sends them: pickled, and the model loaded there."""
    prompts, config = read_prompts([PROMPTS]), Painter(QUICK, pipe).config
    works: list[GenerateWork] = [
        pickle.loads(pickle.dumps(GenerateWork(prompts, config, str(tmp_path)))) for _ in range(2)
    ]
    for made in works:
        made.open()
    assert [works[block % 2].do(block) for block in (2, 0, 1)] == [2, 4, 4]
    assert all(map(works[0].has, range(3)))
    assert contents(tmp_path) == contents(whole, "images/", "parts/")


def test_an_interrupted_run_reports_in_order(whole: Path, tmp_path: Path, pipe: Any) -> None:
    """Stopped in the second batch of block 0, while block 1 is done: its pictures come after. Six pictures are on one
    page; going on makes a folder of pages of it."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in ("parts/00000.jsonl", "parts/00002.jsonl", *(f"images/000{i}-0.png" for i in range(4))):
        (out / name).unlink()
    steps: list[int] = []

    def stop(pictures: int) -> None:
        steps.append(pictures)
        if len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"6 of 10 pictures are kept.*The same command goes on"):
        small(out, pipe=pipe, on_step=stop)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    files = [line["images"][0] for line in lines]
    assert files == sorted(files) and files[2:] == [f"images/000{i}-0.png" for i in (4, 5, 6, 7)]
    assert (out / "report.jsonl").is_file()
    small(out, pipe=pipe)
    assert contents(out) == contents(whole)


def test_an_interrupted_run_of_no_name_says_its_name(
    tmp_path: Path, pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command would begin another folder."""
    monkeypatch.chdir(tmp_path)
    seen: list[int] = []

    def stop(pictures: int) -> None:
        seen.append(pictures)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"The same command with --out runs/generate-.*-001 goes on"):
        generate(["A fox.", "A star.", "A pig."], QUICK, pipe=pipe, on_step=stop)


def test_a_full_disk(whole: Path, tmp_path: Path, pipe: Any) -> None:
    """There is room for each picture and part, and none for the pages."""
    out = tmp_path / "run"
    sizes = {name: len(data) for name, data in contents(whole).items()}
    most = max(size for name, size in sizes.items() if name.startswith(("images/", "parts/", "config")))
    assert most < sizes["pages/cases-0001.html"]
    with file_limit(most), pytest.raises(LongalignError, match=r"Cannot write .*\.html"):
        small(out, pipe=pipe)
    steps: list[int] = []
    small(out, pipe=pipe, on_step=steps.append)
    assert not steps and contents(out) == contents(whole)


def test_what_is_refused(whole: Path, pipe: Any, tmp_path: Path) -> None:
    """Another batch size, and a pipeline that other processes cannot have. A damaged part is named."""
    other = QUICK.__class__(**{**vars(QUICK), "batch_size": 3})
    with pytest.raises(LongalignError, match="they differ in batch_size"):
        generate(read_prompts([PROMPTS]), other, out=whole, pipe=pipe)
    with pytest.raises(LongalignError, match="cannot be sent to other processes"):
        generate("A fox.", QUICK, out=tmp_path / "no", pipe=pipe, engine=Engine("ray"))
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/parts/00001.jsonl").write_text("{")
    with pytest.raises(
        LongalignError, match=r"parts/00001\.jsonl: cannot be read .*draws these pictures again"
    ):
        small(tmp_path / "run", pipe=pipe)
