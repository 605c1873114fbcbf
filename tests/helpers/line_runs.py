"""Runs of the objective `line`, compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from longalign.training.checkpoint import newest_checkpoint, read_parts

NOISY = {"train__steps": 9, "line__dropout": 0.5, "train__ema": 0.9, "train__schedule": "cosine"}


def rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("seconds", "samples_per_s")} for r in lines]


def same_end(one: Path, other: Path) -> bool:
    """Are the last checkpoints equal, bit for bit, with all that they hold?"""
    found = [newest_checkpoint(folder / "checkpoints") for folder in (one, other)]
    assert found[0] is not None and found[1] is not None and found[0].name == found[1].name
    a, b = (read_parts(path) for path in found)
    assert {part: set(tensors) for part, tensors in a.items()} == {part: set(t) for part, t in b.items()}
    return all(torch.equal(a[part][name], b[part][name]) for part in a for name in a[part])
