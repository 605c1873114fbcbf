"""Which texts an encoder has to run on, and which of them together: pure functions of ids and counts."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from itertools import accumulate, groupby, pairwise

from longalign.encoding.tokens import Ids


def hosts(texts: Collection[Ids], alone: Container[Ids] = ()) -> dict[Ids, Ids]:
    """For each text the one to read its states from: a text that begins with it, else itself.

    CLIP's text model is causal, so a text's states are also the first of every text that begins with it. The
    empty prompt thus costs nothing, nor does the first sentence where the whole prompt is encoded too.

    Args:
        alone: texts that have to be run as they are.
    """
    host: dict[Ids, Ids] = {}
    longer: Ids = ()
    for text in sorted(texts, reverse=True):  # whatever begins with a text comes just before it
        if text in alone or longer[: len(text)] != text:
            longer = text
        host[text] = longer
    return host


def batches(lengths: Sequence[int], call_cost_tokens: int, batch_size: int) -> list[slice]:
    """Cuts ascending lengths into the batches that take the least time.

    A batch of n texts is padded to its longest and takes as long as ``n · longest + call_cost_tokens``
    tokens. Texts of equal length stay together, so there are at most as many places to cut as the encoder's
    window is long, and the best cuts follow by dynamic programming. What exceeds ``batch_size`` is cut again.
    """
    runs = [(length, len(list(group))) for length, group in groupby(lengths)]  # lengths and how many texts
    # best[j]: least cost of the first j runs, and where the last of their batches begins
    best: list[tuple[float, int]] = [(0, 0)]
    for j in range(1, len(runs) + 1):
        longest, n_texts = runs[j - 1][0], 0
        options = []
        for i in range(j - 1, -1, -1):
            n_texts += runs[i][1]
            calls = -(-n_texts // batch_size)
            options.append((best[i][0] + n_texts * longest + calls * call_cost_tokens, i))
        best.append(min(options))
    cuts = [len(runs)]
    while cuts[-1]:
        cuts.append(best[cuts[-1]][1])
    ends = [0, *accumulate(n_texts for _, n_texts in runs)]
    return [
        slice(first, min(first + batch_size, ends[last_run]))
        for first_run, last_run in pairwise(reversed(cuts))
        for first in range(ends[first_run], ends[last_run], batch_size)
    ]
