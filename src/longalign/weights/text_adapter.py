"""The T5 → UNet text adapter as a folder: ``config.json`` and weights, in the layout of diffusers and of the published
files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longalign.encoding.adapter import TextAdapter
from longalign.errors import LongalignError
from longalign.runs import atomic_write_text
from longalign.safe_files import check_shapes, read_pickle, read_tensors, write_tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
_PICKLED = "diffusion_pytorch_model.bin"
SIZES = ("in_dim", "int_dim", "out_dim")


def write_text_adapter(adapter: TextAdapter, folder: str | os.PathLike[str]) -> None:
    """Write an adapter in the layout of ``save_pretrained``, each file whole or not at all.

    Raises:
        LongalignError: the disk refuses.
    """
    # Not `to_json_string`, which contains the path from which the adapter was read.
    config = {"_class_name": "TextAdapter", **{key: adapter.config[key] for key in (*SIZES, "dropout")}}
    atomic_write_text(Path(folder) / "config.json", json.dumps(config, indent=2) + "\n")
    write_tensors(Path(folder) / WEIGHTS, adapter.state_dict())


def read_text_adapter(folder: str | os.PathLike[str]) -> TextAdapter:
    """Read an adapter in evaluation mode and in the dtype of its file. A pickle is read without running code in it.

    Raises:
        LongalignError: the weights are missing, damaged, or of other shapes than the configuration says (the first is
            named).
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        with torch.device("meta"):
            adapter = TextAdapter(*(int(config[key]) for key in SIZES), float(config.get("dropout", 0.1)))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        file = folder / "config.json"
        raise LongalignError(f"{file}: is not the configuration of a text adapter: {error!r}") from error
    weights = _weights(folder)
    shapes = {name: t.shape for name, t in adapter.state_dict().items()}
    check_shapes({k: t.shape for k, t in weights.items()}, shapes, f"{folder}: the adapter's weights")
    adapter.load_state_dict(weights, assign=True)
    return adapter.requires_grad_(True).eval()


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder. Raises LongalignError: it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LongalignError(f"{folder / 'config.json'}: cannot be read: {error}") from error
    return config if isinstance(config, dict) else {}


def _weights(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file():
        return read_tensors(folder / WEIGHTS)[0]
    if not (folder / _PICKLED).is_file():
        raise LongalignError(f"{folder}: holds neither {WEIGHTS} nor {_PICKLED}")
    weights = read_pickle(folder / _PICKLED)
    if not isinstance(weights, Mapping) or not all(isinstance(t, Tensor) for t in weights.values()):
        raise LongalignError(f"{folder / _PICKLED}: holds no state dict")
    return dict(weights)
