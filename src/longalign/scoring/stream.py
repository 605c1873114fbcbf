"""Batches of pairs → scores. Pictures are read ahead by threads; a distinct sentence is encoded once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.preference import PreferenceModel, SegmentScore
from longalign.preference.decomposition import Decomposition
from longalign.preference.late import Tokens, late_scores, pad
from longalign.preference.scores import SCALE, scores_of
from longalign.runtime import inference
from longalign.scoring.data import (
    Failure,
    Pair,
)

_THREADS = min(8, os.cpu_count() or 1)
Given = Pair | Failure | Callable[[], Pair | Failure]
_SENTENCES_KEPT = 16_384  # embeddings; 64 MB at 1,024 numbers each


@dataclass(frozen=True)
class Scored:
    """One pair with its scores, all × 100 but ``eta``.

    Attributes:
        scores: ``overall``, ``single`` and, with a decomposition, ``aligned``, ``aligned_cosine``, ``irrelevant``,
            ``eta``; see `longalign.preference.Scores`.
        segments: the sentences with their scores, in order.
        relative: for each sentence its `SegmentScore.pooled` less the mean of the same over the other pictures of the
            data set; None unless asked for.
    """

    pair: Pair
    scores: Mapping[str, float]
    segments: Sequence[SegmentScore]
    relative: Sequence[float] | None = None

    @property
    def values(self) -> list[float]:
        """What sentences are compared by: `relative`, else `SegmentScore.best`."""
        if self.relative is not None:
            return list(self.relative)
        return [segment.best for segment in self.segments]

    @property
    def worst(self) -> int:
        """Which sentence is the lowest."""
        values = self.values
        return min(range(len(values)), key=values.__getitem__)

    @property
    def suspect(self) -> int | None:
        """The lowest of several sentences, unless it is called true: then None, as nothing seems to be wrong."""
        if len(self.segments) < 2 or self.segments[self.worst].verdict == "true":
            return None
        return self.worst

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        segments = []
        for i, segment in enumerate(self.segments):
            row = {key: value for key, value in segment._asdict().items() if value is not None}
            if self.relative is not None:
                row["relative"] = self.relative[i]
            segments.append(row)
        return {
            "image": self.pair.name,
            "prompt": self.pair.text,
            **self.scores,
            "worst": self.worst,
            "segments": segments,
        }


class Seen(NamedTuple):
    """A picture's unit embeddings: pooled (D,), and of its patches (P, W) where the model has late interaction."""

    pooled: Tensor
    patches: Tensor | None


class Embedder:
    """Unit embeddings of pictures of any size, and of texts, which it remembers."""

    def __init__(self, model: PreferenceModel) -> None:
        self.model = model
        self._known: dict[str, tuple[Tensor, Tokens | None]] = {}

    def forget(self) -> None:
        """Forgets all texts: those that share a batch change the last bits of each other's embeddings."""
        self._known.clear()

    def prepare(self, given: Given) -> tuple[Pair, Tensor] | Failure:
        """A pair with what the model will see, (1, 3, S, S), made by threads; what is unreadable, as a `Failure`."""
        pair = given if isinstance(given, (Pair, Failure)) else given()
        if isinstance(pair, Failure):
            return pair
        if not pair.text.strip():
            return Failure(pair.name, "its caption is empty")
        try:
            return pair, self.model.preprocess.picture(pair.image)
        except LongalignError as error:
            return Failure(pair.name, str(error).removeprefix(f"{pair.image}: "))

    def images(self, prepared: Sequence[Tensor]) -> list[Seen]:
        """(B) of what `prepare` gives → B pictures' embeddings, on the CPU."""
        with inference(self.model.clip):
            x = torch.cat(list(prepared)).to(self.model.device)
            pooled, patches = self.model.parts_prepared(x)
        of_patches = [None] * len(pooled) if patches is None else list(patches.cpu())
        return [Seen(p, q) for p, q in zip(pooled.cpu(), of_patches, strict=True)]

    def texts(self, texts: Sequence[str], truncate: bool = False) -> Tensor:
        """(N) → (N, D) on the CPU; ``truncate`` as in `PreferenceModel.text`."""
        known = self._encoded(texts, truncate)
        return torch.stack([c for c, _ in known]) if known else torch.zeros(0, self.model.width)

    def tokens(self, texts: Sequence[str]) -> Tokens | None:
        """The tokens of N sentences, at least one; None of a model without late interaction."""
        found = [tokens for _, tokens in self._encoded(texts) if tokens is not None]
        return pad(found) if found else None

    def _encoded(self, texts: Sequence[str], truncate: bool = False) -> list[tuple[Tensor, Tokens | None]]:
        # A text that is cut is longer than the window, so it is no sentence: one memory serves both.
        if len(self._known) > _SENTENCES_KEPT:
            self._known.clear()
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            with inference(self.model.clip):
                pooled, tokens = self.model.text_parts(new, truncate=truncate)
            pooled = pooled.cpu()
            tokens = None if tokens is None else Tokens(tokens.embeddings.cpu(), tokens.weights.cpu())
            for row, text in enumerate(new):
                self._known[text] = (pooled[row], tokens and tokens.rows(slice(row, row + 1)))
        return [self._known[text] for text in texts]


def embed_images(
    embedder: Embedder, pairs: Iterable[Given], batch_size: int = 32
) -> Iterator[list[tuple[Pair, Seen] | Failure]]:
    """Batch after batch, in order: each pair with its embeddings, or why there are none.

    While one batch is computed, the pictures of the next are being read.

    Args:
        embedder: the model.
        pairs: pairs, or functions that give them, which threads call.
        batch_size: pictures at once.

    Raises:
        LongalignError: a batch of less than one picture.
    """
    if batch_size < 1:
        raise LongalignError(f"a batch has at least one picture, not {batch_size}")
    stream = iter(pairs)
    ahead: deque[list[Future[tuple[Pair, Tensor] | Failure]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        while True:
            chunk = list(islice(stream, batch_size))
            if chunk:
                ahead.append([pool.submit(embedder.prepare, pair) for pair in chunk])
            if not ahead:
                return
            if chunk and len(ahead) < 2:
                continue
            yield _embedded(embedder, [future.result() for future in ahead.popleft()])


def _embedded(
    embedder: Embedder, batch: list[tuple[Pair, Tensor] | Failure]
) -> list[tuple[Pair, Seen] | Failure]:
    prepared = [item[1] for item in batch if not isinstance(item, Failure)]
    rows = iter(embedder.images(prepared)) if prepared else iter(())
    return [item if isinstance(item, Failure) else (item[0], next(rows)) for item in batch]


def score_pairs(
    model: PreferenceModel,
    pairs: Iterable[Pair | Failure],
    *,
    decomposition: Decomposition | None = None,
    batch_size: int = 32,
    relative: bool = False,
) -> Iterator[Scored | Failure]:
    """Scores of any number of pairs, in their order, a batch at a time; the numbers are those of `model.score`.

    Args:
        decomposition: in place of the model's own.
        relative: also `Scored.relative`. Needs all pictures before the first result: their embeddings are kept (4·D
            bytes each, and 4·P·W for patches), and each picture is still read only once.

    Raises:
        LongalignError: a decomposition of another width; fewer than two readable pictures for ``relative``.
    """
    embedder = Embedder(model)
    decomposition = decomposition or model.decomposition
    if decomposition is not None:
        decomposition.check_width(model.width)
    batches: Iterable[list[tuple[Pair, Seen] | Failure]] = embed_images(embedder, pairs, batch_size)
    total, count = None, 0
    if relative:
        batches = list(batches)
        embedded = [item[1].pooled for batch in batches for item in batch if not isinstance(item, Failure)]
        count = len(embedded)
        if count < 2:
            raise LongalignError(
                "relative scores compare each picture with the others: give at least two that can be read"
            )
        total = torch.stack(embedded).double().sum(0)  # (D,)
    for batch in batches:
        yield from score_batch(embedder, batch, decomposition, total, count)


def score_batch(
    embedder: Embedder,
    batch: Sequence[tuple[Pair, Seen] | Failure],
    decomposition: Decomposition | None,
    total: Tensor | None = None,
    count: int = 0,
) -> list[Scored | Failure]:
    """The scores of a batch of `embed_images`, in its order.

    Args:
        embedder: the model.
        batch: pairs with their embeddings, and what could not be read.
        decomposition: in place of the model's own; None: no aligned scores.
        total: (D,) float64, the sum of the embeddings of all pictures, for relative scores; None: without these.
        count: how many pictures ``total`` is of.
    """
    scored = iter(_scores(embedder, batch, decomposition, total, count))
    return [item if isinstance(item, Failure) else next(scored) for item in batch]


def _scores(
    embedder: Embedder,
    batch: Sequence[tuple[Pair, Seen] | Failure],
    decomposition: Decomposition | None,
    total: Tensor | None,
    count: int,
) -> list[Scored]:
    found = [item for item in batch if not isinstance(item, Failure)]
    if not found:
        return []
    texts = [[segment.text for segment in embedder.model.segments(pair.text)] for pair, _ in found]
    flat = [text for of_pair in texts for text in of_pair]
    segments = embedder.texts(flat)  # (Σ K, D)
    single = embedder.texts([pair.text for pair, _ in found], truncate=True)  # (B, D)
    image = torch.stack([x.pooled for _, x in found])  # (B, D)
    patches = [x.patches for _, x in found if x.patches is not None]
    tokens, late = embedder.tokens(flat), None
    if patches and tokens is not None:
        late = late_scores(torch.stack(patches), tokens, [len(of_pair) for of_pair in texts])
    scores = scores_of(image, segments, single, texts, decomposition, late, embedder.model.calibration)
    base = None
    if total is not None:
        compared = segments if decomposition is None else decomposition.split(segments)[0]
        base = (SCALE * (compared.double() @ total)).tolist()  # (Σ K,) of all pictures together
    results, start = [], 0
    for (pair, _), row, of_pair in zip(found, scores.rows(), scores.segments, strict=True):
        relative = None
        if base is not None:
            # s_ik − mean_{j≠i} s_jk = s_ik − (Σ_j s_jk − s_ik) / (N − 1)
            relative = [
                segment.pooled - (base[start + k] - segment.pooled) / (count - 1)
                for k, segment in enumerate(of_pair)
            ]
        start += len(of_pair)
        del row["segments"]
        results.append(Scored(pair, row, of_pair, relative))
    return results
