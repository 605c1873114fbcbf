"""Checkpoints as files: no pickle, whole or not there, the last ones kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from longalign.errors import LongalignError
from longalign.training.checkpoint import (
    newest_checkpoint,
    read_parts,
    read_state,
    write_checkpoint,
)

PARTS = {"modules": {"a.b": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3)}, "empty": {}}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """A transposed tensor, a scalar and an empty part, with the state beside them; no file is a pickle."""
    path = write_checkpoint(tmp_path / "c", 7, PARTS, {"skipped": 2}, keep=1)
    assert sorted(p.name for p in path.iterdir()) == ["modules.safetensors", "state.json"]
    state, parts = read_state(path), read_parts(path)
    assert (state["step"], state["skipped"]) == (7, 2)
    assert parts.keys() == {"modules"}
    assert all(torch.equal(parts["modules"][k], t) for k, t in PARTS["modules"].items())
    assert newest_checkpoint(tmp_path / "c") == path


def test_the_last_ones_stay_and_a_course_given_up_goes(tmp_path: Path) -> None:
    """After 2, 4, 6, 8 with two kept, 6 and 8 stay; a run that went on from 6 writes 7, and 8 goes."""
    for step in (2, 4, 6, 8):
        write_checkpoint(tmp_path, step, PARTS, {}, keep=2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000006", "step-00000008"]
    write_checkpoint(tmp_path, 7, PARTS, {}, keep=2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000006", "step-00000007"]


@pytest.mark.parametrize("spoil", ["cut", "flip", "gone", "state", "text", "list"])
def test_broken_ones_are_noticed(tmp_path: Path, spoil: str) -> None:
    path = write_checkpoint(tmp_path, 1, PARTS, {}, keep=2)
    tensors, state = path / "modules.safetensors", path / "state.json"
    data = tensors.read_bytes()
    if spoil == "cut":
        tensors.write_bytes(data[:-1])
    elif spoil == "flip":
        tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif spoil == "gone":
        tensors.unlink()
    elif spoil == "state":
        state.unlink()
    else:
        state.write_text({"text": "{", "list": "[1]"}[spoil])
    with pytest.raises(LongalignError, match="step-00000001 is broken"):
        read_state(path)
    with pytest.warns(UserWarning, match="is broken"):
        assert newest_checkpoint(tmp_path) is None


def test_there_may_be_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nowhere") is None


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LongalignError, match="Cannot write the checkpoint"):
        write_checkpoint(tmp_path / "file", 1, PARTS, {}, keep=1)
