"""Ranks by counting: ties, chunks, FAISS."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from fakes import unit

from longalign.errors import LongalignError
from longalign.metrics.matching import Counts, hits, match, use_faiss


def test_ranks_and_ties_by_hand() -> None:
    """Scores S = T Xᵀ with X the identity are T itself:

        | 0.5  0.9  0.1 |   text 0: image 1 is above            → above 1, tied 0
        | 0.2  0.2  0.1 |   text 1: image 0 ties                → above 0, tied 1
        | 0.3  0.0  0.3 |   text 2: image 0 ties                → above 0, tied 1

    Down the columns: image 0 has 0.5 over 0.2 and 0.3 → (0, 0); image 1 has 0.2 under 0.9 → (1, 0); image 2 → (0, 0).
    """
    texts = torch.tensor([[0.5, 0.9, 0.1], [0.2, 0.2, 0.1], [0.3, 0.0, 0.3]])
    found = match(texts, torch.eye(3))
    assert found.text_to_image.above.tolist() == [1, 0, 0] and found.text_to_image.tied.tolist() == [0, 1, 1]
    assert found.image_to_text.above.tolist() == [0, 1, 0] and found.image_to_text.tied.tolist() == [0, 0, 0]
    # R@1 = (0 + ½ + ½) / 3, R@2 = 1
    assert hits(found.text_to_image, 1).tolist() == [0, 0.5, 0.5]
    assert hits(found.text_to_image, 2).tolist() == [1, 1, 1]


def test_a_model_that_tells_nothing_apart_gets_chance() -> None:
    """Everything ties: R@k = k/N, not 0 and not 1. 20 candidates, also in chunks and through FAISS's path."""
    same = torch.ones(20, 4) / 2
    counts = match(same, same, chunk=7).text_to_image
    assert hits(counts, 1).mean() == pytest.approx(1 / 20) and hits(counts, 5).mean() == pytest.approx(5 / 20)


def test_above_and_tied_together() -> None:
    """2 above and 3 tied: for k = 4, two places are left for 4 equals, hence ½."""
    counts = Counts(np.array([2]), np.array([3]))
    assert [hits(counts, k)[0] for k in (1, 2, 3, 4, 6, 9)] == [0, 0, 0.25, 0.5, 1, 1]


def test_rounding_is_a_tie_and_a_real_difference_is_not() -> None:
    """The same picture in two batches differs by 1e-7; scores that differ by 1e-4 do differ."""
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    almost = torch.tensor([[1.0 - 1e-7, 0.0], [1.0, 0.0]])
    assert match(texts, almost).text_to_image.tied.tolist() == [1, 1]
    differ = torch.tensor([[1.0 - 1e-4, 0.0], [1.0, 0.0]])
    assert match(texts, differ).text_to_image.above[0] == 1


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_chunks_change_nothing(chunk: int) -> None:
    """Against numpy on the whole matrix; 50 pairs, of which 10 pictures occur twice."""
    images, texts = unit(50, 8, 0), unit(50, 8, 1)
    texts = torch.nn.functional.normalize(texts + images, dim=-1)
    images[40:] = images[:10]
    found = match(texts, images, chunk=chunk, search="count")
    scores = texts.double().numpy() @ images.double().numpy().T
    for counts, table in ((found.text_to_image, scores), (found.image_to_text, scores.T)):
        true = np.diagonal(table)[:, None]
        assert np.array_equal(counts.above, (table > true + 1e-6).sum(1))
        assert np.array_equal(counts.tied, (abs(table - true) <= 1e-6).sum(1) - 1)
    assert (found.text_to_image.tied[:10] == 1).all()


class _Index:
    """What `faiss.IndexFlatIP` does, in numpy."""

    def __init__(self, width: int) -> None:
        self.rows = np.zeros((0, width), np.float32)

    def add(self, rows: np.ndarray) -> None:
        self.rows = np.concatenate([self.rows, rows])

    def search(self, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ self.rows.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        return np.take_along_axis(scores, order, axis=1), order


def _same_through_faiss() -> None:
    """40 of 80 pictures are one and the same: more ties than are fetched, so those queries are counted again."""
    images, texts = unit(80, 8, 2), unit(80, 8, 3)
    texts = torch.nn.functional.normalize(texts + images, dim=-1)
    images[40:] = images[40]
    a, b = match(texts, images, search="count"), match(texts, images, search="faiss", chunk=32)
    for one, other in zip(a, b, strict=True):
        for k in (1, 5, 10):
            assert np.array_equal(hits(one, k), hits(other, k))
    assert 0 < hits(a.text_to_image, 1)[40:].max() <= 1 / 40


def test_faiss_gives_the_same_with_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = ModuleType("faiss")
    faiss.IndexFlatIP = _Index  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faiss", faiss)
    monkeypatch.setattr("longalign.metrics.matching.find_spec", lambda name: name == "faiss")
    assert (
        use_faiss("auto", 10_000) and not use_faiss("auto", 9_999) and not use_faiss("auto", 10_000, "cuda")
    )
    _same_through_faiss()


def test_faiss_gives_the_same() -> None:
    pytest.importorskip("faiss")
    _same_through_faiss()


def test_what_cannot_be_searched_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longalign.metrics.matching.find_spec", lambda name: None)
    assert not use_faiss("auto", 10**6)
    with pytest.raises(LongalignError, match="pip install faiss-cpu"):
        use_faiss("faiss", 10)
    with pytest.raises(LongalignError, match="'hnsw' is unknown; There are auto, count, faiss"):
        match(torch.eye(2), torch.eye(2), search="hnsw")
