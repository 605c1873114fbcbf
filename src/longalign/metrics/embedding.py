"""Preference models by name, and the embeddings of many pictures and captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from longalign.encoding.segments import Segment
from longalign.errors import LongalignError
from longalign.preference.decomposition import Decomposition
from longalign.preference.scores import segment_mean
from longalign.worlds import WORLDS, owner, world

Advance = Callable[[int], None]
IMAGES_AT_ONCE = 64
CAPTIONS_AT_ONCE = 8192  # their sentences are in memory together; each distinct one is encoded once


class Embedder(Protocol):
    """The methods that this file uses of a model; `longalign.preference.PreferenceModel` has them."""

    decomposition: Decomposition | None

    def image(self, pixels: Tensor) -> Tensor: ...

    def text(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor: ...

    def segments(self, text: str) -> list[Segment]: ...


class Models(Mapping[str, Embedder]):
    """Label → preference model. A model is loaded on each access and not kept, so that one is in memory at a time.

    Args:
        names: names that `PreferenceModel.from_pretrained` takes; ``LABEL=NAME`` gives a label, else the label is the
            last part of the name.
        load: arguments of `from_pretrained`.

    Raises:
        LongalignError: two models have the same label; no such embedded model.
    """

    def __init__(self, names: Sequence[str], **load: Any) -> None:
        self._load = load
        self._names: dict[str, str] = {}
        for name in names:
            label, equals, place = name.partition("=")
            if not equals:
                label, place = _label(name), name
            if not label or not place:
                raise LongalignError(f"model {name!r}: write NAME or LABEL=NAME")
            if label in self._names:
                raise LongalignError(f"two models are called {label!r}: give labels, LABEL={place}")
            self._names[label] = _checked(place)

    def __getitem__(self, label: str) -> Embedder:
        from longalign.preference import PreferenceModel

        return PreferenceModel.from_pretrained(self._names[label], **self._load)

    @property
    def names(self) -> dict[str, str]:
        """Label → name or folder."""
        return dict(self._names)

    def __contains__(self, label: object) -> bool:  # Mapping's own would load the model
        return label in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def embedded_models() -> list[str]:
    """Names of the preference models in the package: the plain CLIP first, Denscore last."""
    return [name for of_world in WORLDS for name in world(of_world).preference_names()]


def _label(name: str) -> str:
    return name if owner(name) is not None else Path(name.rstrip("/")).name or name


def _checked(name: str) -> str:
    """The name itself. A wrong name of an embedded model is refused now, before other models are loaded."""
    if "/" in name and (of_world := owner(name)) is not None:
        of_world.preference_folders(name)
    return name


# C_X(x)
def embed_images(
    model: Embedder,
    picture: Callable[[int], Tensor],
    count: int,
    on_step: Advance = lambda pictures: None,
) -> Tensor:
    """Unit embeddings of pictures. 64 pictures are in memory at a time; those of equal size are encoded together.

    Args:
        model: the preference model, or a feature extractor.
        picture: number → picture, (3, H, W) in [0, 1].
        count: N; the numbers are 0 … N − 1.
        on_step: called with the number of pictures that were encoded since the last call.

    Returns:
        (N, D).

    Raises:
        LongalignError: an embedding is not finite.
    """
    found: list[Tensor] = []
    for start in range(0, count, IMAGES_AT_ONCE):
        pictures = [picture(i) for i in range(start, min(start + IMAGES_AT_ONCE, count))]
        of_shape: dict[torch.Size, list[int]] = {}
        for i, pixels in enumerate(pictures):
            of_shape.setdefault(pixels.shape, []).append(i)
        with torch.no_grad():
            rows = [model.image(torch.stack([pictures[i] for i in same])) for same in of_shape.values()]
        order = torch.tensor([i for same in of_shape.values() for i in same])
        found.append(torch.cat(rows)[order.argsort().to(rows[0].device)])
        on_step(len(pictures))
    return _finite(torch.cat(found))


# C_P^seg(p) = (1/K) Σ_k C_P(p̂_k), over all K sentences or the first few
def embed_captions(
    model: Embedder,
    captions: Sequence[str],
    limits: Sequence[int | None] = (None,),
    on_step: Advance = lambda captions: None,
) -> dict[int | None, Tensor]:
    """Mean embeddings of the segments of captions (C_P^seg; LongAlign, §3.2).

    A segment is a sentence; a sentence that is longer than the model's window counts as several.

    Args:
        model: the preference model.
        captions: N texts.
        limits: take only so many first segments of each caption; None takes all.
        on_step: called with the number of captions that were encoded since the last call.

    Returns:
        limit → (N, D), of length 1 at most.
    """
    parts: dict[int | None, list[Tensor]] = {limit: [] for limit in limits}
    for start in range(0, len(captions), CAPTIONS_AT_ONCE):
        chunk = captions[start : start + CAPTIONS_AT_ONCE]
        pieces = [[segment.text for segment in model.segments(caption)] for caption in chunk]
        with torch.no_grad():
            flat = model.text([text for of_caption in pieces for text in of_caption])  # (Σ K, D)
        place = torch.tensor([k for of_caption in pieces for k in range(len(of_caption))])  # (Σ K,)
        for limit, found in parts.items():
            if limit is None:
                found.append(segment_mean(flat, [len(p) for p in pieces]))
            else:
                first = (place < limit).to(flat.device)
                found.append(segment_mean(flat[first], [min(len(p), limit) for p in pieces]))
        on_step(len(chunk))
    return {limit: _finite(torch.cat(found)) for limit, found in parts.items()}


# C_P(p) of the first tokens
def embed_single(
    model: Embedder, captions: Sequence[str], on_step: Advance = lambda captions: None
) -> Tensor:
    """(N, D) unit embeddings of the first tokens of N captions, as many as the model reads (77 for CLIP)."""
    found: list[Tensor] = []
    for start in range(0, len(captions), CAPTIONS_AT_ONCE):
        chunk = captions[start : start + CAPTIONS_AT_ONCE]
        with torch.no_grad():
            found.append(model.text(chunk, truncate=True))
        on_step(len(chunk))
    return _finite(torch.cat(found))


def decomposition_of(label: str, model: Embedder, prompts: Sequence[str] | None) -> tuple[Decomposition, str]:
    """The model's stored V; else V fitted on prompts.

    Args:
        label: of the model, for the message.
        model: the preference model.
        prompts: to fit on; None: there are none.

    Returns:
        the decomposition, and its source in words.

    Raises:
        LongalignError: no stored V and no prompts.
    """
    if model.decomposition is not None:
        return model.decomposition, f"stored with the model ({model.decomposition.count:,} prompts)"
    if prompts is None:
        raise LongalignError(
            f"the model {label!r} has no stored V: name prompts to fit it on with --v-prompts FILE (one a line, or "
            "JSONL), best ones that are not evaluated"
        )
    return Decomposition.fit(embed_captions(model, prompts)[None]), f"fitted here on {len(prompts):,} prompts"


def _finite(embeddings: Tensor) -> Tensor:
    if not embeddings.isfinite().all():
        raise LongalignError("an embedding is not finite: try the model in float32")
    return embeddings
