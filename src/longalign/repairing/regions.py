"""From attention to the region of a picture that is drawn again."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from longalign.errors import LongalignError

_SMOOTHED = 16  # of a grid's side: attention at many positions is ragged


def region_of(maps: Tensor, sentences: Sequence[int], size: tuple[int, int], level: float = 0.7) -> Tensor:
    """Where the sentences are in the picture: at least at `level` of the greatest density of one of them.

    Args:
        maps: (S, h, w) densities, of `longalign.attend`.
        sentences: their numbers.
        size: (height, width) of the latents.
        level: from 0 (the whole picture) to 1.

    Returns:
        (height, width) bool. A sentence that was cut off has no region.

    Raises:
        LongalignError: the level is out of range.
    """
    if not 0 <= level <= 1:
        raise LongalignError(f"the level of a region is from 0 to 1, not {level}")
    chosen = maps[list(sentences)][:, None]  # (n, 1, h, w)
    side = 1 + 2 * (min(maps.shape[-2:]) // (2 * _SMOOTHED))  # odd
    if side > 1:
        chosen = avg_pool2d(chosen, side, stride=1, padding=side // 2, count_include_pad=False)
    most = chosen.amax((-2, -1), keepdim=True)
    inside = (chosen >= level * most) & (most > 0)
    region = inside.any(0, keepdim=True).float()  # (1, 1, h, w)
    return interpolate(region, size, mode="nearest")[0, 0] > 0.5
