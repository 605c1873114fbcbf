"""`train.shard: fsdp`: two processes that each hold half of the frozen weights train what one process trains."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sharded_run
import torch
from two_processes import two

from longalign.errors import LongalignError
from longalign.safe_files import read_tensors
from longalign.training.checkpoint import read_parts
from longalign.training.sharding import shard

SCRIPT = sharded_run.__file__


def metrics(out: Path) -> list[dict[str, float]]:
    """Lines of a run without times."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    left_out = ("kind", "seconds", "samples_per_s")
    return [{k: v for k, v in row.items() if k not in left_out} for row in rows]


@pytest.mark.slow  # six more interpreters that load torch
def test_sharded_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """Two steps and an evaluation, of captions of other lengths in each process; also resumed from step 1.

    The model is called a different number of times by each process: held-out rows are 3 and 2, and so are prompts 2
    and 1. Weights, moments, the average and the saved LoRA equal those of one process without sharding.
    """
    run = subprocess.run(
        [sys.executable, SCRIPT, str(tmp_path / "one"), "2", "none"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    told = [
        json.loads(line.splitlines()[-1])
        for line in two(SCRIPT, str(tmp_path / "two"), "2", "fsdp", timeout_s=300)
    ]
    for process in told:  # some small tensors cannot be halved
        assert process["here"] < 0.6 * process["whole"]
    assert sum(process["here"] for process in told) >= told[0]["whole"]
    one, both = (read_parts(tmp_path / name / "checkpoints/step-00000002") for name in ("one", "two"))
    assert one["ema"] and one["optimizer"]
    for part in ("modules", "optimizer", "ema"):
        assert one[part].keys() == both[part].keys()
        for name, tensor in one[part].items():
            torch.testing.assert_close(both[part][name], tensor, rtol=1e-4, atol=1e-6)
    saved, expected = (
        read_tensors(tmp_path / name / "model/pytorch_lora_weights.safetensors")[0] for name in ("two", "one")
    )
    assert saved.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-4, atol=1e-6)
    for mine, its in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        assert mine == pytest.approx(its, rel=1e-3, abs=1e-5, nan_ok=True)
    # Gone on with after step 1, as two machines do it: it ends bit for bit as it ended before.
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "two", again)
    shutil.rmtree(again / "checkpoints/step-00000002")
    shutil.rmtree(again / "model")
    two(SCRIPT, str(again), "2", "fsdp", timeout_s=300, machines=True)
    resumed = read_parts(again / "checkpoints/step-00000002")
    for part in ("modules", "optimizer", "ema"):
        assert all(torch.equal(resumed[part][name], tensor) for name, tensor in both[part].items())


def test_what_cannot_be_sharded_is_refused() -> None:
    """Objectives without a large model, all weights trained, and settings that do not go with it."""

    class Other:
        module: torch.nn.Module | None = None

        def large_module(self) -> torch.nn.Module | None:
            return self.module

    with pytest.raises(LongalignError, match="Other has no large frozen model"):
        shard(Other(), None)  # type: ignore[arg-type]
    Other.module = torch.nn.Linear(2, 2)
    with pytest.raises(LongalignError, match="take tune lora, or shard none"):
        shard(Other(), None)  # type: ignore[arg-type]
    for wrong, says in (
        ("train.compile=true", "goes with shard none"),
        ("train.micro_batch_size=auto", "needs a micro"),
    ):
        with pytest.raises(LongalignError, match=says):
            sharded_run.recipe(1, "fsdp", [wrong])
