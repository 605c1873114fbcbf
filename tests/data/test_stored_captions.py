"""Captions and pictures as people store them: lists, numbers, semicolons, old encodings, files of phones."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from longalign import LongalignError, picture_formats
from longalign.data.entries import CaptionedPicture, Failure, Source
from longalign.data.several_captions import with_captions
from longalign.data.sources import named_source, open_source
from longalign.data.text_files import decode_text, delimiter_of
from longalign.scoring.data import read_pairs

SEVERAL = ["A fox sits.", "A red animal in the snow.", "Winter."]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    return tmp_path


def texts(source: Source) -> list[str]:
    return [entry.text if isinstance(entry, CaptionedPicture) else entry.reason for entry in source]


def lines(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# several captions


@pytest.mark.parametrize("key", ["caption", "captions", "prompts"])
def test_a_list_in_jsonl(folder: Path, key: str) -> None:
    """All: a row for each, in order. Random: a row a picture, with all of them."""
    path = lines(folder, {"image": "a.png", key: SEVERAL}, {"image": "b.png", "caption": "One."})
    assert texts(named_source(str(path))) == [*SEVERAL, "One."]
    assert [e.name for e in named_source(str(path))] == ["a.png#1", "a.png#2", "a.png#3", "b.png"]
    one, other = named_source(str(path), captions="random")
    assert isinstance(one, CaptionedPicture) and one.texts == tuple(SEVERAL)
    assert isinstance(other, CaptionedPicture) and other.texts == ("One.",)
    assert [pair.text for pair in read_pairs(path) if not isinstance(pair, Failure)] == [*SEVERAL, "One."]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_list_in_tables(folder: Path, suffix: str) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"image": ["a.png", "b.png"], "captions": [SEVERAL, ["One.", ""]]})
    path = folder / f"rows.{suffix}"
    if suffix == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    assert texts(named_source(str(path))) == [*SEVERAL, "One."]  # the empty caption is none


def test_a_list_in_tars(folder: Path) -> None:
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for name, said in (("a", SEVERAL), ("b", "One.")):
            tar.add(folder / f"{name}.png", f"{name}.png")
            data = json.dumps({"caption": said}).encode()
            info = tarfile.TarInfo(f"{name}.json")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert texts(named_source(str(folder / "shard.tar"))) == [*SEVERAL, "One."]


def test_a_list_in_a_later_sample(folder: Path) -> None:
    """Only the second sample of the shard has a list, and its first key is empty."""
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for name, row in (("a", {"caption": "One."}), ("b", {"caption": [], "captions": SEVERAL})):
            tar.add(folder / f"{name}.png", f"{name}.png")
            data = json.dumps(row).encode()
            info = tarfile.TarInfo(f"{name}.json")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert texts(named_source(str(folder / "shard.tar"))) == ["One.", *SEVERAL]


def test_numbers_are_captions(folder: Path) -> None:
    path = lines(folder, {"image": "a.png", "caption": 7}, {"image": "b.png", "caption": [1.5, "x"]})
    assert texts(named_source(str(path))) == ["7", "1.5", "x"]


def test_an_empty_list_is_said(folder: Path) -> None:
    path = lines(folder, {"image": "a.png", "captions": []}, {"image": "b.png", "caption": True})
    assert texts(named_source(str(path))) == [
        "has no caption: the list 'captions' is empty",
        "has no caption: none of the keys caption, prompt, text, captions, prompts, texts",
    ]


def test_one_caption_each_is_the_source_itself(folder: Path) -> None:
    source = open_source(lines(folder, {"image": "a.png", "caption": "[sic] One."}))
    assert with_captions(source) is source


# text files


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_of_any_delimiter(folder: Path, delimiter: str) -> None:
    """Also where captions are full of the other ones."""
    path = folder / "metadata.csv"
    said = 'A fox; a dog, a "cat"\tand a bird.'
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([["file_name", "caption"], ["a.png", said]])
    assert texts(open_source(folder)) == [said]


def test_delimiters_by_hand() -> None:
    assert delimiter_of("file_name;text\na;b,c", ["text"]) == ";"
    assert delimiter_of("caption\nx,y", ["caption"]) in ",;\t|"
    assert delimiter_of("image|caption", ["caption"]) == "|"


CAFE = "Ein Café am Fluß, über dem Bäume stehen. Die Gäste trinken süßen Kaffee."


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252"]
)
@pytest.mark.filterwarnings("ignore:.*is not UTF-8")
def test_encodings(folder: Path, encoding: str) -> None:
    """Beside pictures and in CSV: the same caption."""
    (folder / "a.txt").write_bytes(CAFE.encode(encoding))
    (folder / "b.txt").write_bytes("Ein Hund. Ein Hase.".encode(encoding))
    assert texts(open_source(folder)) == [CAFE, "Ein Hund. Ein Hase."]
    (folder / "metadata.csv").write_bytes(f"file_name;caption\na.png;{CAFE}\n".encode(encoding))
    assert texts(open_source(folder)) == [CAFE]


def test_a_guess_is_told() -> None:
    with pytest.warns(UserWarning, match=r"x\.txt: is not UTF-8; read as .*Save it as UTF-8"):
        assert decode_text(CAFE.encode("latin-1"), "x.txt") == CAFE
    with pytest.warns(UserWarning, match="read as utf-16-le"):
        assert decode_text("A fox.".encode("utf-16-le"), "x.txt") == "A fox."


@pytest.mark.parametrize("said", ["Ein roter Käfer.", "Café — naïve", "Señor, ¿qué?"])
@pytest.mark.filterwarnings("ignore:.*is not UTF-8")
def test_few_words_are_western(said: str) -> None:
    """charset-normalizer alone reads the second as Cyrillic."""
    assert decode_text(said.encode("cp1252"), "x.txt") == said


def test_few_words_of_no_language_are_refused() -> None:
    with pytest.raises(LongalignError, match="save it as UTF-8"):
        decode_text("Лис.".encode("cp1251"), "x.txt")


def test_one_note_a_folder(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_bytes(CAFE.encode("latin-1"))
    with pytest.warns(UserWarning, match="and others likewise") as caught:
        assert texts(open_source(folder)) == [CAFE, CAFE]
    assert len(caught) == 1


def test_binary_is_refused() -> None:
    with pytest.raises(
        LongalignError, match=r"x\.txt: is binary, or text in an encoding that cannot be told: save it"
    ):
        decode_text(bytes(range(256)) * 8, "x.txt")


def test_utf16_jsonl(folder: Path) -> None:
    """As PowerShell writes it. In a UTF-8 file one bad line fails by itself."""
    path = folder / "rows.jsonl"
    row = json.dumps({"image": "a.png", "caption": "Ein Café."}, ensure_ascii=False)
    path.write_bytes(f"{row}\r\n{row}\r\n".encode("utf-16"))
    source = open_source(path)
    assert texts(source) == ["Ein Café."] * 2 and source[1].text == "Ein Café."  # type: ignore[union-attr]
    path.write_bytes(row.encode() + b"\n" + row.encode("latin-1") + b"\n")
    good, bad = open_source(path)
    assert isinstance(good, CaptionedPicture) and isinstance(bad, Failure)
    assert "is not UTF-8 (save the file as UTF-8)" in bad.reason


# pictures


def test_every_suffix_that_pillow_reads(tmp_path: Path) -> None:
    """AVIF and JFIF beside PNG, in a folder with captions."""
    kinds = [".png", ".jfif", *([".avif"] if ".avif" in picture_formats.picture_suffixes() else [])]
    for suffix in kinds:
        form = {".jfif": "JPEG", ".avif": "AVIF", ".png": "PNG"}[suffix]
        Image.new("RGB", (16, 16), "blue").save(tmp_path / f"x{suffix[1:]}{suffix}", form)
        (tmp_path / f"x{suffix[1:]}.txt").write_text(suffix)
    source = open_source(tmp_path)
    assert sorted(texts(source)) == sorted(kinds)
    assert all(entry.picture().size == (16, 16) for entry in source if isinstance(entry, CaptionedPicture))


def test_what_is_left_out_is_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By suffix, in one line, with what to install. Captions and lists are not counted."""
    monkeypatch.setattr(picture_formats, "picture_suffixes", lambda: (".png",))
    for name in ("c.heic", "d.HEIC", "e.mp4", "a.txt", "list.json"):
        (folder / name).write_text("x")
    with pytest.warns(UserWarning) as caught:
        open_source(folder)
    [line] = [str(w.message) for w in caught if "left out" in str(w.message)]
    assert line == f"{folder}: 3 files left out: 2 .heic (pip install pillow-heif), 1 .mp4"


def test_nothing_left_out_is_silent(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    (folder / "a.txt").write_text("A fox.")
    open_source(folder)
    assert not [w for w in recwarn if "left out" in str(w.message)]
