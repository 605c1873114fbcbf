"""Reads tensors from files of others without running code, and writes whole files or none."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from longalign.errors import LongalignError
from longalign.published import how_to_get
from longalign.runs import atomic_path


def read_pickle(path: str | os.PathLike[str], allow: Sequence[type] = ()) -> Any:
    """Read a ``.pt``, ``.pth`` or ``.bin`` file onto the CPU without running code in it.

    Args:
        allow: classes that it may name, beside tensors, parameters, lists, mappings and numbers.

    Raises:
        LongalignError: there is no such file; it is damaged; or it names another class (the message says which; no
            code ran).
    """
    path = Path(path)
    try:
        with torch.serialization.safe_globals(list(allow)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise LongalignError(f"{path}: no such checkpoint file{how_to_get(path)}") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global) (\S+)", str(error))
        what = f"names {found[1]}" if found else "holds more than tensors"
        raise LongalignError(
            f"{path}: refused, since this pickle {what} and loading it could run code; "
            "get the weights as safetensors, or save its state dict alone"
        ) from None
    except OSError as error:
        raise LongalignError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # damaged pickles raise KeyError, EOFError, RuntimeError and others
        raise LongalignError(
            f"{path}: is damaged, or is not a torch checkpoint ({type(error).__name__})"
        ) from error


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file on the CPU, and its metadata.

    Raises:
        LongalignError: no such file, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, from its header alone. Raises like `read_tensors`."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | os.PathLike[str], error: Exception) -> LongalignError:
    if isinstance(error, FileNotFoundError):
        return LongalignError(f"{path}: no such file{how_to_get(Path(path).parent) or how_to_get(path)}")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return LongalignError(f"{path}: is damaged, or is not a safetensors file ({reason})")


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, all or nothing. The same tensors and metadata give the same bytes.

    Raises:
        LongalignError: the disk refuses.
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, {"format": "pt", **(metadata or {})})
            with open(temporary, "r+b") as file:
                length = file.read(8)
                header = file.read(int.from_bytes(length, "little"))
                file.seek(8)
                file.write(_sorted(header))
        except SafetensorError as error:  # safetensors raises this when the disk is full, among other things
            raise LongalignError(f"Cannot write {path}: {error}") from error


def serialised(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a small safetensors file. The same tensors and metadata give the same bytes.

    Args:
        tensors: by name.
        metadata: by name.
    """
    data: bytes = save(dict(tensors), dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    return data[:8] + _sorted(data[8:end]) + data[end:]


def _sorted(header: bytes) -> bytes:
    """The header of a safetensors file with its metadata in the order of their names; chance decides it otherwise."""
    told = json.loads(header)
    if "__metadata__" in told:
        told["__metadata__"] = dict(sorted(told["__metadata__"].items()))
    made = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    return made.ljust(len(header)) if len(made) <= len(header) else header


def write_pickle(path: str | os.PathLike[str], value: Any) -> None:
    """`torch.save`, all or nothing, for formats that are pickles. Raises `LongalignError` when the disk refuses."""
    with atomic_path(path) as temporary:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:  # torch's zip writer raises this when the disk is full
            reason = str(error).splitlines()[0]
            raise LongalignError(f"Cannot write {path}: {reason}") from error


def check_shapes(
    found: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]], what: str, ignore: str = ""
) -> None:
    """Check that a file holds the tensors of a model, by names and shapes.

    Args:
        found: name → shape in the file.
        wanted: name → shape in the model.
        what: for messages, such as ``"x.pt: a CLIP model's weights"``.
        ignore: a regular expression for names that may be there in addition.

    Raises:
        LongalignError: a tensor is missing, has another shape, or does not belong to the model (the first is named).
    """
    for name, shape in wanted.items():
        if name not in found:
            raise LongalignError(f"{what} lack {name!r}")
        if tuple(found[name]) != tuple(shape):
            raise LongalignError(f"{what} have {name!r} of shape {tuple(found[name])}, not {tuple(shape)}")
    for name in found:
        if name not in wanted and not (ignore and re.search(ignore, name)):
            raise LongalignError(f"{what} have {name!r}, which the model does not have")
