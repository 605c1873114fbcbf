"""Which rows are run together."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from longalign.encoding.batching import batches


def cost(lengths: list[int], found: list[slice], call_cost: int) -> int:
    return sum((part.stop - part.start) * lengths[part.stop - 1] + call_cost for part in found)


@settings(deadline=None)
@given(st.lists(st.integers(1, 77), max_size=40), st.integers(0, 100), st.integers(1, 50))
def test_batches_cover_all_texts_once_and_keep_to_the_size(
    lengths: list[int], call_cost: int, batch_size: int
) -> None:
    lengths.sort()
    found = batches(lengths, call_cost, batch_size)
    assert [i for part in found for i in range(part.start, part.stop)] == list(range(len(lengths)))
    assert all(0 < part.stop - part.start <= batch_size for part in found)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 20))
def test_batches_cost_least(lengths: list[int], call_cost: int) -> None:
    """Against every one of the 2ⁿ⁻¹ ways to cut n texts."""
    lengths.sort()
    n = len(lengths)
    ways = []
    for mask in range(2 ** (n - 1)):
        cuts = [0, *(i + 1 for i in range(n - 1) if mask >> i & 1), n]
        ways.append(cost(lengths, [slice(a, b) for a, b in pairwise(cuts)], call_cost))
    assert cost(lengths, batches(lengths, call_cost, 100), call_cost) == min(ways)


def test_batches_by_hand() -> None:
    """Lengths 10, 10, 20, where a call costs 15: together 3·20 + 15 = 75, apart (2·10 + 15) + (20 + 15) = 70.
    Where it costs 25: 85 against 45 + 45 = 90."""
    assert batches([10, 10, 20], 15, 64) == [slice(0, 2), slice(2, 3)]
    assert batches([10, 10, 20], 25, 64) == [slice(0, 3)]
    assert batches([], 15, 64) == []
