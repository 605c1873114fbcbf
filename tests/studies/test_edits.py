"""Edits of sticker scenes: what is to change, what the oracle makes of it, and the command that counts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.generation import (
    GenerateConfig,
)
from longalign.soft_tokens import SoftTokenConfig, SoftTokens
from longalign.stickers.captions import is_true, parse_all
from longalign.stickers.world import Scene, Sticker, render
from longalign.studies.edit_scenes import CHANGES, SceneEdit, judge_edit, scene_edits
from longalign.studies.edits import BASELINES, EditStudyConfig, edit_study

SWAP, RECOLOUR, MOVE, REMOVE = EDITS = scene_edits(40)[-4:]


def sentences(text: str) -> list[str]:
    return [s.text for s in Segmenter()(text)]


def test_one_thing_changes_and_nothing_else_is_said_anew() -> None:
    """Changed cells: two swapped, one recoloured, two of a move, one emptied. Sentences: 2, 1, 1, and one less."""
    found = scene_edits(40)
    assert [e.change for e in found] == [*CHANGES] * 10
    for edit in found:
        cells, anew, fewer = {
            "swap": (2, 2, 0),
            "recolour": (1, 1, 0),
            "move": (2, 1, 0),
            "remove": (1, 0, 1),
        }[edit.change]
        before, after = sentences(edit.source), sentences(edit.target)
        assert len(edit.changed) == cells and len(before) - len(after) == fewer
        assert len(set(after) - set(before)) == anew
        assert [s for s in before if s in after] == [s for s in after if s in before]  # the order stays
        for texts, scene in ((before, edit.before), (after, edit.after)):
            assert all(fact is not None and is_true(fact, scene) for fact in parse_all(texts))
        assert len(edit.kept) == len(set(before) & set(after))
    assert scene_edits(8) == found[:8] and scene_edits(8, seed=1) != found[:8]


def test_edits_stay_what_they_were() -> None:
    """Published figures are of these edits."""
    drawn = "\n".join(map(repr, scene_edits(60)))
    assert hashlib.sha256(drawn.encode()).hexdigest()[:16] == "63c7c3b912dd2625"


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.change)
def test_the_wanted_picture_succeeds_and_the_old_one_does_not(edit: SceneEdit) -> None:
    good, none = judge_edit(edit, render(edit.after)), judge_edit(edit, render(edit.before))
    assert good.success and not none.success
    for verdict in (good, none):
        assert (verdict.lost, verdict.filled, verdict.rmse_levels) == (0, 0, 0.0)
        assert verdict.kept == len(edit.kept) and verdict.empty == len(edit.empty)


def test_a_copy_is_no_move() -> None:
    """The sticker stands in its new place and in its old one."""
    [old] = [s for s in MOVE.before.stickers if s not in MOVE.after.stickers]
    both = replace(MOVE.after, stickers=(*MOVE.after.stickers, old))
    assert not judge_edit(MOVE, render(both)).success


def test_collateral_is_counted() -> None:
    """Beside the edit, one bystander has gone and one empty cell is filled: one sentence lost, one cell filled."""
    moved = [s for s in MOVE.after.stickers if s not in MOVE.before.stickers]
    bystander = next(s for s in MOVE.after.stickers if s not in moved)
    rest = tuple(s for s in MOVE.after.stickers if s != bystander)
    intruder = Sticker("ghost", MOVE.empty[0])
    verdict = judge_edit(MOVE, render(Scene(MOVE.after.background, (*rest, intruder))))
    assert verdict.success and (verdict.lost, verdict.filled) == (1, 1) and verdict.rmse_levels > 10


def test_edits_that_cannot_be() -> None:
    for given, says in (
        ({"changes": ("paint",)}, "'paint' is unknown; there are swap"),
        ({"objects": (1, 3)}, "2 to 8 stickers"),
        ({"objects": (5, 9)}, "2 to 8 stickers"),
    ):
        with pytest.raises(LongalignError, match=says):
            scene_edits(4, **given)  # type: ignore[arg-type]
    with pytest.raises(LongalignError, match="at least one edit"):
        scene_edits(0)


def test_the_command_counts_and_shows(tmp_path: Path) -> None:
    pipe = GenerateConfig(device="cpu").load()
    tokens = SoftTokens(SoftTokenConfig.of(pipe.unet))
    with torch.no_grad():
        tokens.tokens.normal_(std=3)
    file = tokens.save(tmp_path)
    arguments = ["stickers", "edits", "--count", "4", "--steps", "2", "--soft-tokens", str(file), "--json"]
    arguments += ["--method", "ddim", "--keep-pictures", "2", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    columns = [*BASELINES, "ddim", "ddim + soft tokens"]
    success, lost, _filled, pixels, effect = made["tables"]
    assert [row["row"] for row in success["rows"]] == [*CHANGES, "all"]
    [of_all] = success["rows"][-1:]
    assert [*of_all] == ["row", *columns] and of_all["no edit"]["value"] == 0 and of_all["ddim"]["n"] == 4
    assert lost["rows"][-1]["no edit"]["value"] == 0  # the VAE alone loses nothing
    assert 0 < pixels["rows"][-1]["no edit"]["value"] < pixels["rows"][-1]["redrawn"]["value"]
    assert [*effect["rows"][0]] == ["with − without", "ddim"] and effect["rows"][0]["ddim"]["n"] == 8
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["change"] for line in lines] == [*CHANGES] and [*lines[0]["verdicts"]] == columns
    assert (tmp_path / "run" / "report.html").read_text().count("<article") == 2


def test_a_model_of_another_world_is_not_judged() -> None:
    from tiny import tiny_sd15

    with pytest.raises(LongalignError, match="draws no sticker scenes"):
        edit_study(EditStudyConfig(count=4, model="none"), pipe=tiny_sd15())
