"""`score --data` and `decompose` in blocks: the same bytes however often they are stopped."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from file_limit import file_limit
from tiny_clip import tiny_model

from longalign.errors import Interrupted, LongalignError
from longalign.preference import PreferenceModel
from longalign.preference.decomposition import Decomposition, fit_prompts
from longalign.scoring.blocks import ScoreWork
from longalign.scoring.data import Failure, read_pairs
from longalign.scoring.data_set import score_data
from longalign.scoring.decompose import fit_blocks, fit_stream
from longalign.scoring.outcome import Outcome, ScoreConfig
from longalign.scoring.parts import part_path, read_part
from longalign.scoring.prompt_blocks import FitWork, Texts
from longalign.scoring.stream import Scored, score_pairs
from longalign.stickers.files import render_folder

CONFIG = ScoreConfig(worst=3, batch_size=2)
ROWS = 11  # of the data: blocks of 4, 4 and 3


@pytest.fixture(scope="module")
def model() -> PreferenceModel:
    model = tiny_model()
    model.decomposition = fit_prompts(model, ["A fox is here.", "The background is navy."])
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten scenes; the picture of the seventh row is missing."""
    folder = tmp_path_factory.mktemp("data")
    render_folder(folder, ROWS - 1, split="test")
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    lines.insert(6, json.dumps({"file_name": "missing.png", "text": "A fox."}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.fixture(scope="module")
def whole(model: PreferenceModel, data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    return run(model, data, tmp_path_factory.mktemp("whole")).folder or Path()


def run(
    model: PreferenceModel,
    data: str,
    out: Path | None,
    config: ScoreConfig = CONFIG,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Outcome:
    return score_data(data, config, model=model, block_rows=4, out=out, on_rows=on_rows)


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_scores_are_those_of_a_stream(model: PreferenceModel, data: str, whole: Path) -> None:
    """The parts have 4, 4 and 3 rows; their numbers are those of `score_pairs`; a failure keeps its place."""
    parts = sorted((whole / "scores").iterdir())
    assert [pyarrow.parquet.read_metadata(p).num_rows for p in parts] == [4, 4, 3]
    found = [row for part in parts for row in read_part(part)]
    stream = list(score_pairs(model, read_pairs(data), batch_size=2))
    assert [type(row) for row in found] == [type(row) for row in stream]
    assert isinstance(found[6], Failure) and found[6].reason == "no such image file"
    for mine, its in zip(found, stream, strict=True):
        if isinstance(mine, Scored) and isinstance(its, Scored):
            assert mine.scores == pytest.approx(dict(its.scores), abs=1e-4)
            assert [s.text for s in mine.segments] == [s.text for s in its.segments]
            assert (mine.pair.name, mine.pair.text, mine.worst) == (its.pair.name, its.pair.text, its.worst)
    worst = [json.loads(line) for line in (whole / "worst.jsonl").read_text().splitlines()]
    values = sorted(row.values[row.worst] for row in found if isinstance(row, Scored))
    assert [row["score"] for row in worst] == values[:3]
    assert (whole / "report.html").read_text().count("data:image") == 3  # the lowest, with their pictures


@pytest.mark.parametrize("relative", [False, True])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    model: PreferenceModel, data: str, tmp_path: Path, relative: bool
) -> None:
    """Ctrl-C after the first block of each pass, as often as it takes."""
    config = ScoreConfig(worst=3, batch_size=2, relative=relative)
    expected = files(run(model, data, tmp_path / "whole", config).folder or Path())
    stops = 0

    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    while True:
        try:
            run(model, data, tmp_path / "stopped", config, on_rows=stop)
            break
        except Interrupted as told:
            stops += 1
            assert "nothing was scored yet" in str(told) or "goes on with the rest" in str(told)
    assert stops == (6 if relative else 3)
    assert files(tmp_path / "stopped") == expected
    if relative:
        of_pairs = list(score_pairs(model, read_pairs(data), relative=True))
        rows = [r for p in sorted((tmp_path / "stopped/scores").iterdir()) for r in read_part(p)]
        for mine, its in zip(rows, of_pairs, strict=True):
            if isinstance(mine, Scored) and isinstance(its, Scored):
                assert mine.relative == pytest.approx(its.relative, abs=1e-4)


def test_blocks_are_work_that_can_be_sent(
    model: PreferenceModel, data: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through pickle, and from the last block to the first."""
    monkeypatch.setattr(PreferenceModel, "from_pretrained", lambda *_, **__: model)
    work = ScoreWork(data, ROWS, CONFIG, str(tmp_path), model, 4)
    sent = pickle.loads(pickle.dumps(work))
    assert sent.model is None
    sent.open()
    assert [sent.do(block) for block in (2, 1, 0)] == [3, 4, 4]
    for block in range(3):
        assert part_path(tmp_path, block).read_bytes() == part_path(whole / "scores", block).read_bytes()


def test_another_run_is_refused_and_a_finished_one_is_left(
    model: PreferenceModel, data: str, whole: Path
) -> None:
    before = files(whole)
    with pytest.raises(LongalignError, match="they differ in batch_size"):
        run(model, data, whole, ScoreConfig(worst=3, batch_size=3))
    done: list[int] = []
    run(model, data, whole, on_rows=done.append)
    assert not done and files(whole) == before


def test_a_damaged_part_and_a_full_disk(
    model: PreferenceModel, data: str, whole: Path, tmp_path: Path
) -> None:
    """Which file is damaged is said; without it the same call makes it again. A full disk leaves what is whole."""
    out = tmp_path / "run"
    run(model, data, out)
    part = part_path(out / "scores", 1)
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(
        LongalignError, match=r"00001\.parquet: cannot be read .* Remove it: the same command"
    ):
        run(model, data, out)
    part.unlink()
    with file_limit(2000), pytest.raises(LongalignError, match=r"Cannot write .*00001\.parquet"):
        run(model, data, out)
    assert sorted(f.name for f in (out / "scores").iterdir()) == ["00000.parquet", "00002.parquet"]
    run(model, data, out)
    assert files(out / "scores") == files(whole / "scores")


def test_without_out_nothing_is_kept(
    model: PreferenceModel, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    done = run(model, data, None)
    assert (done.summary.scored, done.summary.failed, done.folder) == (10, 1, None)
    assert not list(tmp_path.iterdir())


def texts() -> list[str]:
    """2,050 prompts: blocks of 1,024, 1,024 and 2."""
    return [f"A fox. Number {i}." for i in range(2050)]


def test_a_decomposition_in_blocks(model: PreferenceModel, tmp_path: Path) -> None:
    """Equal to one pass over the stream, to the bit; blocks that are there are not done again."""
    expected, sample = fit_stream(model, texts(), sample=5)
    done: list[int] = []

    def fit(load: Callable[[], PreferenceModel]) -> tuple[Decomposition, list[str]]:
        return fit_blocks(
            Texts(texts),
            lambda n: FitWork(Texts(texts), n, str(tmp_path), load),
            sample=5,
            on_step=done.append,
        )

    found, mine = fit(lambda: model)
    assert torch.equal(found.total, expected.total)
    assert (found.count, found.source, mine) == (2050, expected.source, sample)
    (tmp_path / "000001.safetensors").unlink()
    again, _ = fit(lambda: model)
    assert torch.equal(again.total, expected.total) and done == [1024, 1024, 2, 1024]
    with pytest.raises(LongalignError, match="fewer than the 3,000 prompts"):
        work = FitWork(Texts(texts), 3000, str(tmp_path / "more"), lambda: model)
        work.open()
        work.do(2)
