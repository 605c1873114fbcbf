"""Sets of pictures from run folders and others."""

from __future__ import annotations

from pathlib import Path

import pytest
from sticker_runs import PROMPTS, SCENES, run_folder

from longalign.errors import LongalignError
from longalign.evaluation.pictures import read_reference, read_sets
from longalign.runs import RunFolder, json_line
from longalign.stickers.captions import caption, text_of
from longalign.stickers.described import described_scene
from longalign.stickers.world import Scene, Sticker, render, scene


def image_folder(path: Path, rows: list[dict[str, str]]) -> Path:
    path.mkdir()
    for k, s in enumerate(SCENES):
        render(s).save(path / f"{k}.png")
    (path / "metadata.jsonl").write_text("".join(map(json_line, rows)))
    return path


def test_seeds_are_pictures_of_one_set_and_ways_are_sets(tmp_path: Path) -> None:
    generated = run_folder(tmp_path / "gen", {"seed 0": [0, 1, 2], "seed 1": [1, 1, 1]})
    demo = run_folder(tmp_path / "demo", {"reference": [0, 1, 2], "plain": [2, 2, 2]})
    sets = read_sets([str(generated), f"d={demo}"])
    assert [(s.label, len(s), s.prompts) for s in sets] == [
        ("gen", 6, PROMPTS),
        ("d · reference", 3, PROMPTS),
        ("d · plain", 3, PROMPTS),
    ]
    assert all(Path(str(p.image)).is_file() for s in sets for p in s.pictures)


def test_captioned_folders_and_what_is_wrong_in_them(tmp_path: Path) -> None:
    rows = [
        {"file_name": "0.png", "text": PROMPTS[0]},
        {"file_name": "1.png"},
        {"file_name": "2.png", "text": " "},
    ]
    [found] = read_sets([str(image_folder(tmp_path / "photos", rows))])
    assert (found.label, found.prompts) == ("photos", PROMPTS[:1]) and len(found.failed) == 2


def test_references(tmp_path: Path) -> None:
    """The scenes that the prompts describe; a demo's right column; pictures without any captions."""
    demo = run_folder(tmp_path / "demo", {"plain": [2, 2, 2], "reference": [0, 1, 2]})
    bare = image_folder(tmp_path / "bare", [])
    (bare / "metadata.jsonl").unlink()
    drawn = read_reference("stickers", [*PROMPTS, "A photograph of a bridge.", PROMPTS[0]])
    assert [p.image.tobytes() for p in drawn.pictures] == [render(s).tobytes() for s in SCENES]  # type: ignore[union-attr]
    assert read_reference(str(demo), []).label == "demo · reference"
    assert [p.name for p in read_reference(str(bare), []).pictures] == ["0.png", "1.png", "2.png"]
    with pytest.raises(LongalignError, match="describe no whole sticker scenes"):
        read_reference("stickers", ["A bridge.", "A ship."])


def test_scenes_from_their_captions_and_back() -> None:
    for i in range(20):
        drawn = scene(i, objects=(0, 9), split="validation")
        for referring in (False, True):
            found = described_scene(text_of(caption(drawn, i, referring=referring)))
            assert found is not None and found.background == drawn.background
            assert set(found.stickers) == set(drawn.stickers)


def test_prompts_that_say_less_describe_no_scene() -> None:
    assert described_scene("The background is navy. A fox is in the middle.") == Scene(
        "navy", (Sticker("fox", 4),)
    )
    for short in (
        "A fox is in the middle.",
        "The background is navy. It is night.",
        "The background is navy. The middle shows a red disc.",
    ):
        assert described_scene(short) is None


def test_wrong_names_and_folders(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "a", {"seed 0": [0, 1, 2]})
    (tmp_path / "b").mkdir()
    twin = run_folder(tmp_path / "b" / "a", {"seed 0": [0, 1, 2]})
    training = RunFolder(tmp_path / "training", {"command": "train"}).path
    for names, said in (
        ([str(tmp_path / "nowhere")], "no such run folder"),
        (["=x"], "NAME=FOLDER"),
        ([str(run), str(twin)], "two runs are called 'a'"),
        ([str(training)], "drew no pictures"),
    ):
        with pytest.raises(LongalignError, match=said):
            read_sets(names)
