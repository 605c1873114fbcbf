"""Which metrics are computed together: all at once where the memory holds their models, else one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from longalign.evaluation.measuring import Pass
from longalign.runtime import pick_device
from longalign.worlds import owner, resolve_model

SHARE = 0.7  # of the free memory that models may take
UNKNOWN_BYTES = 4 << 30  # of a model whose files are not here
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def free_bytes(device: str = "auto") -> int:
    """Free memory of the device on which models will lie.

    Args:
        device: as in `longalign.runtime`.
    """
    kind = torch.device(pick_device(device))
    if kind.type == "cuda":
        return int(torch.cuda.mem_get_info(kind)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def model_bytes(name: str) -> int:
    """How large a model's weights are on the disk; `UNKNOWN_BYTES` where they are not here.

    Args:
        name: an embedded model, a folder, a file or a hub name.
    """
    of_world = owner(name)
    if of_world is not None and (name == of_world.name or "/" in name):
        path = of_world.preference_folders(name)[0]
    else:
        path = Path(resolve_model(name))
    if path.is_file():
        return path.stat().st_size
    sizes = [f.stat().st_size for f in path.rglob("*") if f.suffix in _WEIGHTS] if path.is_dir() else []
    return sum(sizes) or UNKNOWN_BYTES


def plan_passes(
    metrics: Sequence[str],
    weights: Mapping[str, Sequence[str]],
    *,
    first: int = 0,
    with_features: bool = False,
    device: str = "auto",
    free: int | None = None,
) -> list[Pass]:
    """Puts metrics into as few passes as the memory allows, in their order.

    Args:
        metrics: names.
        weights: name → the models that the metric loads. A model that two metrics of a pass share counts once.
        first: number of the first pass.
        with_features: the first pass keeps the features of all pictures.
        device: on which the models will lie.
        free: bytes; None: what is free now.
    """
    most = SHARE * (free_bytes(device) if free is None else free)
    groups: list[tuple[list[str], set[str]]] = [([], set())]
    for name in metrics:
        names, models = groups[-1]
        together = models | set(weights.get(name, ()))
        if names and sum(map(model_bytes, together)) > most:
            groups.append(([name], set(weights.get(name, ()))))
        else:
            names.append(name)
            models |= together
    return [
        Pass(f"pass-{first + k}", names, with_features and k == 0)
        for k, (names, _) in enumerate(groups)
        if names or (with_features and k == 0)
    ]
