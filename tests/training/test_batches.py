"""Which rows a step sees."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from line_objective import Points, line_recipe

from longalign.errors import LongalignError
from longalign.training.batches import Batching, BucketOrder, MicroBatches, RowOrder, make_loader


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


def test_a_plan_of_buckets_by_hand() -> None:
    """Rows 0–5 in bucket 4, rows 6 and 7 in bucket 9: ¾ and ¼ of [0, 1). Steps of 2 rows.

    s·φ mod 1 for s = 0 … 8: 0, .618, .236, .854, .472, .090, .708, .326, .944. So steps 3 and 8 are of bucket 9, and
    the others are of bucket 4, whose epoch of 6 rows has 3 steps.
    """
    bucket_of = np.array([4, 4, 4, 4, 4, 4, 9, 9])
    order = BucketOrder(bucket_of, 2, seed=1)
    steps = [order.rows(step).tolist() for step in range(9)]
    large, small = RowOrder(6, 2, 1), RowOrder(2, 2, 1)
    assert [steps[s] for s in (0, 1, 2, 4, 5, 6, 7)] == [large.rows(k).tolist() for k in range(7)]
    assert [steps[s] for s in (3, 8)] == [(6 + small.rows(k)).tolist() for k in range(2)]
    assert sorted(steps[0] + steps[1] + steps[2]) == [0, 1, 2, 3, 4, 5] and sorted(steps[3]) == [6, 7]
    later = BucketOrder(bucket_of, 2, seed=1)  # asked for a late step first, as in a resumed run
    assert [later.rows(step).tolist() for step in (7, 8, 3)] == [steps[7], steps[8], steps[3]]
    other = BucketOrder(bucket_of, 2, seed=2)
    assert [other.rows(step).tolist() for step in range(9)] != steps


def test_all_pictures_are_seen_equally_often() -> None:
    """500, 80 and 3 rows in steps of 8; after 7,300 steps, 100 epochs, each row was seen 100 times, give or take two.

    Three rows are one step in 194, where each comes 2⅔ times: that step is at most one early or late.
    """
    order = BucketOrder(np.repeat([0, 1, 2], [500, 80, 3]), 8, seed=0)
    seen = np.bincount(np.concatenate([order.rows(step) for step in range(7300)]), minlength=583)
    assert seen[:500].min() >= 99 and seen[:500].max() <= 101
    assert seen[500:580].min() >= 98 and seen[500:580].max() <= 102
    assert seen[580:].min() >= 96 and seen[580:].max() <= 104
    assert order.repeating == 3


def test_one_bucket_is_as_none() -> None:
    """The same rows to the bit; and rows that are left out never come."""
    plain, one = RowOrder(10, 4, 3), BucketOrder(np.full(10, 7), 4, 3)
    assert all((plain.rows(step) == one.rows(step)).all() for step in range(20))
    order = BucketOrder(np.array([0, -1, 0, -1]), 2, 0)
    assert {row for step in range(5) for row in order.rows(step).tolist()} == {0, 2}
    with pytest.raises(LongalignError, match="no row"):
        BucketOrder(np.array([-1, -1]), 2, 0)


def test_a_loader_takes_buckets_from_the_data_and_says_which_repeat() -> None:
    """Points 0–7, of which 6 and 7 are a bucket of their own, fewer than a batch of 4; processes share each step."""
    points = Points(8)
    points.bucket_of = np.array([0] * 6 + [1] * 2)  # type: ignore[attr-defined]
    numbers = lambda rows: [points_of[float(x[0])] for x, _ in rows]  # noqa: E731
    points_of = {float(points[i][0][0]): i for i in range(8)}
    with pytest.warns(
        UserWarning, match="2 pictures are in buckets with fewer pictures than train.batch_size 4"
    ):
        one = list(make_loader(points, numbers, batching(4, 4), seed=3, stop=6))
        halves = [
            list(make_loader(points, numbers, batching(4, 1, 2), seed=3, process_index=r, stop=6))
            for r in (0, 1)
        ]
    both = [[halves[r][2 * step + m][0] for m in (0, 1) for r in (0, 1)] for step in range(6)]
    assert one == both and {len({row > 5 for row in step}) for step in one} == {1}
    assert sorted(one[3]) == [6, 6, 7, 7]
