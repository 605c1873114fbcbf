"""CONTRIBUTING.md against the package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "longalign"
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")

# Prints the files of the package in the order in which a function of theirs runs first, classes being defined apart.
TRACE = """
import sys
OPTIMISED = 1  # code of functions has this flag, bodies of modules and classes have not
files = {}
def watch(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_flags & OPTIMISED and not code.co_name.startswith("<"):
        before, inside, file = code.co_filename.rpartition("/src/longalign/")
        if inside:
            files.setdefault(file)
from longalign.cli.main import main
sys.argv = ["longalign", "generate", "The background is navy. A fox is in the top left.", "--steps", "1",
            "--lora", "stickers/sft", "--soft-tokens", "stickers/softrepa", "--json"]
sys.setprofile(watch)
try:
    main()
except SystemExit:
    sys.setprofile(None)
    print("\\n".join(files), file=sys.stderr)
"""


def way() -> list[str]:
    """The files of the section "The way of a prompt"."""
    section = TEXT.partition("## The way of a prompt")[2].partition("\n## ")[0]
    return re.findall(r"^\d+\. `([\w/.]+)`", section, re.M)


def test_files_are_there() -> None:
    named = set(re.findall(r"`((?:\w+/)+[\w.-]+\.\w+|\w+\.(?:py|yaml))`", TEXT))
    assert len(named) > 30
    assert [name for name in named if not any((top / name).exists() for top in (ROOT, PACKAGE))] == []


@pytest.mark.slow
def test_a_prompt_goes_that_way(tmp_path: Path) -> None:
    """Each file once, and one after the other as a run enters them.

    Two files have no function that would be entered in its turn: `report/data.py` has only data, and
    `encoding/towers.py` is opened before it runs.
    """
    listed = way()
    assert len(set(listed)) == len(listed) > 20
    done = subprocess.run(
        [sys.executable, "-c", TRACE], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    entered = [line for line in done.stderr.splitlines() if line.endswith(".py")]
    expected = [file for file in listed if file not in ("report/data.py", "encoding/towers.py")]
    assert sorted(expected, key=entered.index) == expected
