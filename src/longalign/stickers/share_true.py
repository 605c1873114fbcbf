"""How many sentences come true when a pipeline draws held-out scenes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from longalign.diffusion.sampling import draw, set_scheduler
from longalign.report import Estimate, clustered_wilson
from longalign.stickers.captions import caption, text_of
from longalign.stickers.oracle import read
from longalign.stickers.world import scene


def share_true(
    pipe: Any,
    scenes: int,
    *,
    objects: tuple[int, int] = (1, 4),
    strategy: str,
    length: int,
    guidance: float | None,
    t5: Any = None,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> tuple[Estimate, Estimate]:
    """Draws held-out scenes; the share of true sentences, and of the same sentences about the next scene's picture."""
    set_scheduler(pipe, "auto")
    drawn = [scene(i, objects=objects, split="validation") for i in range(scenes)]
    captions = [caption(s, i) for i, s in enumerate(drawn)]
    images = draw(
        pipe,
        [text_of(c) for c in captions],
        list(range(scenes)),
        strategy=strategy,
        t5=t5,
        length=length,
        sampling={"steps": 25, "batch_size": 50, "guidance": guidance, "on_step": on_step},
    )
    return _share_true(captions, images), _share_true(captions, [*images[1:], images[0]])


def _share_true(captions: list[list[Any]], images: list[Image.Image]) -> Estimate:
    true = []
    for said, image in zip(captions, images, strict=True):
        reading = read(image)
        true.append(sum(reading.judge(s.fact) == "true" for s in said))
    return clustered_wilson(true, [len(said) for said in captions])
