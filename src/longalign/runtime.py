"""The device and number type to run on, and libraries that stay quiet while they load."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from longalign.errors import LongalignError

if TYPE_CHECKING:
    import torch
    from torch import nn

DTYPES = ("auto", "float32", "float16", "bfloat16")


def pick_device(device: str = "auto") -> str:
    """``auto``: CUDA, else Apple's MPS, else the CPU."""
    import torch

    if device != "auto":
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise LongalignError(
                f"device {device!r} cannot be used here: {str(error).splitlines()[0]}"
            ) from None
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """``auto``: float16 on CUDA (what the published models are used in), float32 elsewhere."""
    import torch

    if dtype not in DTYPES:
        raise LongalignError(f"dtype {dtype!r} is unknown; one of {', '.join(DTYPES)}")
    if dtype == "auto":
        return torch.float16 if device.startswith("cuda") else torch.float32
    found: torch.dtype = getattr(torch, dtype)
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Loading without bars and advice: neither says anything that a user of this package can act on."""
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    before = of_diffusers.get_verbosity(), of_transformers.get_verbosity()
    of_diffusers.set_verbosity_error()
    of_transformers.set_verbosity_error()
    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # `torch_dtype` is what diffusers 0.36 knows; 0.42 would rather have it called `dtype`.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        of_diffusers.enable_progress_bar()
        of_transformers.enable_progress_bar()
        of_diffusers.set_verbosity(before[0])
        of_transformers.set_verbosity(before[1])


@contextmanager
def inference(*modules: nn.Module) -> Iterator[None]:
    """No gradients and no dropout; each submodule's training mode is put back afterwards."""
    import torch

    training = [m for module in modules for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for m in training:
            m.training = True
