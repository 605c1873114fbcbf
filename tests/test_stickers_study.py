"""`stickers study`: many scenes, several columns, and going on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from longalign.columns import PLAIN, SEGMENTS, Column, Drawer
from longalign.errors import LongalignError
from longalign.pipelines import load_tokenizer
from longalign.stickers import study as module
from longalign.stickers.captions import Fact, caption, facts, parse_all, text_of
from longalign.stickers.study import ASPECTS, judge_scene, study, study_steps
from longalign.stickers.study_cli import choose_columns, parse_stage
from longalign.stickers.study_folder import StudyConfig
from longalign.stickers.study_page import differences, looks_table, tables_of, write_study
from longalign.stickers.world import Scene, Sticker, render, scene

DRAWN = Scene("navy", (Sticker("fox", 0, "red"), Sticker("star", 4)))
COLUMNS = {"good": Column("plain"), "bad": Column("clip-cat")}
CONFIG = StudyConfig(scenes=5, steps=2)


def fake(monkeypatch: pytest.MonkeyPatch, *, die_after: int = 10**6) -> list[tuple[str, int]]:
    """In place of a model: "plain" draws what is asked for, "clip-cat" leaves all discs out. Lists what was drawn."""
    drawn: list[tuple[str, int]] = []

    def draw(self: Drawer, column: Column, prompts: Any, seeds: Any, **settings: Any) -> list[Any]:
        if len(drawn) >= die_after:
            raise KeyboardInterrupt
        drawn.extend((column.strategy, seed) for seed in seeds)
        settings["on_step"](len(prompts) * settings["steps"])
        found = [scene(seed, objects=CONFIG.objects, split="test") for seed in seeds]
        if column.strategy == "clip-cat":
            found = [Scene(s.background, tuple(Sticker(x.kind, x.cell) for x in s.stickers)) for s in found]
        return [render(s) for s in found]

    monkeypatch.setattr(Drawer, "draw", draw)
    monkeypatch.setattr(Drawer, "pipe", lambda self: SimpleNamespace(tokenizer=load_tokenizer()))
    return drawn


def test_a_scene_by_hand() -> None:
    """The fox stands in the top left on red, the star in the middle on nothing, on navy; the other picture is empty."""
    said = [
        Fact(kind="fox", cell=0, disc="blue"),  # the disc is wrong, and so is the sentence
        Fact(kind="star", cell=8),  # elsewhere
        Fact(cell=0, disc="red"),
        Fact(background="navy"),
        None,
    ]
    found = judge_scene(said, render(DRAWN), render(Scene("pink", ())))
    assert found["marks"] == "fftt-" and found["chance"] == "ffff-"
    assert [found[name] for name in ASPECTS] == ["tt...", "tf...", "f....", "..t..", "...t."]
    assert found["looks"] == 0


def test_columns_tables_and_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A column that draws everything has 100 %, one that leaves out the discs fails on them alone."""
    fake(monkeypatch)
    steps: list[int] = []
    found = study(COLUMNS, CONFIG, out=tmp_path / "a", keep_pictures=2, on_step=steps.append)
    assert sum(steps) == study_steps(COLUMNS, CONFIG) == 5 * 2 * 2 * 2
    own, referring, of_differences, said, said_referring, looks = tables_of(found)
    asked = [facts(s) for s in found.scenes]
    with_disc, all_facts = sum(f.disc is not None for a in asked for f in a), sum(map(len, asked))
    assert [cell.value for cell in own.rows[2][1:3]] == pytest.approx([1.0, 1 - with_disc / all_facts])  # type: ignore[union-attr]
    # Referring back, a disc costs its own sentence, and the sentence about its sticker stays true.
    share = 1 - with_disc / (all_facts + with_disc)
    assert referring.rows[2][2].value == pytest.approx(share)  # type: ignore[union-attr]
    rows = {row[0]: row for row in of_differences.rows}
    left = rows["self-contained: all, − the column to the left"]
    assert left[1] == "—" and left[2].value == pytest.approx(-with_disc / all_facts)  # type: ignore[union-attr]
    assert rows["all, referring − self-contained"][1].value == 0  # type: ignore[union-attr]
    assert [row[0] for row in said_referring.rows][2] == "disc, said by referring back"
    assert [row[2].value for row in said.rows] == [1.0, 1.0, 0.0, 1.0]  # type: ignore[union-attr]
    assert looks.rows[0][1].value == 0  # type: ignore[union-attr]
    write_study(found)
    html = (tmp_path / "a" / "report.html").read_text()
    assert "Referring captions" in html and html.count("data:image/png") == 2 * 2 * 3
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == 6


def test_chance_is_the_next_scenes_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch)
    found = study(
        {"good": Column("plain")}, StudyConfig(scenes=3, captions=("self-contained",)), out=tmp_path / "a"
    )
    first = found.series["self-contained"].rows["good"][0]
    texts = [s.text for s in caption(found.scenes[0], 0)]
    assert first["chance"] == judge_scene(parse_all(texts), render(found.scenes[1]))["marks"]
    assert found.series["self-contained"].prompts[0] == text_of(caption(found.scenes[0], 0))


def test_interrupted_it_goes_on_and_ends_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two scenes at once, killed after the third time: these six are not drawn again."""
    monkeypatch.setattr(module, "AT_ONCE", 2)
    fake(monkeypatch)
    whole = study(COLUMNS, CONFIG, out=tmp_path / "whole")
    fake(monkeypatch, die_after=6)
    with pytest.raises(KeyboardInterrupt):
        study(COLUMNS, CONFIG, out=tmp_path / "parts")
    drawn, steps = fake(monkeypatch), []
    again = study(COLUMNS, CONFIG, out=tmp_path / "parts", on_step=steps.append)
    assert {s: r.rows for s, r in again.series.items()} == {s: r.rows for s, r in whole.series.items()}
    # 5 scenes are 2 + 2 + 2, the fourth twice, since chance needs two; the first column was complete.
    assert drawn[0] == ("clip-cat", 0) and len(drawn) == 4 * 6 - 6
    assert study(COLUMNS, CONFIG, out=tmp_path / "parts").series["referring"].rows.keys() == COLUMNS.keys()
    assert len(drawn) == 4 * 6 - 6  # nothing left to do


def test_more_columns_and_scenes_are_added_to_what_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = fake(monkeypatch)
    study({"good": COLUMNS["good"]}, CONFIG, out=tmp_path / "a")
    study(COLUMNS, CONFIG, out=tmp_path / "a")
    assert [s for s, _ in drawn] == ["plain"] * 10 + ["clip-cat"] * 10
    more = study({"good": COLUMNS["good"]}, StudyConfig(scenes=8, steps=2), out=tmp_path / "a")
    assert drawn[20:] == [("plain", i) for i in (5, 6, 7)] * 2
    assert [row["scene"] for row in more.series["referring"].rows["good"]] == list(range(8))


def test_other_weights_are_drawn_again_and_other_settings_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = fake(monkeypatch)
    weights = tmp_path / "lora.safetensors"
    weights.write_bytes(b"one")
    columns = {"SFT": Column("plain", (str(weights),))}
    study(columns, CONFIG, out=tmp_path / "a")
    weights.write_bytes(b"two")
    study(columns, CONFIG, out=tmp_path / "a")
    assert len(drawn) == 20
    with pytest.raises(LongalignError, match="they differ in steps, seed"):
        study(columns, StudyConfig(scenes=5, steps=3, seed=1), out=tmp_path / "a")
    study(columns, CONFIG, out=tmp_path / "a", overwrite=True)
    assert len(drawn) == 30
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("")
    with pytest.raises(LongalignError, match="already holds files"):
        study(columns, CONFIG, out=tmp_path / "b")


def test_with_the_embedded_model(tmp_path: Path) -> None:
    """Two scenes, one step: real pictures, whose looks are not those of clean ones."""
    found = study(
        {PLAIN: Column("plain"), SEGMENTS: Column()}, StudyConfig(scenes=2, steps=1), out=tmp_path / "a"
    )
    assert all(row["looks"] < 0 for s in found.series.values() for rows in s.rows.values() for row in rows)
    beyond = [np.array(s.beyond) for s in found.series["referring"].sentences]
    assert any(b.any() for b in beyond)
    assert looks_table(found).rows[0][1].n == 2  # type: ignore[union-attr]
    assert len(differences(found).rows) == 5
    head = json.loads((tmp_path / "a" / "columns" / "referring-plain.jsonl").read_text().splitlines()[0])
    assert head["drawn_with"]["strategy"] == "plain" and len(head["drawn_with"]["model"]) == 64


def test_what_a_study_needs(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="2 scenes at the least"):
        StudyConfig(scenes=1)
    with pytest.raises(LongalignError, match="captions haiku are unknown"):
        StudyConfig(captions=("haiku",))
    with pytest.raises(LongalignError, match="needs a column"):
        study({}, CONFIG, out=tmp_path / "a")
    with pytest.raises(LongalignError, match="same names"):
        study({"a": Column(), "b": Column()}, CONFIG, out=tmp_path / "a")
    with pytest.raises(LongalignError, match="no sticker scenes"):
        study(COLUMNS, StudyConfig(model=str(tmp_path)), out=tmp_path / "a")
    with pytest.raises(LongalignError, match="no such file or folder"):
        study({"a": Column("plain", ("/nowhere",))}, CONFIG, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_stages_from_the_command_line() -> None:
    both = ("stickers/sft", "stickers/reward")
    assert parse_stage("SFT+RFT=stickers/sft+stickers/reward") == ("SFT+RFT", Column("clip-cat", both))
    assert parse_stage("T5=runs/a@t5-mlp") == ("T5", Column("t5-mlp", ("runs/a",)))
    assert parse_stage("both encoders=@clip+t5") == ("both encoders", Column("clip+t5"))
    assert parse_stage("A=me@home/sft") == ("A", Column("clip-cat", ("me@home/sft",)))
    for wrong in ("runs/a", "=runs/a", "A=", "A=a+"):
        with pytest.raises(LongalignError, match="should be LABEL=LORA"):
            parse_stage(wrong)
    with pytest.raises(LongalignError, match="unknown strategy"):
        parse_stage("A=runs/a@clip-dog")
    found = choose_columns(["SFT=a", "RFT=a+b"], "segments,rft")
    assert found == {SEGMENTS: Column(), "RFT": Column("clip-cat", ("a", "b"))}
    with pytest.raises(LongalignError, match="no column 'LCM'; there are plain, segments, SFT"):
        choose_columns(["SFT=a"], "LCM")
