"""Which rows a step sees."""

from __future__ import annotations

import warnings

import pytest
from line_objective import Points, line_recipe

from longalign.errors import LongalignError
from longalign.training.batches import Batching, MicroBatches, RowOrder, make_loader


def batching(batch_size: int, micro: int | str | None, processes: int = 1) -> Batching:
    return Batching.of(
        line_recipe(train__batch_size=batch_size, train__micro_batch_size=micro).train, processes
    )


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    """10 rows in steps of 4: steps 0–4 hold two epochs, and step 2 reaches over the end of the first."""
    order = RowOrder(10, 4, seed=1)
    rows = [row for step in range(5) for row in order.rows(step).tolist()]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10] != rows[10:]
    assert order.rows(0).tolist() != RowOrder(10, 4, seed=2).rows(0).tolist()


def test_rows_depend_on_the_step_alone() -> None:
    """Asked in any order, and with a batch of several epochs (7 rows of 3 are 2⅓ epochs)."""
    there = [RowOrder(10, 4, 1).rows(step).tolist() for step in (3, 1, 2)]
    order = RowOrder(10, 4, 1)
    assert [order.rows(step).tolist() for step in (3, 1, 2)] == there
    rows = RowOrder(3, 7, 0).rows(0).tolist()
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [0, 1, 2]


def test_processes_share_out_what_one_would_see() -> None:
    """A step of 12 = 2 rows × 3 processes × 2: process r has rows 2r, 2r + 1 and then 6 + 2r, 7 + 2r of the step."""
    order = RowOrder(100, 12, 0)
    shares = [list(MicroBatches(order, batching(12, 2, 3), r, 4, 6)) for r in range(3)]
    step = order.rows(4).tolist()
    assert shares[1][:2] == [step[2:4], step[8:10]]
    together = [row for micro in range(2) for r in range(3) for row in shares[r][micro]]
    assert together == step
    assert [len(s) for s in shares] == [4, 4, 4]


def test_the_batch_has_to_come_out_even() -> None:
    assert batching(12, 2, 3).accumulation == 2
    assert batching(12, None, 3).micro_batch_size == 4
    with pytest.raises(
        LongalignError, match=r"batch_size 10 is not a multiple of .* 4 × 2 processes = 8; take 8 or 16"
    ):
        batching(10, 4, 2)
    with pytest.raises(
        LongalignError, match=r"batch_size 3 is not a multiple of 2 processes = 2; take 2 or 4"
    ):
        batching(3, None, 2)
    with pytest.raises(LongalignError, match=r"= 8; take 8$"):
        batching(2, 8)


def test_smaller_micro_batches_come_out_even() -> None:
    """A share of 12 rows: 12, then at most 6, 3, 1. With 2 processes a share of 5: 5, then 1 (2 does not divide it)."""

    def sizes(first: Batching) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        tried: Batching | None = first
        while tried is not None:
            found.append((tried.micro_batch_size, tried.accumulation))
            tried = tried.smaller()
        return found

    assert sizes(batching(12, "auto")) == [(12, 1), (6, 2), (3, 4), (1, 12)]
    assert sizes(batching(10, "auto", 2)) == [(5, 1), (1, 5)]


def test_without_rows_there_is_no_order() -> None:
    with pytest.raises(LongalignError, match="no row"):
        RowOrder(0, 4, 0)


def test_workers_deliver_the_same_batches() -> None:
    """Step 1 of 10 rows in steps of 4, loaded here and by two workers; a row i of `Points` is sin i, sin 2i, sin 3i."""
    points = Points(10)

    def load(workers: int) -> list[list[float]]:
        sines = lambda rows: [float(x[0]) for x, _ in rows]  # noqa: E731
        with warnings.catch_warnings():  # torch thinks that there should be no more workers than cores
            warnings.simplefilter("ignore")
            return list(
                make_loader(points, sines, batching(4, 2), seed=3, start=1, stop=3, num_workers=workers)
            )

    order = RowOrder(10, 4, 3)
    assert load(0)[0] == [float(points[i][0][0]) for i in order.rows(1)[:2].tolist()]
    assert load(2) == load(0) and len(load(0)) == 4
