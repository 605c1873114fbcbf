"""Data sets and results by URL: in memory, and on a server that speaks S3."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from captioned_files import Some
from tiny_clip import tiny_model

from longalign.data.cache import CacheBuilder
from longalign.data.cached import CachedPictures
from longalign.data.convert import convert
from longalign.data.entries import CaptionedPicture
from longalign.data.sources import named_source, open_source
from longalign.data.text_states import TextSide
from longalign.errors import LongalignError
from longalign.paths import fetched, is_remote, path_of
from longalign.runs import RunFolder, atomic_write_text
from longalign.scoring.data_set import score_data
from longalign.scoring.outcome import ScoreConfig
from longalign.scoring.parts import read_part
from longalign.stickers.files import render_folder


def test_names_are_paths_or_urls(tmp_path: Path) -> None:
    """What typer makes of a URL is known again; a name with a colon is none."""
    assert path_of("runs/a:b") == Path("runs/a:b") and path_of("C:/data") == Path("C:/data")
    assert path_of(f"file://{tmp_path}/x") == tmp_path / "x"
    for name in ("memory://bucket/x.txt", Path("memory://bucket/x.txt")):
        found = path_of(name)
        assert is_remote(found) and str(found) == "memory://bucket/x.txt" and path_of(found) is found
    with pytest.raises(LongalignError, match="nowhere://x"):
        path_of("nowhere://x")


def copied(folder: Path, url: str) -> str:
    """All files of a folder, put at a URL."""
    for file in folder.rglob("*"):
        if file.is_file():
            target = path_of(url) / str(file.relative_to(folder))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six scenes as PNG with metadata.jsonl."""
    render_folder(tmp_path / "scenes", 6, split="test")
    return tmp_path / "scenes"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket on a server of this machine."""
    pytest.importorskip("s3fs")
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    told = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server = server_of(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        import s3fs

        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place."""
    base = "memory://bucket" if request.param == "memory" else request.getfixturevalue("s3")
    return f"{base}/{tmp_path.name}"


def test_sources_are_read_as_from_a_disk(folder: Path, url: str, tmp_path: Path) -> None:
    """A list with pictures beside it, tars, parquet, and pictures with texts beside them."""
    places = {"list": folder}
    for format in ("webdataset", "parquet"):
        convert(lambda: named_source(str(folder)), tmp_path / format, format=format, rows=4)
        places[format] = tmp_path / format
    texts = tmp_path / "texts"
    texts.mkdir()
    for entry in open_source(folder):
        assert isinstance(entry, CaptionedPicture)
        (texts / entry.name).write_bytes(entry.content())
        (texts / entry.name).with_suffix(".txt").write_text(entry.text)
    places["texts"] = texts
    for name, place in places.items():
        local, remote = open_source(place), open_source(copied(place, f"{url}/{name}"))
        assert len(local) == len(remote) == 6
        for mine, its in zip(remote, local, strict=True):
            assert isinstance(mine, CaptionedPicture) and isinstance(its, CaptionedPicture)
            assert (mine.content(), mine.text) == (its.content(), its.text)
            assert mine.picture().size == (96, 96)
    missing = path_of(url) / "list" / "metadata.jsonl"
    missing.write_text(missing.read_text().replace("000003.png", "none.png"))
    entry = open_source(f"{url}/list")[3]
    assert isinstance(entry, CaptionedPicture)
    with pytest.raises(LongalignError, match="no such image file"):
        entry.content()
    with pytest.raises(LongalignError, match="no such file or folder"):
        open_source(f"{url}/nothing")


def test_scores_and_shards_are_written_to_a_url(folder: Path, url: str, tmp_path: Path) -> None:
    """Equal to those on a disk, and gone on with; shards by `convert`, too."""
    model, config = tiny_model(), ScoreConfig(worst=2)
    data = copied(folder, f"{url}/data")
    here = score_data(str(folder), config, model=model, block_rows=4, out=tmp_path / "run").folder
    there = score_data(data, config, model=model, block_rows=4, out=f"{url}/run").folder
    assert here is not None and there is not None and is_remote(there)
    for part in ("00000.parquet", "00001.parquet"):
        mine, its = (list(read_part(folder / "scores" / part)) for folder in (there, here))
        assert [(r.scores, r.segments) for r in mine] == [(r.scores, r.segments) for r in its]
    (there / "scores/00001.parquet").unlink()
    done: list[int] = []
    score_data(data, config, model=model, block_rows=4, out=f"{url}/run", on_rows=done.append)
    assert done == [2] and "<html" in (there / "report.html").read_text()
    report = convert(lambda: named_source(data), path_of(f"{url}/tars"), rows=4)
    assert (report.rows, report.shards) == (6, 2) and len(open_source(f"{url}/tars")) == 6
    with pytest.raises(LongalignError, match="added one by one"):
        RunFolder(f"{url}/lines", {}).log({})


def test_a_cache_of_a_url_is_read_shard_by_shard(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written to a URL and to a disk, row by row the same. There is room for a few kilobytes of shards alone."""
    import torch

    monkeypatch.setenv("LONGALIGN_FETCHED", str(tmp_path / "fetched"))
    monkeypatch.setenv("LONGALIGN_FETCHED_GB", "0.000004")
    pipe = tiny.tiny_sd15()

    def built(out: Any) -> CachedPictures:
        side = TextSide(pipe, "clip-cat", 24)
        CacheBuilder(out, pipe, side, 16, stored="float32", at_once=2).build(Some(6))
        return CachedPictures(out)

    local, remote = built(tmp_path / "c"), built(path_of(f"{url}/c"))
    assert len(remote) == 6
    for i in range(6):
        assert torch.equal(remote[i].image, local[i].image) and torch.equal(
            remote[i].text.own, local[i].text.own
        )
    sizes = [f.stat().st_size for f in (tmp_path / "fetched").iterdir()]
    assert sum(sizes) - max(sizes) <= 4000


def test_files_are_fetched_once_and_anew_when_they_change(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGALIGN_FETCHED", str(tmp_path))
    path = path_of(f"{url}/file.json")
    atomic_write_text(path, json.dumps([1]))
    first = fetched(path)
    assert json.loads(first.read_text()) == [1] and fetched(path) == first
    atomic_write_text(path, json.dumps([1, 2]))
    assert json.loads(fetched(path).read_text()) == [1, 2]
    with pytest.raises(LongalignError, match="cannot be fetched"):
        fetched(path.with_name("none.json"))
