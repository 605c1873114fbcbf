"""Checkpoints: folders of safetensors and JSON, without pickles. A checkpoint is complete or does not exist.

checkpoints/step-00000100/
    modules.safetensors    what is trained, and its buffers
    optimizer.safetensors  AdamW's moments        ema.safetensors, objective.safetensors where there are any
    state.json             step and counters, and size and CRC-32 of each file
checkpoints/best-00000050/ the same without the optimiser: the weights of the best evaluation (`train.best`), averaged
                           where there is an average; it stays as long as a checkpoint refers to it
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from longalign.errors import LongalignError
from longalign.runs import atomic_folder, atomic_path, atomic_write_text, json_line

_NAME = re.compile(r"step-(\d{8,})")
_BEST = re.compile(r"best-(\d{8,})")
_LEFT = re.compile(r"\.(?:step|best)-\d{8,}-[0-9a-f]{8}")


def write_checkpoint(
    folder: Path,
    step: int,
    parts: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write ``<folder>/step-<step>`` and remove all but the last `keep` checkpoints up to it.

    The files are flushed in a temporary folder, which then gets its name. Later
    checkpoints than this one are removed too: a run that resumed from an earlier checkpoint has left them behind.

    Raises:
        LongalignError: the disk cannot be written; earlier checkpoints stay as they are.
    """
    final = _write(folder / f"step-{step:08d}", step, parts, state)
    every = _steps(folder)
    for other in [s for s in every if s > step] + [s for s in every if s <= step][:-keep]:
        shutil.rmtree(every[other], ignore_errors=True)
    _tidy(folder)
    return final


def write_best(folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """Write ``<folder>/best-<step>``; remove earlier ones that no checkpoint refers to.

    Raises:
        LongalignError: the disk cannot be written; earlier files stay as they are.
    """
    final = _write(best_path(folder, step), step, parts, {})
    _tidy(folder, but=step)
    return final


def best_path(folder: Path, step: int) -> Path:
    """The folder of the best weights of a step."""
    return folder / f"best-{step:08d}"


def _write(
    final: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    try:
        with atomic_folder(final) as temporary:
            files = {}
            for name, tensors in parts.items():
                if tensors:
                    path = temporary / f"{name}.safetensors"
                    with atomic_path(path) as writing:
                        save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, writing)
                    files[path.name] = {"bytes": path.stat().st_size, "crc32": _crc32(path)}
            atomic_write_text(temporary / "state.json", json_line({"step": step, **state, "files": files}))
        _flush(final.parent)
    except (OSError, SafetensorError, LongalignError) as error:
        raise LongalignError(
            f"Cannot write the checkpoint {final}: {error}. Free some space or choose another --out; the same command "
            "goes on from the checkpoint before."
        ) from error
    return final


def _tidy(folder: Path, but: int | None = None) -> None:
    """Remove best weights that no checkpoint refers to; a run may resume from any checkpoint and needs those."""
    used = {but, *map(_best_step, _steps(folder).values())}
    for path in folder.glob("best-*"):
        if (match := _BEST.fullmatch(path.name)) and int(match[1]) not in used:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".*"):  # left by a process that was killed while it wrote
        if _LEFT.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _best_step(path: Path) -> int | None:
    """The step of the best weights that a checkpoint refers to."""
    try:
        best = json.loads((path / "state.json").read_text(encoding="utf-8")).get("best")
        return None if best is None else int(best["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def newest_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint in `folder`. A warning names each broken one after it."""
    for path in reversed(_steps(folder).values()):
        if (broken := _broken(path)) is None:
            return path
        warnings.warn(f"{broken}; taking the one before", stacklevel=2)
    return None


def read_state(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` was given as `state`, with ``step`` and ``files``, after checking every file.

    Raises:
        LongalignError: the checkpoint is broken.
    """
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        for name, file in state["files"].items():
            if (path / name).stat().st_size != file["bytes"] or _crc32(path / name) != file["crc32"]:
                raise ValueError(f"{name} is not what was written")
        int(state["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LongalignError(f"checkpoint {path} is broken ({error})") from error
    return state


def _broken(path: Path) -> str | None:
    try:
        read_state(path)
        if (best := _best_step(path)) is not None:
            read_state(best_path(path.parent, best))
    except LongalignError as error:
        return str(error)
    return None


def read_parts(path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of every part, on the CPU."""
    return {file.stem: load_file(file) for file in path.glob("*.safetensors")}


def _steps(folder: Path) -> dict[int, Path]:
    """Step → checkpoint, in order."""
    found = [(match, path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return dict(sorted((int(match[1]), path) for match, path in found))


def _crc32(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _flush(folder: Path) -> None:
    with suppress(OSError):  # so that the rename survives a power cut, where folders can be flushed
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
