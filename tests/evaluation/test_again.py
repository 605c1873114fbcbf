"""The same folder again: with other options, another machine's weights, other pictures or prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from longalign.errors import LongalignError
from longalign.evaluation.evaluate import EvaluationJob
from longalign.evaluation.merging import merge_shards
from longalign.evaluation.parts import FolderParts
from longalign.evaluation.processes import Shard
from longalign.evaluation.result import Evaluation
from longalign.evaluation.settings import EvaluateConfig
from longalign.metrics import METRICS
from longalign.metrics.metric import Metric, MetricColumn, PictureBatch, Tools
from longalign.runs import RunFolder

FREE = ("metrics", "options")
PROMPTS = 5


@dataclass(frozen=True)
class RedOptions:
    factor: float = 1
    batch_size: int = 1


class Red(Metric):
    """factor × the red of the first pixel. Its file of weights may be missing."""

    name = "red"
    columns = (MetricColumn("red", "red", ".2f", "higher"),)
    Options = RedOptions
    here = True

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        if not self.here:
            raise LongalignError("red: download it")

    def measure(self, batch: PictureBatch) -> Sequence[float]:
        return [self.options.factor * image.getpixel((0, 0))[0] for image in batch.images]


class Green(Red):
    """The same of another name, which is always at hand."""

    name = "green"
    columns = (MetricColumn("green", "green", ".2f", "higher"),)
    here = True


@pytest.fixture(autouse=True)
def metrics() -> Iterator[None]:
    METRICS["red"], METRICS["green"] = Red, Green
    yield
    Red.here = True
    METRICS.pop("red")
    METRICS.pop("green")


@pytest.fixture
def config(tmp_path: Path) -> EvaluateConfig:
    """Five pictures of red 1 … 5 in blocks of two: the mean is 3."""
    rows = [{"id": f"{k}", "prompt": f"Picture {k}."} for k in range(PROMPTS)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "f").mkdir()
    for k in range(PROMPTS):
        Image.new("RGB", (8, 8), (k + 1, 0, 0)).save(tmp_path / "f" / f"{k}.png")
    return EvaluateConfig(
        "green,red", prompts=str(tmp_path / "p.jsonl"), batch_size=2, samples=100, device="cpu"
    )


def evaluated(folder: Path, config: EvaluateConfig, shard: Shard | None = None) -> Evaluation | None:
    """What the command does. A shard has no result."""
    job = EvaluationJob([str(folder.parent / "f")], config)
    run = RunFolder.resume(folder, {"command": "evaluate", **job.settings}, free=FREE)
    if shard is None:
        return job.run(run)
    job.prepare(FolderParts(folder / "parts"))
    job.measure(job.all_sets(run), FolderParts(folder / "parts"), shard)
    return None


def value(found: Evaluation | None, key: str = "red") -> float:
    assert found is not None
    return found.runs[0].values[key]


def test_a_metric_with_other_options_is_measured_again(tmp_path: Path, config: EvaluateConfig) -> None:
    """Twice the red is 6 on average, and the values of the first call are in nobody's way. Green is left alone."""
    assert value(evaluated(tmp_path / "out", config)) == 3
    twice = replace(config, options={"red.factor": 2})
    found = evaluated(tmp_path / "out", twice)
    assert value(found) == 6 and value(found, "green") == 3
    assert found is not None and [p.metrics for p in found.passes] == [["green"], ["red"]]
    faster = replace(twice, options={"red.factor": 2, "red.batch_size": 7})
    found = evaluated(tmp_path / "out", faster)
    assert found is not None and [p.name for p in found.passes] == ["pass-0", "pass-1"]
    assert value(evaluated(tmp_path / "out", config)) == 3, "and back again"


def test_a_metric_that_could_not_be_loaded_is_measured_when_it_can(
    tmp_path: Path, config: EvaluateConfig
) -> None:
    """The message says what to download; then the same command has to compute it, and nothing else."""
    Red.here = False
    for _ in range(2):
        found = evaluated(tmp_path / "out", config)
        assert found is not None and found.dropped == {"red": "download it"} and value(found, "green") == 3
    before = (tmp_path / "out/parts/pass-0/000000.jsonl").stat().st_mtime_ns
    Red.here = True
    found = evaluated(tmp_path / "out", config)
    assert value(found) == 3 and found is not None and not found.dropped
    assert (tmp_path / "out/parts/pass-0/000000.jsonl").stat().st_mtime_ns == before


def test_a_shard_that_lacked_a_metric_is_completed(tmp_path: Path, config: EvaluateConfig) -> None:
    """Red is at hand on the second machine alone. Joined, no picture goes without it."""
    for k, here in enumerate((False, True)):
        Red.here = here
        evaluated(tmp_path / f"shard-{k}", config, Shard(k, 2))
    names, joined = merge_shards([tmp_path / "shard-0", tmp_path / "shard-1"], tmp_path / "whole")
    job = EvaluationJob(names, joined)
    run = RunFolder.resume(tmp_path / "whole", {"command": "evaluate", **job.settings}, free=FREE)
    found = job.run(run)
    assert value(found) == 3 and len(found.runs[0].numbers["red"]["red"]) == PROMPTS


@pytest.mark.parametrize("change", ["more", "other", "prompts"])
def test_other_pictures_or_prompts_are_refused(tmp_path: Path, config: EvaluateConfig, change: str) -> None:
    """Finished blocks are of the pictures that were there. One more, another one, another text."""
    (tmp_path / "f/4.png").unlink()
    evaluated(tmp_path / "out", config)
    if change == "more":
        Image.new("RGB", (8, 8), (5, 0, 0)).save(tmp_path / "f/4.png")
    elif change == "other":
        Image.effect_noise((8, 8), 50).convert("RGB").save(tmp_path / "f/0.png")
    else:
        text = (tmp_path / "p.jsonl").read_text()
        (tmp_path / "p.jsonl").write_text(text.replace("Picture 4", "Painting 4"))
    what = "the prompts" if change == "prompts" else "the pictures of f"
    with pytest.raises(LongalignError, match=rf"was begun with others; {what} changed.*--overwrite"):
        evaluated(tmp_path / "out", config)


def test_shards_of_other_pictures_are_not_joined(tmp_path: Path, config: EvaluateConfig) -> None:
    evaluated(tmp_path / "shard-0", config, Shard(0, 2))
    Image.effect_noise((8, 8), 50).convert("RGB").save(tmp_path / "f/0.png")
    evaluated(tmp_path / "shard-1", config, Shard(1, 2))
    with pytest.raises(LongalignError, match="no shards of one evaluation: the pictures of f differ"):
        merge_shards([tmp_path / "shard-0", tmp_path / "shard-1"], tmp_path / "whole")


def test_an_embedded_model_judges_no_other_prompts_unasked(tmp_path: Path, config: EvaluateConfig) -> None:
    """Denscore's default knows stickers alone, so its numbers of other pictures would mean nothing."""
    found = evaluated(tmp_path / "out", replace(config, metrics="red,denscore"))
    assert found is not None and "know sticker pictures alone" in found.dropped["denscore"]
    with pytest.raises(
        LongalignError,
        match=r"^no metric can be computed\. oracle: .*; denscore: .* name a preference model with --model",
    ):
        EvaluationJob([str(tmp_path / "f")], replace(config, metrics="oracle,denscore"))
    assert EvaluationJob([str(tmp_path / "f")], replace(config, metrics="denscore", model="stickers")).metrics
