"""Where each sentence was looked at while pictures were drawn: maps of attention, made ready for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from longalign.backbones import backbone_of, denoising_module
from longalign.diffusion.attend import attending, columns_of, densities, shares
from longalign.diffusion.attention_maps import AttentionMaps
from longalign.encoding.conditioning import Conditioning

_STEPS = 6  # of which maps are kept
_SIDE = 64  # pixels of a map on the page, at most
_COLOUR = (255, 214, 0)


@dataclass(frozen=True)
class Maps:
    """The maps of one picture.

    Attributes:
        sentences: text → map (h, w), from 0 (least) to 1 (most).
    """

    sentences: dict[str, np.ndarray]

    def data_uri(self, text: str) -> str | None:
        """The map of a sentence as a small PNG of one colour whose opacity is the attention; None without a map.

        Args:
            text: the sentence.
        """
        shares = self.sentences.get(text)
        if shares is None:
            return None
        alpha = Image.fromarray((shares * 200).astype(np.uint8))
        alpha.thumbnail((_SIDE, _SIDE))
        overlay = Image.new("RGBA", alpha.size, (*_COLOUR, 0))
        overlay.putalpha(alpha)
        file = io.BytesIO()
        overlay.save(file, format="PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def maps_of(texts: Sequence[str], density: torch.Tensor) -> Maps:
    """The maps of one picture, for the page.

    Args:
        texts: its S sentences.
        density: (S, h, w), of `longalign.attend`.
    """
    share = shares(density)  # of the attention to all sentences, at each position
    more = (share - share.mean((1, 2), keepdim=True)).clamp_min(0)
    scaled = more / more.amax((1, 2), keepdim=True).clamp_min(1e-12)
    return Maps({text: of_text.numpy() for text, of_text in zip(texts, scaled, strict=True)})


@dataclass
class Seen:
    """What `looking` collects.

    Attributes:
        conditioning: of the pictures.
        found: the maps; None where they are not collected.
    """

    conditioning: Conditioning
    found: AttentionMaps | None = None

    def maps(self) -> list[Maps | None]:
        """One for each picture, after they were drawn."""
        if self.found is None:
            return [None] * len(self.conditioning)
        each = densities(self.found.result(), columns_of(self.conditioning))
        texts = ([segment.text for segment in segments] for segments in self.conditioning.segments)
        return [maps_of(told, density) for told, density in zip(texts, each, strict=True)]


@contextmanager
def looking(pipe: Any, conditioning: Conditioning, steps: int, wanted: bool = True) -> Iterator[Seen]:
    """Collects the maps while pictures are drawn; the pictures stay the same to the bit.

    Args:
        pipe: the pipeline.
        conditioning: of all pictures that are drawn together.
        steps: of sampling; some of them are looked at.
        wanted: False collects nothing.
    """
    seen = Seen(conditioning)
    known = backbone_of(denoising_module(pipe)).token_places is not None
    if not wanted or not known or len(conditioning.segments[0]) < 2:
        yield seen
        return
    chosen = set(range(0, steps, max(1, steps // _STEPS)))
    with attending(pipe, conditioning, steps=chosen) as seen.found:
        yield seen
