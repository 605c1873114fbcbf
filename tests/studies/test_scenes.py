"""`stickers study`: many scenes, several columns, and going on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from PIL import Image
from tiny import tiny_sd3

from longalign.cli.stickers.study import choose_columns, parse_stage
from longalign.diffusion.pipelines import (
    SETTINGS_FILE,
    load_tokenizer,
)
from longalign.errors import LongalignError
from longalign.soft_tokens import SoftTokenConfig, SoftTokens
from longalign.stickers.captions import Fact, caption, facts, parse_all, text_of
from longalign.stickers.objects import object_counts
from longalign.stickers.oracle import read
from longalign.stickers.world import Scene, Sticker, render, scene
from longalign.studies import scenes as module
from longalign.studies.compare import PLAIN, SEGMENTS, Column, Drawer
from longalign.studies.scenes import ASPECTS, StudyInterrupted, judge_scene, study, study_steps
from longalign.studies.scenes_folder import StudyConfig, column_key
from longalign.studies.scenes_page import differences, looks_table, tables_of, write_study

DRAWN = Scene("navy", (Sticker("fox", 0, "red"), Sticker("star", 4)))
COLUMNS = {"good": Column("plain"), "bad": Column("clip-cat")}
CONFIG = StudyConfig(scenes=5, steps=2)


def fake(
    monkeypatch: pytest.MonkeyPatch, *, die_after: int = 10**6, objects: tuple[int, int] = CONFIG.objects
) -> list[tuple[str, int]]:
    """In place of a model: "plain" draws what is asked for, "clip-cat" leaves all discs out. Lists what was drawn."""
    drawn: list[tuple[str, int]] = []

    def draw(self: Drawer, column: Column, prompts: Any, seeds: Any, **settings: Any) -> list[Any]:
        if len(drawn) >= die_after:
            raise KeyboardInterrupt
        drawn.extend((column.strategy, seed) for seed in seeds)
        settings["on_step"](len(prompts) * settings["steps"])
        found = [scene(seed, objects=objects, split="test") for seed in seeds]
        if column.strategy == "clip-cat":
            found = [Scene(s.background, tuple(Sticker(x.kind, x.cell) for x in s.stickers)) for s in found]
        return [render(s) for s in found]

    monkeypatch.setattr(Drawer, "draw", draw)
    pipe = SimpleNamespace(tokenizer=load_tokenizer(), scheduler=UniPCMultistepScheduler())
    monkeypatch.setattr(Drawer, "pipe", lambda self: pipe)
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
    found = judge_scene(DRAWN, said, render(DRAWN), render(Scene("pink", ())))
    assert found["marks"] == "fftt-" and found["chance"] == "ffff-"
    assert [found[name] for name in ASPECTS] == ["tt...", "tf...", "f....", "..t..", "...t."]
    assert found["looks"] == 0
    nothing = {"surplus": 0, "repeated": 0, "copies": 0, "missing": 0}
    assert found["objects"] == nothing and found["chance_objects"] == {**nothing, "missing": 2}


def test_objects_by_hand() -> None:
    """Asked for: a fox in cell 0 and a star in cell 4."""

    def counted(*stickers: Sticker) -> list[int]:
        return list(object_counts(read(render(Scene("navy", stickers))), DRAWN).values())

    fox, star = DRAWN.stickers
    # A second fox and a pig where nothing should be, and no star: surplus 2, of them repeated 1, a copy, missing 1.
    assert counted(fox, Sticker("fox", 8), Sticker("pig", 2, "blue")) == [2, 1, 1, 1]
    assert counted(fox, Sticker("star", 5)) == [1, 1, 0, 0]  # moved
    assert counted(fox, Sticker("fox", 4)) == [
        0,
        0,
        1,
        1,
    ]  # in the star's place, where the scene is not empty
    assert counted(Sticker("fox", 0, "blue"), star) == [0, 0, 0, 0]  # the disc does not matter
    # Half a pig and half a panda in an empty cell resemble a sticker, and are none that one could name.
    pig, panda = (render(Scene("navy", (fox, star, Sticker(kind, 8)))) for kind in ("pig", "panda"))
    mixed = read(Image.blend(pig, panda, 0.5))
    assert mixed.kinds()[8] is not None and object_counts(mixed, DRAWN)["surplus"] == 0


@pytest.mark.parametrize("objects", [(1, 5), (7, 9)])
def test_a_clean_render_has_just_its_objects(objects: tuple[int, int]) -> None:
    scenes = [scene(i, objects=objects, split="test") for i in range(30)]
    counts = [object_counts(read(render(s)), s) for s in scenes]
    assert all(set(c.values()) == {0} for c in counts)


def test_columns_tables_and_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A column that draws everything has 100 %, one that leaves out the discs fails on them alone."""
    fake(monkeypatch)
    steps: list[int] = []
    found = study(COLUMNS, CONFIG, out=tmp_path / "a", keep_pictures=2, on_step=steps.append)
    assert sum(steps) == study_steps(COLUMNS, CONFIG) == 5 * 2 * 2 * 2
    own, referring, of_differences, said, said_referring, objects, _, looks = tables_of(found)
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
    # Both columns draw the stickers that are asked for. Of 5 scenes without any, Wilson allows 43 % to have one.
    surplus, of_surplus = objects.rows[:2]
    assert objects.columns == ["", "good", "bad", "chance"] and of_surplus[1] == of_surplus[3] == "—"
    assert (surplus[1].value, surplus[1].low) == (0, 0) and surplus[1].high == pytest.approx(0.434, abs=1e-3)  # type: ignore[union-attr]
    missing = {row[0]: row for row in objects.rows}["missing, of the kinds of the scene"]
    next_one = [*found.scenes[1:], found.scenes[0]]
    lacking = [
        len({x.kind for x in s.stickers} - {x.kind for x in other.stickers})
        for s, other in zip(found.scenes, next_one, strict=True)
    ]
    assert missing[2].value == 0 and missing[3].value == pytest.approx(np.mean(lacking))  # type: ignore[union-attr]
    write_study(found)
    html = (tmp_path / "a" / "report.html").read_text()
    assert "Referring captions" in html and html.count("data:image/png") == 2 * 2 * 3
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == 8


def test_small_scenes_have_nothing_beyond_the_window(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two stickers and a background are some 30 tokens. A share of no sentences is a dash, and null for machines."""
    fake(monkeypatch, objects=(1, 2))
    found = study(COLUMNS, StudyConfig(scenes=3, objects=(1, 2), steps=1), out=tmp_path / "a")
    write_study(found)
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    shares = json.loads(lines[0])["rows"]
    assert "NaN" not in "".join(lines)
    assert [row["good"]["value"] for row in shares] == [1.0, None, 1.0] and shares[1]["good"]["n"] == 0
    assert "3 scenes of 1 to 2 stickers" in (tmp_path / "a" / "report.html").read_text()


def test_chance_is_the_next_scenes_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch)
    found = study(
        {"good": Column("plain")}, StudyConfig(scenes=3, captions=("self-contained",)), out=tmp_path / "a"
    )
    first = found.series["self-contained"].rows["good"][0]
    texts = [s.text for s in caption(found.scenes[0], 0)]
    of_next = judge_scene(found.scenes[0], parse_all(texts), render(found.scenes[1]))
    assert first["chance"] == of_next["marks"] and first["chance_objects"] == of_next["objects"]
    assert found.series["self-contained"].prompts[0] == text_of(caption(found.scenes[0], 0))


def test_interrupted_it_goes_on_and_ends_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two scenes at once, killed after the third time: these six are not drawn again."""
    monkeypatch.setattr(module, "AT_ONCE", 2)
    fake(monkeypatch)
    whole = study(COLUMNS, CONFIG, out=tmp_path / "whole")
    fake(monkeypatch, die_after=6)
    with pytest.raises(
        StudyInterrupted, match=r"results of 5 pictures are kept in .*parts.* goes on"
    ) as stopped:
        study(COLUMNS, CONFIG, out=tmp_path / "parts")
    kept = stopped.value.result  # the first column, of the first sort of captions
    assert kept is not None and {s: list(r.rows) for s, r in kept.series.items()} == {
        CONFIG.captions[0]: [next(iter(COLUMNS))]
    }
    write_study(kept)
    assert (tmp_path / "parts" / "report.html").is_file()
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


def test_columns_that_were_judged_otherwise_are_drawn_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file of an earlier version, whose lines lack the objects."""
    drawn, columns = fake(monkeypatch), {"good": COLUMNS["good"]}
    config = StudyConfig(scenes=2, steps=1, captions=("referring",))
    study(columns, config, out=tmp_path / "a")
    file = tmp_path / "a" / "columns" / "referring-plain.jsonl"
    head, *rows = map(json.loads, file.read_text().splitlines())
    del head["drawn_with"]["rows"]
    [row.pop("objects") for row in rows]
    file.write_text("".join(json.dumps(line) + "\n" for line in [head, *rows]))
    write_study(study(columns, config, out=tmp_path / "a"))
    assert len(drawn) == 4


def test_soft_tokens_are_part_of_a_columns_key(tmp_path: Path) -> None:
    """Other tokens or another scale: other pictures. A run folder of training stands for the tokens in it."""
    config = SoftTokenConfig("sd15", 8, stages=("down",))
    for name in ("a", "b"):
        SoftTokens(config).save(tmp_path / name / "model")
    columns = [
        Column(),
        Column(soft_tokens=str(tmp_path / "a")),
        Column(soft_tokens=str(tmp_path / "a"), scale=0.5),
        Column(soft_tokens=str(tmp_path / "b")),
    ]
    keys = [json.dumps(column_key(column, CONFIG, 77)) for column in columns]
    assert len(set(keys)) == 4
    inside = Column(soft_tokens=str(tmp_path / "a" / "model"))
    assert json.dumps(column_key(inside, CONFIG, 77)) == keys[1]


def test_a_flow_model_with_soft_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SD3 keeps its own solver; tokens change its pictures; those of SD1.5 are refused before a folder is made."""
    pipe = tiny_sd3(with_t5=False)
    monkeypatch.setattr("longalign.studies.compare.load_pipeline", lambda *given, **named: pipe)
    settings = {"guidance": 2.0, "length": 77, "oracle": "stickers"}
    (tmp_path / "sd3").mkdir()
    (tmp_path / "sd3" / SETTINGS_FILE).write_text(json.dumps(settings))
    own = SoftTokens(SoftTokenConfig.of(pipe.transformer))
    with torch.no_grad():
        own.tokens.normal_(std=10)
    own.save(tmp_path / "own")
    SoftTokens(SoftTokenConfig("sd15", 8, stages=("down",))).save(tmp_path / "other")
    config = StudyConfig(
        scenes=2, objects=(1, 1), steps=1, captions=("referring",), model=str(tmp_path / "sd3")
    )
    columns = {"plain": Column("plain"), "soft": Column("plain", soft_tokens=str(tmp_path / "own"))}
    found = study(columns, config, out=tmp_path / "a", keep_pictures=1)
    assert found.config.scheduler == "FlowMatchEulerDiscreteScheduler" and found.config.guidance == 2.0
    pictures = [(tmp_path / f"a/images/referring/0000-{n}.png").read_bytes() for n in ("plain", "soft")]
    assert pictures[0] != pictures[1]
    tables = write_study(found)
    assert "referring-soft.jsonl" in {f.name for f in (tmp_path / "a" / "columns").iterdir()} and tables
    with pytest.raises(LongalignError, match="Stable Diffusion 1 or 2"):
        study({"x": Column(soft_tokens=str(tmp_path / "other"))}, config, out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


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
    with pytest.raises(LongalignError, match="at least 2 scenes"):
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
    assert parse_stage("S=~stickers/softrepa") == ("S", Column(soft_tokens="stickers/softrepa"))
    assert parse_stage("S=~runs/x*0.5@plain") == ("S", Column("plain", (), "runs/x", 0.5))
    assert parse_stage("S=a+b~runs/x") == ("S", Column("clip-cat", ("a", "b"), "runs/x"))
    for wrong in ("runs/a", "=runs/a", "A=", "A=a+", "A=~", "A=a~", "A=+a~x"):
        with pytest.raises(LongalignError, match="should be LABEL=LORA"):
            parse_stage(wrong)
    with pytest.raises(LongalignError, match="unknown strategy"):
        parse_stage("A=runs/a@clip-dog")
    for wrong in ("A=a@plain~runs/x", "A=a@plain~x", "A=@plain~runs/x"):
        with pytest.raises(LongalignError, match="@STRATEGY comes last, after ~TOKENS"):
            parse_stage(wrong)
    for wrong in ("A=~x*2", "A=~x*much"):
        with pytest.raises(LongalignError, match="between 0 and 1"):
            parse_stage(wrong)
    found = choose_columns(["SFT=a", "RFT=a+b"], "segments,rft")
    assert found == {SEGMENTS: Column(), "RFT": Column("clip-cat", ("a", "b"))}
    with pytest.raises(LongalignError, match="no column 'LCM'; there are plain, segments, SFT"):
        choose_columns(["SFT=a"], "LCM")
