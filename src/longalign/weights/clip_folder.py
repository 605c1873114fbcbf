"""Checks CLIP-type preference models in transformers' layout (Denscore, PickScore), and replaces pickled weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.safe_files import check_shapes, read_pickle, read_shapes, write_tensors
from longalign.weights.text_adapter import read_config

_PICKLED = "pytorch_model*.bin"
_UNUSED = r"\.position_ids$"  # older versions of transformers saved these


def copy(source: Path, folder: Path) -> dict[str, Any]:
    """Copy a `CLIPModel` folder after checking its weights; pickled weights become safetensors.

    Returns:
        facts: the number of parameters, and whether they were pickled.

    Raises:
        LongalignError: the weights do not match the configuration (the first wrong one is named), are damaged, or
            hold code.
    """
    from transformers import CLIPConfig, CLIPModel

    try:
        config = CLIPConfig.from_dict(read_config(source))
        with torch.device("meta"):
            wanted = {name: tuple(t.shape) for name, t in CLIPModel(config).state_dict().items()}
    except LongalignError:
        raise
    except Exception as error:  # transformers checks configurations with errors of its own
        reason = str(error).strip().splitlines()[0]
        raise LongalignError(
            f"{source / 'config.json'}: is not the configuration of a CLIP model: {reason}"
        ) from error
    what = f"{source}: the CLIP model's weights"
    safe = sorted(source.glob("*.safetensors"))
    if safe:
        check_shapes({k: s for file in safe for k, s in read_shapes(file).items()}, wanted, what, _UNUSED)
        for file in safe:
            _copy(file, folder)
    else:
        weights = _pickled(source)
        check_shapes({k: t.shape for k, t in weights.items()}, wanted, what, _UNUSED)
        write_tensors(folder / "model.safetensors", {k: weights[k] for k in wanted})
    for file in sorted([*source.glob("*.json"), *source.glob("*.txt")]):
        if safe or not file.name.endswith(".bin.index.json"):
            _copy(file, folder)
    total = sum(torch.Size(shape).numel() for shape in wanted.values())
    return {"parameters": total, "pickled": not safe}


def _pickled(source: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in sorted(source.glob(_PICKLED)):
        part = read_pickle(file)
        if not isinstance(part, Mapping) or not all(isinstance(t, Tensor) for t in part.values()):
            raise LongalignError(f"{file}: holds no state dict")
        weights |= part
    if not weights:
        raise LongalignError(f"{source}: holds neither *.safetensors nor {_PICKLED}")
    return weights


def _copy(file: Path, folder: Path) -> None:
    shutil.copyfile(os.path.realpath(file), folder / file.name)
