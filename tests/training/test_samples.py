"""Sample pictures on the way: where they lie, that a resumed run has the same, that the page shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from line_objective import LineObjective, line_recipe
from line_runs import rows, same_end
from PIL import Image

from longalign.training import fit
from longalign.training.folder import (
    forget_samples,
    sample_cases,
    sample_rows,
    save_samples,
)
from longalign.training.recipe import Recipe


def pictured(samples: int = 2, **values: Any) -> Recipe:
    """8 noisy steps, evaluated after 2, 4, 6 and 8."""
    given = {"train__steps": 8, "train__evaluate_every": 2, "line__dropout": 0.5, **values}
    return line_recipe(line__samples=samples, **given)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in (folder / "samples").rglob("*.*")}


def test_pictures_come_with_their_captions(tmp_path: Path) -> None:
    """Red is drawn at random: the same at each evaluation, so that what differs is the model. Blue is the number."""
    out = tmp_path / "run"
    fit(pictured(), out)
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert lines[1]["pictures"] == [
        {"file": f"samples/step-000004/0{k}.png", "caption": f"caption {k}"} for k in (0, 1)
    ]
    colours = [[Image.open(out / p["file"]).getpixel((0, 0)) for p in line["pictures"]] for line in lines]
    assert len({c[0][0] for c in colours}) == 1 and len({c[0][1] for c in colours}) > 1
    assert {c[1][2] for c in colours} == {1}


def test_pictures_do_not_depend_on_what_was_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation that draws no random numbers, in place of one that does: the same pictures."""
    fit(pictured(), tmp_path / "one")
    monkeypatch.setattr(LineObjective, "evaluate", lambda self, accelerator: {})
    fit(pictured(), tmp_path / "other")
    assert files(tmp_path / "one") == files(tmp_path / "other")


def test_looking_changes_nothing_that_is_trained(tmp_path: Path) -> None:
    fit(pictured(), tmp_path / "seen")
    fit(pictured(samples=0, train__evaluate_every=0), tmp_path / "unseen")
    ends = [sorted((tmp_path / name / "model").iterdir()) for name in ("seen", "unseen")]
    assert [p.read_bytes() for p in ends[0]] == [p.read_bytes() for p in ends[1]]
    assert not (tmp_path / "unseen" / "samples.jsonl").exists()


@pytest.mark.parametrize("after", [1, 5, 7])
def test_a_resumed_run_has_the_same_pictures(tmp_path: Path, after: int) -> None:
    """It breaks off after step 1 (before any checkpoint), 5 or 7, and goes on from 3 or 6."""

    def fail(done: int, row: Any) -> None:
        if done == after:
            raise KeyError("a lamp fell")

    given = pictured(train__checkpoint_every_steps=3)
    fit(given, tmp_path / "whole")
    with pytest.raises(KeyError):
        fit(given, tmp_path / "run", on_step=fail)
    there: list[list[int]] = []
    fit(
        given,
        tmp_path / "run",
        on_step=lambda s, row: there.append([r["step"] for r in sample_rows(tmp_path / "run")]),
    )
    assert there[0] == {1: [], 5: [2], 7: [2, 4, 6]}[after]  # at its start those of later steps are gone
    assert files(tmp_path / "run") == files(tmp_path / "whole") and len(files(tmp_path / "run")) == 8
    assert sample_rows(tmp_path / "run") == sample_rows(tmp_path / "whole")
    assert same_end(tmp_path / "run", tmp_path / "whole") and rows(tmp_path / "run") == rows(
        tmp_path / "whole"
    )


def test_later_pictures_are_forgotten(tmp_path: Path) -> None:
    """Those of steps after 4, also where the line that names them was not written yet."""
    image = Image.new("RGB", (2, 2))
    for step in (0, 4, 6):
        save_samples(tmp_path, step, [("a", image)])
    (tmp_path / "samples" / "step-000008").mkdir()
    (tmp_path / "samples" / "mine").mkdir()
    forget_samples(tmp_path, 4)
    assert [row["step"] for row in sample_rows(tmp_path)] == [0, 4]
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["mine", "step-000000", "step-000004"]
    save_samples(tmp_path, 4, [("b", image)])  # taken again: in place of what was there
    assert [p["caption"] for row in sample_rows(tmp_path) for p in row["pictures"]] == ["a", "b"]


def test_the_page_shows_first_middle_best_and_last(tmp_path: Path) -> None:
    """Of steps 0, 2, 4, 6 and 8: 0, the middle one 4, the best 6, and 8. A caption of the last step that an earlier one
    did not draw has fewer; one that the last did not draw has no row.
    """
    image = Image.new("RGB", (2, 2))
    for step in range(0, 10, 2):
        new = [("b <i>", image)] if step > 4 else [("old", image)]
        save_samples(tmp_path, step, [("a", image), *new])
    cases = sample_cases(tmp_path, best_step=6)
    assert [case.prompt for case in cases] == ["a", "b <i>"]
    shown = [[(panel.column, panel.note) for panel in case.panels] for case in cases]
    assert shown[0] == [("step 0", ""), ("step 4", ""), ("step 6", "best"), ("step 8", "")]
    assert [column for column, _ in shown[1]] == ["step 6", "step 8"]
    assert sample_cases(tmp_path / "none") == []


def test_the_report_has_the_pictures(tmp_path: Path) -> None:
    best = {"metric": "score", "mode": "max"}
    fit(pictured(line__peak=2, train__best=best, train__evaluate_first=True), tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert re.findall(r'alt="Sample 1, ([^"]*)"', page) == ["step 0", "step 2", "step 4", "step 8"]
    assert page.count('src="data:image/png') == 8 and "caption 1" in page
