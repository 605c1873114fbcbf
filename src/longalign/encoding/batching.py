"""Groups rows of tokens into batches for an encoder, from their lengths alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise


def call_cost_tokens(device_type: str) -> int:
    """The cost of one more call of a text encoder, in tokens of padding that take the same time.

    On a CPU a call reads the weights once more (measured at CLIP-L's size: 14 to 22 tokens, for any number of layers).
    On an accelerator it launches kernels that are too small to fill the device.
    """
    return 16 if device_type == "cpu" else 1024


def batches(lengths: Sequence[int], call_cost_tokens: int, batch_size: int) -> list[slice]:
    """Cuts ascending lengths into batches so that they take the least time.

    A batch of n rows is padded to its longest and takes as long as ``n · longest + call_cost_tokens``
    tokens. Rows of equal length stay together, so there are at most as many possible cuts as the encoder's window
    has tokens, and dynamic programming finds the best ones. Batches of more than ``batch_size`` rows are cut again.
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
