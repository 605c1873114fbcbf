"""Captioned pictures: every kind of source, what is skipped, and when that is too much."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captioned_files import COLOURS, Some, imagefolder_jsonl, pictures, png
from PIL import Image

from longalign.data.buckets import cover
from longalign.data.captioned import CaptionedPictures, SkipLog, pixels_of
from longalign.data.entries import CaptionedPicture, Failure
from longalign.data.sources import (
    named_source,
    open_source,
)
from longalign.errors import LongalignError
from longalign.stickers.scene_source import (
    StickerScenes,
)


def imagefolder_csv(path: Path) -> Path:
    with open(pictures(path) / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), *((f"{n}.png", f"Text {n}.") for n in COLOURS)])
    return path


def imagefolder_parquet(path: Path) -> Path:
    columns = {"file_name": [f"{n}.png" for n in COLOURS], "text": [f"Text {n}." for n in COLOURS]}
    return table(pictures(path) / "metadata.parquet", columns).parent


def table(path: Path, columns: dict[str, list[Any]], arrow: bool = False) -> Path:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    made = pa.table(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    if arrow:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made)
    else:
        pa.parquet.write_table(made, path, row_group_size=2)
    return path


def dataset_of_paths(path: Path) -> Path:
    """The columns of LongAlign's published captions: path, caption."""
    pictures(path / "img")
    columns = {"path": [f"img/{n}.png" for n in COLOURS], "caption": [f"Text {n}." for n in COLOURS]}
    return table(path / "data-00000.arrow", columns, arrow=True).parent


def parquet_with_bytes(path: Path) -> Path:
    columns = {
        "image": [{"bytes": png(c), "path": None} for c in COLOURS.values()],
        "text": [f"Text {n}." for n in COLOURS],
    }
    return table(path / "train-0.parquet", columns).parent


def text_files(path: Path) -> Path:
    for name in COLOURS:
        (pictures(path) / f"{name}.txt").write_text(f"Text {name}.\n")
    return path


def coco(path: Path) -> Path:
    """Unpacked as COCO is: annotations/captions_val2017.json, val2017/*.png."""
    pictures(path / "val2017")
    content = {
        "images": [{"id": i, "file_name": f"{n}.png"} for i, n in enumerate(COLOURS)],
        "annotations": [
            {"image_id": i, "id": 10 + i, "caption": f"Text {n}."} for i, n in enumerate(COLOURS)
        ],
    }
    (path / "annotations").mkdir()
    file = path / "annotations" / "captions_val2017.json"
    file.write_text(json.dumps(content))
    return file


def shards(path: Path) -> Path:
    """Two shards; captions as .txt and in .json; one member that belongs to nothing."""
    path.mkdir()
    for number, names in enumerate(("ab", "c")):
        with tarfile.open(path / f"{number:03d}.tar", "w") as archive:
            for name in names:
                says = {"txt": f"Text {name}.\n"} if name != "b" else {"json": '{"caption": "Text b."}'}
                for suffix, data in {"png": png(COLOURS[name]), **says}.items():
                    info = tarfile.TarInfo(f"x/{name}.{suffix}")
                    content = data if isinstance(data, bytes) else data.encode()
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return path


KINDS = [imagefolder_jsonl, imagefolder_csv, imagefolder_parquet, dataset_of_paths, parquet_with_bytes]
KINDS += [text_files, coco, shards]


@pytest.mark.parametrize("make", KINDS)
def test_every_source_gives_the_same_rows(make: Any, tmp_path: Path) -> None:
    """In order and in any other, so that a run can go on anywhere; each picture is of one colour."""
    source = open_source(make(tmp_path / "data"))
    assert len(source) == 3
    for i in (2, 0, 1):
        entry = source[i]
        assert isinstance(entry, CaptionedPicture)
        name = "abc"[i]
        assert entry.text == f"Text {name}."
        assert entry.picture().getpixel((0, 0)) == COLOURS[name]
    assert [e.text for e in source if isinstance(e, CaptionedPicture)] == ["Text a.", "Text b.", "Text c."]


def test_another_column_and_another_folder(tmp_path: Path) -> None:
    pictures(tmp_path / "elsewhere")
    file = tmp_path / "list.jsonl"
    file.write_text(json.dumps({"image": "b.png", "caption": "short", "long": "A long text."}))
    entry = open_source(file, images=tmp_path / "elsewhere", column="long")[0]
    assert isinstance(entry, CaptionedPicture) and entry.text == "A long text."
    assert entry.picture().getpixel((0, 0)) == COLOURS["b"]


def test_what_is_wrong_with_a_row_says_so(tmp_path: Path) -> None:
    """Rows that cannot be used are failures, not exceptions."""
    content = {"images": [], "annotations": [{"image_id": 7, "caption": "x"}]}
    (tmp_path / "c.json").write_text(json.dumps(content, indent=1))
    assert "is of image 7, which is not listed" in open_source(tmp_path / "c.json", images=tmp_path)[0].reason  # type: ignore[union-attr]
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name, data in {"1.txt": b"text", "2.png": b"", "3.png": b"no picture", "3.txt": b"text"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = [pixels_of(e, (8, 8)) for e in open_source(tmp_path / "t.tar")]
    assert [f.reason.partition(" (")[0].partition(":")[0] for f in found if isinstance(f, Failure)] == [
        "has no picture",
        "has no caption",
        "cannot be read as a picture",
    ]


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "z.tar").write_bytes(b"\x1f\x8b compressed")
    table(tmp_path / "p.parquet", {"path": ["a.png"], "words": ["x"]})
    (tmp_path / "c.json").write_text('{\n"images": []\n}')
    for name, why in [
        ("none", "no such file or folder"),
        ("z.tar", "unpacked to plain .tar"),
        (
            "p.parquet",
            r"no column of captions: none of caption, .*, texts \(it has: path, words\)",
        ),
        ("c.json", "is no COCO captions file"),
    ]:
        with pytest.raises(LongalignError, match=why):
            open_source(tmp_path / name)
    (tmp_path / "d.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": "q.png"}], "annotations": []}, indent=1)
    )
    with pytest.raises(LongalignError, match=r"its pictures .q.png, ….* are in none of"):
        open_source(tmp_path / "d.json")


def test_squares() -> None:
    """8 × 4, left half red, right half blue, to 4: the middle 4 × 4 is half red, half blue."""
    image = Image.new("RGB", (8, 4), (255, 0, 0))
    image.paste((0, 0, 255), (4, 0, 8, 4))
    found = cover(image, (4, 4))
    assert found.shape == (3, 4, 4) and found.dtype == np.uint8
    assert (found[0, :, :2] == 255).all() and (found[2, :, 2:] == 255).all() and (found[0, :, 2:] == 0).all()


def test_stickers_are_held_out_and_may_refer() -> None:
    objects = ((1, 9), (7, 9))
    scenes = StickerScenes(40, objects=objects, referring=0.5)
    texts = [scenes[i].text for i in range(40)]
    refers = [" It " in t or "behind it" in t for t in texts]
    assert 8 < sum(refers) < 32 and texts[3] == StickerScenes(40, objects=objects, referring=0.5)[3].text
    assert all(t.count(".") >= 8 for t in texts[1::2])  # 7 stickers at least, and the background
    held_out = named_source("stickers", split="validation", count=40, objects=objects)
    assert not {e.text for e in held_out if isinstance(e, CaptionedPicture)} & set(texts)
    with pytest.raises(IndexError):
        scenes[40]


def test_the_next_usable_row_takes_the_place() -> None:
    """Row 2 is empty and 3 corrupt, so 4 comes in place of 2 and 3; row 5, the last, is replaced by row 0."""
    data = CaptionedPictures(Some(6, frozenset({3, 5}), frozenset({2})), 8)
    assert [data[i].text for i in range(6)] == [f"text {i}" for i in (0, 1, 4, 4, 4, 0)]
    row = data[2]
    assert [f.name for f in row.skipped] == ["row 2", "row 3"]
    assert row.skipped[0].reason == "its caption is empty"
    assert row.image.dtype == torch.uint8 and row.image.shape == (3, 8, 8) and int(row.image[0, 0, 0]) == 4
    with pytest.raises(
        LongalignError, match="3 rows in a row cannot be used; row 1: cannot be read as a picture"
    ):
        CaptionedPictures(Some(3, frozenset(range(3))), 8)[1]
    with pytest.raises(LongalignError, match="holds no picture"):
        CaptionedPictures(Some(0), 8)


def test_skipped_rows_are_listed_once_and_more_than_five_per_cent_stop(tmp_path: Path) -> None:
    """Of 1,000 rows, 5 may be bad among the first 100, and 10 once 200 were seen."""
    log = SkipLog(1000)
    log.add([Failure("row 0", "why")], 16)
    log.open(tmp_path / "run")
    log.add([Failure("row 0", "why"), Failure("row 1", "why")], 16)
    lines = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["row 0", "row 1"]
    log.add([Failure(f"row {i}", "why") for i in range(2, 5)], 16)
    with pytest.raises(
        LongalignError, match=r"6 of 100 rows cannot be used, more than 5%.*row 0: why.*skipped.jsonl"
    ):
        log.add([Failure("row 5", "why")], 16)
    assert len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) == 6
    later = SkipLog(1000)
    later.add([Failure(f"row {i}", "why") for i in range(10)], 200)
    with pytest.raises(LongalignError, match="11 of 200 rows"):
        later.add([Failure("row 10", "why")], 0)
    goes_on = SkipLog(1000)
    goes_on.load_state_dict(later.state_dict())
    with pytest.raises(LongalignError, match="12 of 200 rows"):
        goes_on.add([Failure("row 10", "why"), Failure("row 11", "why")], 0)
    small = SkipLog(20)
    small.add([Failure("row 0", "why")], 20)
    with pytest.raises(LongalignError, match="2 of 20 rows"):
        small.add([Failure("row 1", "why")], 20)
