"""Captioned pictures as tars and parquet, and pictures that occur more than once."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_limit import file_limit
from PIL import Image
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.data.convert import ConvertWork, convert
from longalign.data.duplicates import Group, find_duplicates
from longalign.data.entries import CaptionedPicture, Failure, Source
from longalign.data.sources import named_source, open_source
from longalign.errors import LongalignError


class Rows(Source):
    """25 rows: PNG and JPEG files in turn, one of them of two captions, one damaged, and a drawn picture."""

    def __len__(self) -> int:
        return 25

    def caption_counts(self) -> Any:
        return np.array([1, 2] + [1] * 23)

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        if index == 3:
            return CaptionedPicture(b"no picture", "A caption.", "row 3")
        image = Image.fromarray(np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8))
        if index == 4:
            return CaptionedPicture(image, "Drawn.", "row 4")
        buffer = io.BytesIO()
        image.save(buffer, "PNG" if index % 2 else "JPEG")
        others = ("Another caption.",) if index == 1 else ()
        return CaptionedPicture(buffer.getvalue(), f"Caption {index}, with ümlaut.", f"row {index}", others)


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_what_is_written_is_read_as_the_same_data(format: str, tmp_path: Path) -> None:
    """Three shards of 10, 10 and 5 rows, one row left out: bytes and captions come back, in order."""
    out = tmp_path / "shards"
    report = convert(Rows, out, format=format, rows=10)
    assert (report.rows, report.skipped, report.shards) == (24, 1, 3)
    assert json.loads((out / "skipped.jsonl").read_text())["name"] == "row 3"
    expected = [Rows()[i] for i in range(25) if i != 3]
    found = list(open_source(out))
    assert len(found) == 24
    for mine, its in zip(found, expected, strict=True):
        assert isinstance(mine, CaptionedPicture) and isinstance(its, CaptionedPicture)
        assert mine.texts == its.texts
        if isinstance(its.image, bytes):
            assert mine.image == its.image
        else:
            assert mine.picture().tobytes() == its.picture().tobytes()
    each = named_source(str(out))  # a row for each caption
    assert len(each) == 25


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_a_stopped_command_goes_on_to_the_same_bytes(format: str, tmp_path: Path) -> None:
    """By works that went through pickle, the last shard first; a full disk leaves the others whole."""
    whole = tmp_path / "whole"
    convert(Rows, whole, format=format, rows=10)
    out = tmp_path / "out"
    work = pickle.loads(pickle.dumps(ConvertWork(Rows, str(out), 25, 10, format, True)))
    work.open()
    assert work.do(2) == 5
    (out / "convert.json").write_bytes((whole / "convert.json").read_bytes())
    with file_limit(1500), pytest.raises(LongalignError, match=r"Cannot write .*00000"):
        convert(Rows, out, format=format, rows=10)
    done: list[int] = []
    convert(Rows, out, format=format, rows=10, on_rows=done.append)
    assert done == [10, 10]
    for file in whole.rglob("*"):
        if file.is_file():
            assert (out / file.relative_to(whole)).read_bytes() == file.read_bytes(), file
    with pytest.raises(LongalignError, match="shards of other data or settings"):
        convert(Rows, out, format=format, rows=9)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").touch()
    with pytest.raises(LongalignError, match="other files"):
        convert(Rows, tmp_path / "other", format=format)
    with pytest.raises(LongalignError, match="one of webdataset, parquet"):
        convert(Rows, tmp_path / "x", format="zip")


def test_tars_are_plain(tmp_path: Path) -> None:
    """Keys with a picture and a text, as other readers of WebDataset expect; `datasets` finds its features."""
    convert(Rows, tmp_path / "t", rows=25)
    with tarfile.open(tmp_path / "t/00000.tar") as archive:
        names = archive.getnames()
    assert names[:4] == ["000000000.jpg", "000000000.txt", "000000001.png", "000000001.json"]
    convert(Rows, tmp_path / "p", rows=25, format="parquet")
    import pyarrow.parquet

    told = pyarrow.parquet.read_schema(tmp_path / "p/00000.parquet").metadata
    assert json.loads(told[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}


class Twice(Source):
    """Rows 0 and 3 have the same bytes; row 4 is row 0 as JPEG, row 5 smaller; 1 and 2 are others; 6 is broken."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        from longalign.stickers.world import render, scene

        image = render(scene({3: 0, 4: 0, 5: 0}.get(index, index), objects=(5, 5)))
        if index == 5:
            image = image.resize((72, 72))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG" if index == 4 else "PNG", quality=80)
        data = b"broken" if index == 6 else buffer.getvalue()
        return CaptionedPicture(data, "A caption.", f"row {index}")


def test_pictures_that_occur_more_than_once(tmp_path: Path) -> None:
    """The same bytes: rows 0 and 3. By looks: rows 4 and 5, too, and not the others. Hashes are kept."""
    found = find_duplicates(Twice)
    assert (found.groups, found.extra, found.failed) == ([Group([0, 3], True)], 1, 0)
    alike = find_duplicates(Twice, near=6, folder=tmp_path)
    assert (alike.groups, alike.extra, alike.failed) == ([Group([0, 3, 4, 5], False)], 3, 1)
    done: list[int] = []
    assert find_duplicates(Twice, near=6, folder=tmp_path, on_rows=done.append).groups == alike.groups
    assert not done
    with pytest.raises(LongalignError, match="from 0 to 15 bits"):
        find_duplicates(Twice, near=16)


def test_near_hashes_against_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 random hashes, some with a few bits turned: the groups are those of comparing each pair."""
    from longalign.data.duplicates import _groups, _joined

    rng = np.random.default_rng(0)
    looks = rng.integers(0, 2**63, 300, np.uint64)
    for i in range(100, 200):
        for bit in rng.choice(64, rng.integers(1, 8), replace=False):
            looks[i] ^= np.uint64(1) << np.uint64(bit)
        looks[i] ^= looks[i - 100] ^ looks[i]  # a copy of an earlier one …
        for bit in rng.choice(64, i % 8, replace=False):
            looks[i] ^= np.uint64(1) << np.uint64(bit)  # … with 0 to 7 bits turned
    near = 4
    groups = [g.tolist() for g in _groups(_joined(np.arange(300), looks, near))]
    distance = np.bitwise_count(looks[:, None] ^ looks[None])
    expected, seen = [], set()
    for i in range(300):
        if i in seen:
            continue
        members, new = {i}, {i}
        while new:
            new = {int(j) for k in new for j in np.flatnonzero(distance[k] <= near)} - members
            members |= new
        seen |= members
        if len(members) > 1:
            expected.append(sorted(members))
    assert groups == expected and len(groups) == sum(i % 8 <= near for i in range(100, 200))


def test_the_commands(tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    out = tmp_path / "shards"
    assert "6 rows in 2 shards" in run("data", "convert", "stickers:6", "--out", out, "--rows", 4)
    told = json.loads(run("data", "duplicates", out, "--json"))
    assert told == {"rows": 6, "failed": 0, "extra": 0, "groups": []}
    said = run("data", "duplicates", out, "--near", 15, "--out", tmp_path / "twice")
    assert (tmp_path / "twice/duplicates.jsonl").is_file() and "report:" in said
