"""Where each sentence was looked at while pictures were drawn: maps of attention, made ready for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from longalign.backbones import backbone_of, denoising_module
from longalign.diffusion.attention_maps import AttentionMaps, attention_maps
from longalign.encoding.conditioning import Conditioning
from longalign.errors import LongalignError

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


@dataclass
class Seen:
    """What `looking` collects.

    Attributes:
        conditioning: of the pictures.
        found: the maps of single tokens; None where they are not collected.
        columns: positions of these tokens.
    """

    conditioning: Conditioning
    found: AttentionMaps | None = None
    columns: list[int] = field(default_factory=list)

    def maps(self) -> list[Maps | None]:
        """One for each picture, after they were drawn."""
        count = len(self.conditioning)
        if self.found is None:
            return [None] * count
        try:
            of_tokens = self.found.result()  # (B, columns, h, w)
        except LongalignError:
            return [None] * count
        made: list[Maps | None] = []
        for row in range(count):
            texts = [segment.text for segment in self.conditioning.segments[row]]
            owners = self.conditioning.segment_of[row].cpu()[self.columns]
            made.append(Maps(_by_sentence(of_tokens[row], owners, texts)))
        return made


def _by_sentence(
    of_tokens: torch.Tensor, owners: torch.Tensor, texts: Sequence[str]
) -> dict[str, np.ndarray]:
    """(columns, h, w) → for each sentence, where it has more of the attention than elsewhere."""
    sums = torch.stack([of_tokens[owners == s].sum(0) for s in range(len(texts))])  # (S, h, w)
    # Each position: the sentence's share, against the share that it has on the average.
    shares = sums / sums.sum(0, keepdim=True).clamp_min(1e-12)
    more = (shares / shares.mean((1, 2), keepdim=True).clamp_min(1e-12) - 1).clamp_min(0)
    scaled = more / more.amax((1, 2), keepdim=True).clamp_min(1e-12)
    return {text: scaled[s].numpy() for s, text in enumerate(texts)}


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
    owners = conditioning.segment_of
    same = bool((owners == owners[:1]).all())  # one prompt
    if wanted and same and backbone_of(denoising_module(pipe)).token_places is not None:
        seen.columns = [int(i) for i in (owners[0] >= 0).nonzero().flatten()]
    if not seen.columns or len(conditioning.segments[0]) < 2:
        with nullcontext():
            yield seen
        return
    chosen = set(range(0, steps, max(1, steps // _STEPS)))
    with attention_maps(pipe, seen.columns, steps=chosen) as seen.found:
        yield seen
