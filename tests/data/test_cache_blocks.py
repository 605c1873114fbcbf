"""The blocks of a cache: in any order, killed, on a full disk, merged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_cache
import tiny
import torch
from captioned_files import Some, imagefolder_jsonl
from file_limit import file_limit
from picture_objectives import accelerator, gradients, make
from small_cache import LENGTH, Long, builder, hashes
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.data.cache_merge import merge_caches
from longalign.data.cache_work import CacheWork
from longalign.data.cached import CachedPictures
from longalign.data.entries import CaptionedPicture
from longalign.data.text_states import TextSide
from longalign.errors import LongalignError
from longalign.objectives.pictures.supervised import SupervisedObjective

ROWS = 11  # four blocks


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "c"
    builder(out, tiny.tiny_sd15()).build(Long(ROWS))
    return out


def test_a_killed_command_goes_on_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    """Killed before block 1 has its part, before block 2 has its texts, and between the index and the padding.

    A block is three files, and cache.json is written first: once, and once more by a new command.
    """
    out = tmp_path / "c"
    files = [str(number) for number in (2 + 3 + 2, 1 + 3 + 1, 1 + 3 + 3 + 1)]
    done = subprocess.run(
        [sys.executable, small_cache.__file__, str(out), str(ROWS), *files],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == [f"{int(signal.SIGKILL)} 1"] * 3
    read: list[int] = []

    class Counted(Long):
        def __getitem__(self, index: int) -> Any:
            read.append(index)
            return super().__getitem__(index)

    builder(out, tiny.tiny_sd15()).build(Counted(ROWS))
    assert hashes(out) == hashes(whole)
    assert len(read) < ROWS  # blocks that are whole are not read again


def test_blocks_in_any_order_by_two_works(whole: Path, tmp_path: Path) -> None:
    """Two `CacheWork`s in turn, from the last block to the first; the driver joins."""
    out, pipe = tmp_path / "c", tiny.tiny_sd15()
    driver = builder(out, pipe)
    told = driver._begin(Long(ROWS), {"name": "the data"})
    works = [
        CacheWork(str(out), ROWS, 3, told["first"], Long(ROWS), builder(tmp_path / f"{i}", pipe).encoder)
        for i in range(2)
    ]
    for work in works:
        work.open()
    for block in reversed(range(works[0].blocks)):
        works[block % 2].do(block)
    assert (
        builder(out, pipe).build(Some(ROWS)).latents == 0
    )  # nothing is left to do, nor read: `Some` has other captions
    assert hashes(out) == hashes(whole)


def stopped(out: Path, pipe: Any, after: int = 7, **reading: Any) -> None:
    """A command that is stopped in a row."""

    class Breaks(Long):
        def __getitem__(self, index: int) -> Any:
            if index == after:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        builder(out, pipe).build(Breaks(ROWS), reading=reading)


def test_other_settings_do_not_go_on_with_finished_blocks(tmp_path: Path) -> None:
    """Read from another column: blocks of the stopped command say other captions. Its latents are taken."""
    out, pipe = tmp_path / "c", tiny.tiny_sd15()
    stopped(out, pipe, column="short")

    class Other(Long):
        def __getitem__(self, index: int) -> Any:
            found = super().__getitem__(index)
            return CaptionedPicture(found.image, f"Number {index}.", found.name)

    report = builder(out, pipe).build(Other(ROWS), reading={"column": "long"})
    assert (report.rows, report.latents, report.texts) == (ROWS, ROWS - 6, ROWS)
    assert len(set(CachedPictures(out).rows["text"].tolist())) == ROWS


def test_a_shard_that_is_gone_is_made_again(whole: Path, tmp_path: Path) -> None:
    """Of a stopped command: cut in the middle, the file is named; removed, its block is done again."""
    out, pipe = tmp_path / "c", tiny.tiny_sd15()
    stopped(out, pipe)
    shard = out / "texts" / "00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(
        LongalignError, match=r"texts/00001\.safetensors: .* remove it and run longalign cache again"
    ):
        builder(out, pipe)
    shard.unlink()
    builder(out, pipe).build(Long(ROWS))
    assert hashes(out) == hashes(whole)


def test_a_full_disk(tmp_path: Path) -> None:
    """A shard of 12 kB does not fit. The message names it, no part of it stays, and the same command goes on."""
    out, pipe = tmp_path / "c", tiny.tiny_sd15()
    made = builder(out, pipe, at_once=ROWS)
    with (
        file_limit(10_000),
        pytest.raises(LongalignError, match=r"Cannot write .*latents/00000\.safetensors"),
    ):
        made.build(Long(ROWS))
    assert not list(out.rglob("*.safetensors"))
    assert builder(out, pipe, at_once=ROWS).build(Long(ROWS)).rows == ROWS


def test_padding_of_a_model_that_comes_back(tmp_path: Path) -> None:
    """Text encoder A, then B, then A again: no caption is encoded for the cache, and the padding is A's."""
    out, pipe = tmp_path / "c", tiny.tiny_sd15()
    builder(out, pipe).build(Long(4))
    first = CachedPictures(out).padding
    weight = next(iter(pipe.text_encoder.parameters()))
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.5)
    builder(out, pipe).build(Long(4))
    with torch.no_grad():
        weight.copy_(kept)
    assert builder(out, pipe).build(Long(4)).texts == 0
    again = CachedPictures(out).padding
    assert first.own.keys() == again.own.keys() and len(first.own) > 1
    for shape, states in first.own.items():
        torch.testing.assert_close(again.own[shape], states, rtol=1e-4, atol=1e-5)


def halves(folder: Path, pipe: Any) -> list[Path]:
    """Rows 0 to 5 and 6 to 10 as caches of their own."""

    class Second(Long):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index + 6)

    builder(folder / "a", pipe).build(Long(6))
    builder(folder / "b", pipe).build(Second(5))
    return [folder / "a", folder / "b"]


def test_a_merged_cache_is_one_cache(whole: Path, tmp_path: Path) -> None:
    """The same rows, and the same loss and gradients of a training step, bit for bit. Also after folders move together.

    Blocks are cut at the same rows, so that nothing rounds differently.
    """
    pipe = tiny.tiny_sd15()
    parts = halves(tmp_path / "here", pipe)
    report = merge_caches(parts, tmp_path / "here" / "all")
    assert (report.caches, report.rows, report.twice) == (2, ROWS, 0)
    assert not list((tmp_path / "here" / "all").rglob("0*.safetensors"))
    (tmp_path / "here").rename(tmp_path / "there")
    found = []
    for folder in (whole, tmp_path / "there" / "all"):
        rows = CachedPictures(folder)
        assert rows.rows["row"].tolist() == list(range(ROWS))
        model = tiny.tiny_sd15()
        rows.check(model.vae, TextSide(model, "clip-cat", LENGTH), 16)
        objective = make(SupervisedObjective, model, rows)
        torch.manual_seed(2)
        loss = objective.backward(objective.collate([rows[i] for i in (10, 1, 6, 3)]), accelerator())["loss"]
        found.append((loss, *gradients(objective).values()))
    assert len(found[0]) == len(found[1]) > 2
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_rows_that_caches_have_in_common(tmp_path: Path) -> None:
    """A with itself and B: six rows twice; --unique leaves them out. Merges are merged, too."""
    pipe = tiny.tiny_sd15()
    a, b = halves(tmp_path, pipe)
    both = tmp_path / "both"
    merge_caches([a, b], both)
    arguments = ["cache", "merge", str(both), str(a), "--out"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "c"), "--json"], catch_exceptions=False)
    assert json.loads(done.stdout) == {"caches": 2, "rows": 17, "twice": 6}
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "d"), "--unique"], catch_exceptions=False)
    assert (
        "11 rows of 2 caches" in done.stdout and "rows that an earlier one equals: 6, left out" in done.stdout
    )
    many, few = CachedPictures(tmp_path / "c"), CachedPictures(tmp_path / "d")
    assert many.rows["row"].tolist() == list(range(17)) and len(few) == ROWS
    for i in range(6):
        assert torch.equal(many[i].image, many[11 + i].image)
    assert np.array_equal(few.rows, CachedPictures(both).rows)


def test_caches_that_cannot_be_merged(whole: Path, tmp_path: Path) -> None:
    pipe = tiny.tiny_sd15()
    builder(tmp_path / "b", pipe, stored="bfloat16").build(Long(2))
    builder(tmp_path / "p", pipe, "plain").build(Long(2))
    with torch.no_grad():
        next(iter(pipe.vae.encoder.parameters())).mul_(1.1)
    builder(tmp_path / "v", pipe).build(Long(2))
    for name, said in (("b", "stored bfloat16"), ("p", "strategy"), ("v", "another VAE")):
        with pytest.raises(LongalignError, match=said):
            merge_caches([whole, tmp_path / name], tmp_path / "out")
    with pytest.raises(LongalignError, match="already holds files"):
        merge_caches([whole], tmp_path / "b")
    merge_caches([whole], tmp_path / "out")
    with pytest.raises(LongalignError, match="is a merge of caches"):
        builder(tmp_path / "out", pipe)


def test_one_data_set_at_a_time(tmp_path: Path) -> None:
    data = str(imagefolder_jsonl(tmp_path / "data"))
    done = CliRunner().invoke(app, ["cache", data, data, "--out", str(tmp_path / "c")])
    assert isinstance(done.exception, LongalignError)
    assert "longalign cache merge joins caches" in str(done.exception)
