"""Pairs and prompts from files: every layout, and what is wrong with one line of them."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from longalign.data.prompt_sets import count_texts, read_texts
from longalign.errors import LongalignError
from longalign.scoring.data import (
    Failure,
    Pair,
    count_pairs,
    pairs_of,
    read_pairs,
)
from longalign.stickers.scene_pairs import (
    scored_pairs as sticker_pairs,
)


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def test_jsonl_is_relative_to_its_folder_and_bad_lines_are_failures(tmp_path: Path) -> None:
    file = write(
        tmp_path / "d.jsonl",
        {"image": "a.png", "caption": "A fox."},
        "",
        "{broken",
        {"file_name": "sub/b.png", "text": "A pig."},
        {"caption": "No picture."},
        {"image": "c.png", "caption": None},
        ["a list"],
    )
    found = list(read_pairs(file))
    assert found[0] == Pair(tmp_path / "a.png", "A fox.", "a.png")
    assert found[2] == Pair(tmp_path / "sub/b.png", "A pig.", "sub/b.png")
    reasons = [(i, f.name.rsplit(", ")[-1], f.reason) for i, f in enumerate(found) if isinstance(f, Failure)]
    assert [(i, where) for i, where, _ in reasons] == [
        (1, "line 3"),
        (3, "line 5"),
        (4, "line 6"),
        (5, "line 7"),
    ]
    assert ["JSON" in r for _, _, r in reasons] == [True, False, False, True]
    assert "names no picture" in reasons[1][2] and "has no caption" in reasons[2][2]
    assert count_pairs(file) == len(found) == 6  # the blank line is none


def test_a_folder_with_metadata_or_with_text_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.JPG", "sub/c.webp"):
        (tmp_path / name).touch()
    (tmp_path / "b.txt").write_text("\ufeffA fox.\n")
    (tmp_path / "sub/c.txt").write_text("A pig.")
    assert list(read_pairs(tmp_path)) == [
        Failure("a.JPG", "has no caption: there is no a.txt beside it"),
        Pair(tmp_path / "b.png", "A fox.", "b.png"),
        Pair(tmp_path / "sub/c.webp", "A pig.", "sub/c.webp"),
    ]
    assert count_pairs(tmp_path) == 3
    write(tmp_path / "metadata.jsonl", {"file_name": "b.png", "text": "Metadata comes first."})
    assert list(read_pairs(tmp_path)) == [Pair(tmp_path / "b.png", "Metadata comes first.", "b.png")]


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="no such file or folder"):
        read_pairs(tmp_path / "none.jsonl")
    with pytest.raises(LongalignError, match=r"holds no metadata\.jsonl and no pictures"):
        read_pairs(tmp_path)
    assert count_pairs(tmp_path / "none.jsonl") == 0


def test_one_prompt_or_one_an_image() -> None:
    assert [p.text for p in pairs_of(["a", "b"], ["x"])] == ["x", "x"]
    assert [p.text for p in pairs_of(["a", "b"], ["x", "y"])] == ["x", "y"]
    with pytest.raises(LongalignError, match="3 prompts for 2 images"):
        pairs_of(["a", "b"], ["x", "y", "z"])
    with pytest.raises(LongalignError, match="no image given"):
        pairs_of([], ["x"])


def test_sticker_pairs_are_held_out_scenes() -> None:
    first, second = sticker_pairs(2)
    assert isinstance(first.image, Image.Image) and first.text != second.text and first.name == "scene 0"


def tar(path: Path, members: dict[str, str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def test_texts_of_lines_jsonl_folders_and_tars(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.txt", "A fox.", "", '{"prompt": "A pig."}', "{a brace}")
    rows = write(tmp_path / "b.jsonl", {"caption": "A crab.", "de": "Ein Krebs."})
    shard = tar(
        tmp_path / "c.tar",
        {
            "x/1.jpg": "pixels",
            "x/1.txt": "one",
            "x/1.json": '{"caption": "not this"}',
            "x/2.cls": "0",  # no text at all
            "x/3.json": '{"caption": "three"}',
            "y/3.txt": "another three",
        },
    )
    assert list(read_texts([lines, rows, shard])) == [
        *("A fox.", "A pig.", "{a brace}", "A crab.", "one", "three", "another three")
    ]
    assert list(read_texts([rows], column="de")) == ["Ein Krebs."]
    assert count_texts([lines, rows]) == 4 and count_texts([lines, shard]) is None
    folder = tmp_path / "captions"
    folder.mkdir()
    (folder / "p.txt").write_text("One text,\non two lines.")
    assert list(read_texts([folder])) == ["One text,\non two lines."]
    write(folder / "metadata.jsonl", {"file_name": "p.png", "text": "meta"})
    assert list(read_texts([folder])) == ["meta"]


def test_texts_that_cannot_be_read(tmp_path: Path) -> None:
    for lines, column, why in [
        (["no json"], None, "line 1: is no JSON object"),
        (
            [{"de": "x"}],
            None,
            r"no text under caption or .* or texts \(it has: de\); name the key with --column",
        ),
        ([{"caption": "x"}], "de", r"no text under de \(it has: caption\)"),
    ]:
        with pytest.raises(LongalignError, match=why):
            list(read_texts([write(tmp_path / "bad.jsonl", *lines)], column))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LongalignError, match="line 1: is no UTF-8"):
        list(read_texts([tmp_path / "binary.txt"]))
    (tmp_path / "bad.tar").write_bytes(b"no archive at all")
    with pytest.raises(LongalignError, match="cannot be read as a tar file"):
        list(read_texts([tmp_path / "bad.tar"]))
    with pytest.raises(LongalignError, match="no such file"):
        list(read_texts(["none.txt"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(LongalignError, match="holds no dataset"):
        list(read_texts([tmp_path / "empty"]))


def test_what_needs_a_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").touch()
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "state.json").write_text("{}")
    for package, source in (("pyarrow", "a.parquet"), ("datasets", "hf")):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
        monkeypatch.setitem(sys.modules, f"{package}.parquet", None)  # another test may have imported it
        with pytest.raises(LongalignError, match=f"needs the package {package}: pip install {package}"):
            list(read_texts([tmp_path / source]))


def test_parquet_and_datasets_by_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages are optional and large; what is used of them is small enough to play."""

    class ParquetFile:
        schema_arrow = SimpleNamespace(names=["id", "prompt"])

        def __init__(self, path: Path) -> None:
            assert path.name == "a.parquet"

        def iter_batches(self, columns: list[str]) -> Any:
            assert columns == ["prompt"]
            for batch in (["one", None], ["two"]):
                yield SimpleNamespace(column=lambda _, b=batch: SimpleNamespace(to_pylist=lambda: b))

    class Part(list):
        column_names = ("image", "text")

        def select_columns(self, names: list[str]) -> Part:
            assert names == ["text"]
            return self

    parquet, datasets = ModuleType("pyarrow.parquet"), ModuleType("datasets")
    parquet.ParquetFile = ParquetFile  # type: ignore[attr-defined]
    datasets.load_from_disk = lambda _: {"train": Part([{"text": "three"}])}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    (tmp_path / "a.parquet").touch()
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "dataset_dict.json").write_text("{}")
    assert list(read_texts([tmp_path / "a.parquet", tmp_path / "hf"])) == ["one", "two", "three"]
    with pytest.raises(LongalignError, match=r"no column de \(it has: id, prompt\)"):
        list(read_texts([tmp_path / "a.parquet"], column="de"))
