"""Ranks for retrieval without a matrix of all scores: candidates above the true match are counted chunk by chunk.

R@k depends on the rank of the true match alone, and the rank is a count. So N texts against N images need the memory of
one chunk of scores, for any N, and the result is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.plugins import unknown

# Scores closer than this are tied: equal pictures in different batches differ by float32's rounding, about 1e-7.
TIE = 1e-6
CHUNK = 4096  # 64 MiB of float32 scores at once
SEARCHES = ("auto", "count", "faiss")
_FAISS_FROM = 10_000  # candidates; with fewer, counting is as fast
_FAISS_TOP = 16  # hits fetched a query, enough for k ≤ 10 and a few ties


class Counts(NamedTuple):
    """For each of N queries the number of candidates above its true match, and of ties with it; int64 (N,)."""

    above: np.ndarray
    tied: np.ndarray


class Match(NamedTuple):
    """Counts for texts that look for their image, and for images that look for their text."""

    text_to_image: Counts
    image_to_text: Counts


def hits(counts: Counts, k: int) -> np.ndarray:
    """Probability that the true match is among the first k. The mean over queries is R@k.

    Ties count as broken at random: with ``a`` candidates above and ``t`` other candidates tied with the true match, the
    probability is (k − a) / (t + 1), cut to [0, 1]. A model that gives all candidates the same score then gets k/N,
    which is chance.

    Args:
        counts: of N queries.
        k: how many candidates count.

    Returns:
        (N,) in [0, 1].
    """
    return ((k - counts.above) / (counts.tied + 1.0)).clip(0, 1)


def match(
    texts: Tensor,
    images: Tensor,
    *,
    search: str = "auto",
    chunk: int = CHUNK,
    on_step: Callable[[int], None] = lambda texts: None,
) -> Match:
    """Counts for the true matches in both directions. Text i and image i belong together.

    Args:
        texts, images: (N, D) embeddings on one device; scores are their inner products.
        search: ``count`` compares with all scores. ``faiss`` fetches the best 16 candidates with FAISS's exact index
            and compares with all scores only if these leave the rank open; R@k is the same for k ≤ 10. ``auto`` takes
            FAISS if it is installed and there are at least 10,000 candidates on a CPU.
        chunk: side of the blocks of scores.
        on_step: called with the number of texts that were ranked since the last call.

    Raises:
        LongalignError: an unknown search, or FAISS asked for and not installed.
    """
    true = (texts * images).sum(-1)  # (N,)
    if use_faiss(search, len(texts), texts.device.type):
        forward = _faiss_counts(texts, images, true, chunk)
        on_step(len(texts) // 2)
        backward = _faiss_counts(images, texts, true, chunk)
        on_step(len(texts) - len(texts) // 2)
        return Match(forward, backward)
    count = torch.zeros(4, len(texts), dtype=torch.long, device=texts.device)
    for i in range(0, len(texts), chunk):
        rows = slice(i, i + chunk)
        for j in range(0, len(texts), chunk):
            columns = slice(j, j + chunk)
            scores = texts[rows] @ images[columns].T  # (rows, columns)
            if i == j:
                scores.diagonal().copy_(true[rows])  # the true match ties with itself, whatever the rounding
            for side, reference in ((0, true[rows, None]), (1, true[None, columns])):
                where = rows if side == 0 else columns
                count[2 * side, where] += (scores > reference + TIE).sum(1 - side)
                count[2 * side + 1, where] += (scores >= reference - TIE).sum(1 - side)
        on_step(len(texts[rows]))
    above, at_least, above_back, at_least_back = count.cpu().numpy()
    return Match(Counts(above, at_least - above - 1), Counts(above_back, at_least_back - above_back - 1))


def use_faiss(search: str, candidates: int, device: str = "cpu") -> bool:
    """Whether `match` uses FAISS.

    Args:
        search: as of `match`.
        candidates: how many there are.
        device: of the embeddings.

    Raises:
        LongalignError: an unknown search, or FAISS asked for and not installed.
    """
    if search not in SEARCHES:
        raise LongalignError(unknown("search", search, SEARCHES))
    if search == "auto":
        return device == "cpu" and candidates >= _FAISS_FROM and find_spec("faiss") is not None
    if search == "faiss" and find_spec("faiss") is None:
        raise LongalignError("FAISS is not installed: pip install faiss-cpu, or leave --search out")
    return search == "faiss"


def _faiss_counts(queries: Tensor, targets: Tensor, true: Tensor, chunk: int) -> Counts:
    """One direction by FAISS's exact inner-product index."""
    import faiss

    index = faiss.IndexFlatIP(targets.shape[1])
    index.add(np.ascontiguousarray(targets.cpu().numpy(), np.float32))
    top = min(_FAISS_TOP, len(targets))
    above, tied, still_open = [], [], []
    for start in range(0, len(queries), chunk):
        part = np.ascontiguousarray(queries[start : start + chunk].cpu().numpy(), np.float32)
        scores, which = index.search(part, top)  # (chunk, top), best first
        reference = true[start : start + chunk, None].cpu().numpy()
        others = which != np.arange(start, start + len(part))[:, None]
        above.append(((scores > reference + TIE) & others).sum(1))
        tied.append(((np.abs(scores - reference) <= TIE) & others).sum(1))
        # More may tie beyond the last one fetched, unless that one is clearly above or below the true match.
        last = scores[:, -1:]
        still_open.append((np.abs(last - reference) <= TIE)[:, 0] & (top < len(targets)))
    found = Counts(np.concatenate(above).astype(np.int64), np.concatenate(tied).astype(np.int64))
    for i in np.flatnonzero(np.concatenate(still_open)):
        scores_i = targets @ queries[i]
        scores_i[i] = true[i]
        found.above[i] = int((scores_i > true[i] + TIE).sum())
        found.tied[i] = int((scores_i >= true[i] - TIE).sum()) - found.above[i] - 1
    return found
