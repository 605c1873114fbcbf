"""The grid of Table 1, Table 4 and the claims, on models whose embeddings are given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import TableModel, as_pixels, table_pairs, unit
from PIL import Image

from longalign.errors import LongalignError
from longalign.evaluation.pairs import (
    read_pairs,
)
from longalign.evaluation.retrieval import (
    AVERAGE,
    C_P,
    C_PERP,
    SINGLE,
    TO_TEXT,
    Cell,
    Retrieval,
    retrieve,
)
from longalign.metrics import embedding
from longalign.metrics.embedding import Models, embed_captions, embed_images, embedded_models
from longalign.metrics.intervals import PairedBootstrap
from longalign.metrics.matching import hits, match
from longalign.preference.decomposition import Decomposition
from longalign.report import Estimate
from longalign.stickers.scene_pairs import (
    families,
    sticker_pairs,
)
from longalign.stickers.world import scene
from longalign.studies.claims import Comparison, all_of, decide, paper_claims

# V is the first axis. The two sentences agree but for it; picture 1 scores high along V, whatever is said.
V = Decomposition(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), 1)
TEXTS = {
    "Sun.": (0.8, 0.6, 0.0),
    "Moon.": (0.8, 0.0, 0.6),
    "Sun. Moon.": (0.8, 0.6, 0.0),  # of which the first tokens are those of Sun
    "Moon. Sun.": (0.8, 0.0, 0.6),
}


def test_the_grid_by_hand() -> None:
    """Captions A, B; pictures x0 = (0.1, 0.9, 0), x1 = (0.9, 0, 0.3).

    C_P: A·x0 = 0.62, A·x1 = 0.72: wrong, looks win. B·x0 = 0.08, B·x1 = 0.9: right. R@1 = ½.
    C⊥ (without the first axis): A: 0.54, 0. B: 0, 0.18. R@1 = 1. From image to text: x0: 0.62, 0.08, and
    x1: 0.72, 0.9: both right. R@5 of two candidates is 1.
    """
    pairs = table_pairs(["Sun.", "Moon."], [(0.1, 0.9, 0.0), (0.9, 0.0, 0.3)])
    found = retrieve({"m": TableModel(TEXTS, V)}, pairs, limits=(), samples=100)
    for encoding in (SINGLE, AVERAGE):
        assert found.estimate(Cell("m", C_P, encoding)).value == 0.5
        assert found.estimate(Cell("m", C_PERP, encoding)).value == 1.0
        assert found.estimate(Cell("m", C_P, encoding, TO_TEXT)).value == 1.0
        assert found.estimate(Cell("m", C_P, encoding, k=5)).value == 1.0
    assert found.difference(Cell("m", C_PERP), Cell("m", C_P)).value == 0.5
    assert "stored" in found.v_source["m"]


def test_average_reads_what_single_does_not_and_sentences_limit_it() -> None:
    """Texts "Sun. Moon." and "Sun." have equal first tokens, hence tie for Single: each gets ½ of R@1.

    Their averages are (0.8, 0.3, 0.3) and (0.8, 0.6, 0). Without V the pictures x0 = (0.5, 0.5) and x1 = (1, 0)
    score 0.3 and 0.3 against the first, 0.3 and 0.6 against the second. x0: a tie, x1: right, R@1 = (½ + 1)/2, and
    the same for the texts. With one sentence both texts are "Sun.", x1 wins twice.
    """
    pairs = table_pairs(["Sun. Moon.", "Sun."], [(0.0, 0.5, 0.5), (0.0, 1.0, 0.0)])
    found = retrieve({"m": TableModel(TEXTS, V)}, pairs, limits=(1, 2), samples=100)
    to_text = [Cell("m", C_PERP, e, TO_TEXT) for e in (SINGLE, AVERAGE)]
    assert found.estimate(to_text[0]).value == 0.5
    assert found.estimate(to_text[1]).value == 0.75
    assert found.estimate(Cell("m", sentences=2)).value == found.estimate(Cell("m")).value == 0.75
    assert found.estimate(Cell("m", sentences=1)).value == 0.5
    names = [t.caption for t in found.tables()]
    assert len(names) == 4 and "Table 4" in names[1]


def test_cosine_divides_by_the_length_of_the_text() -> None:
    """Without V "Sun. Moon." is (0.3, 0.3), of length 0.424, and "Sun." is (0.6, 0).

    For x0 = (0.5, 0.5) the scores tie at 0.3, but the cosines are 0.3/0.424 = 0.71 and 0.5: the right text is found.
    Text → image stays as it was.
    """
    pairs = table_pairs(["Sun. Moon.", "Sun."], [(0.0, 0.5, 0.5), (0.0, 1.0, 0.0)])
    found = retrieve({"m": TableModel(TEXTS, V)}, pairs, limits=(), samples=100, rank_by="cosine")
    assert found.estimate(Cell("m", direction=TO_TEXT)).value == 1.0
    assert found.estimate(Cell("m")).value == 0.75


def test_without_a_stored_v_it_is_fitted_or_asked_for() -> None:
    """V of A and B is (0.8, 0.3, 0.3) made a unit vector."""
    pairs = table_pairs(["Sun.", "Moon."], [(0.1, 0.9, 0.0), (0.9, 0.0, 0.3)])
    with pytest.raises(LongalignError, match="'m' has no stored V: name prompts"):
        retrieve({"m": TableModel(TEXTS)}, pairs)
    found = retrieve({"m": TableModel(TEXTS)}, pairs, v_prompts=["Sun.", "Moon."], limits=(), samples=100)
    assert found.v_source["m"] == "fitted here on 2 prompts"
    decomposition, _ = embedding.decomposition_of("m", TableModel(TEXTS), ["Sun.", "Moon."])
    assert torch.allclose(decomposition.V.float(), torch.tensor([0.8, 0.3, 0.3]) / 0.82**0.5)


def test_captions_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two captions, pictures of two sizes in one batch: rows stay in order."""
    captions = ["Sun. Moon.", "Moon.", "Moon. Sun.", "Sun.", "Moon. Sun."]
    model = TableModel(TEXTS)
    whole = embed_captions(model, captions, (None, 1))
    monkeypatch.setattr(embedding, "CAPTIONS_AT_ONCE", 2)
    monkeypatch.setattr(embedding, "IMAGES_AT_ONCE", 3)
    again = embed_captions(model, captions, (None, 1))
    assert all(torch.equal(whole[n], again[n]) for n in (None, 1))
    assert torch.allclose(whole[None][0], torch.tensor([0.8, 0.3, 0.3]))
    assert torch.allclose(whole[1][2], torch.tensor([0.8, 0.0, 0.6]))
    vectors = unit(5, 3, 0)
    # every second picture is larger, with the same values first
    pictures = [as_pixels([*v, 0.0, 0.0, 0.0] if i % 2 else v) for i, v in enumerate(vectors.tolist())]
    assert torch.equal(embed_images(model, lambda i: pictures[i], 5), vectors)


def test_numbers_are_those_of_the_whole_matrix() -> None:
    """30 random texts and pictures of 4 sentences each: R@k against a sort of the whole matrix."""
    vectors = unit(121, 6, 0)
    names = [f"Word{i}." for i in range(120)]
    captions = [" ".join(names[4 * i : 4 * i + 4]) for i in range(30)]
    table = {
        n: v.tolist() for n, v in zip([*names, *captions], [*vectors[:120], *unit(30, 6, 1)], strict=True)
    }
    means = vectors[:120].reshape(30, 4, 6).mean(1)
    images = torch.nn.functional.normalize(means + 0.1 * unit(30, 6, 2), dim=-1)
    v = Decomposition(vectors[120].double(), 1)
    found = retrieve(
        {"m": TableModel(table, v)}, table_pairs(captions, images.tolist()), limits=(), samples=100
    )
    scores = (v.split(means)[0] @ images.T).numpy()
    rank = (-scores).argsort(1).argsort(1).diagonal()
    for k in (1, 5, 10):
        assert found.estimate(Cell("m", k=k)).value == pytest.approx((rank < k).mean())
    assert 0.1 < (rank < 1).mean() < 1


def _estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 10)


def test_verdicts() -> None:
    assert decide(_estimate(0.1, 0.2)) == "holds" and decide(_estimate(-0.2, -0.1)) == "does not hold"
    assert decide(_estimate(-0.1, 0.1)) == "undecided" and decide(_estimate(0.1, 0.5), 0.3) == "undecided"
    # exactly zero: enough for "at least", too little for "more"
    assert (
        decide(_estimate(0.0, 0.1), or_equal=True) == "holds" and decide(_estimate(0.0, 0.1)) == "undecided"
    )
    assert decide(_estimate(-0.1, 0.0), or_equal=True) == "undecided"
    assert decide(_estimate(-0.1, 0.0)) == "does not hold"
    assert Comparison("x", _estimate(0.0, 0.1), or_equal=True).verdict == "holds"
    assert all_of(["holds", "undecided", "does not hold"]) == "does not hold"
    assert all_of(["holds", "undecided"]) == "undecided" and all_of(["holds"]) == "holds"
    assert all_of([]) == "not tested"


def _retrieval(values: dict[tuple[str, str, str], float], n: int = 5000) -> Retrieval:
    """Cells with given R@1; the first queries are hit, so that differences are as sharp as can be."""
    cells = {Cell(*k): (np.arange(n) < v * n).astype(float) for k, v in values.items()}
    models = tuple(dict.fromkeys(k[0] for k in values))
    return Retrieval(models, PairedBootstrap(cells, samples=200), (), {}, "", "score", "")


PAPER = {  # Table 1
    ("CLIP-H", C_P, SINGLE): 0.861,
    ("CLIP-H", C_P, AVERAGE): 0.804,
    ("CLIP-H", C_PERP, SINGLE): 0.858,
    ("CLIP-H", C_PERP, AVERAGE): 0.8514,
    ("PickScore", C_P, SINGLE): 0.54,
    ("PickScore", C_P, AVERAGE): 0.3184,
    ("PickScore", C_PERP, SINGLE): 0.676,
    ("PickScore", C_PERP, AVERAGE): 0.64,
    ("Denscore", C_P, SINGLE): 0.8396,
    ("Denscore", C_P, AVERAGE): 0.759,
    ("Denscore", C_PERP, SINGLE): 0.8724,
    ("Denscore", C_PERP, AVERAGE): 0.9186,
}


def test_the_papers_numbers_bear_out_its_claims() -> None:
    """With C⊥ < C_P in CLIP alone, which is no preference model, the first claim holds none the less."""
    claims = paper_claims(_retrieval(PAPER))
    assert [c.verdict for c in claims] == ["holds"] * 3
    assert [len(c.comparisons) for c in claims] == [4, 3, 11]
    # Taken for a preference model, CLIP breaks the first: 85.8 < 86.1.
    assert paper_claims(_retrieval(PAPER), plain=[])[0].verdict == "does not hold"
    # And Average does not beat Single in PickScore.
    assert paper_claims(_retrieval(PAPER), segment=["PickScore"])[1].verdict == "does not hold"


def test_claims_that_fail_or_cannot_be_tested() -> None:
    worse = {**PAPER, ("Denscore", C_PERP, AVERAGE): 0.862}
    assert [c.verdict for c in paper_claims(_retrieval(worse))] == ["holds", "does not hold", "does not hold"]
    alone = {k: v for k, v in PAPER.items() if k[0] == "CLIP-H"}
    assert [c.verdict for c in paper_claims(_retrieval(alone))] == ["not tested"] * 3
    with pytest.raises(LongalignError, match="no model is called 'Dense'; there are: CLIP-H, PickScore"):
        paper_claims(_retrieval(PAPER), segment=["Dense"])


def test_what_retrieve_refuses() -> None:
    pairs = table_pairs(["Sun.", "Moon."], [(0.1, 0.9, 0.0), (0.9, 0.0, 0.3)])
    model: Any = TableModel(TEXTS, V)
    for arguments, message in (
        (({}, pairs), "no model"),
        (({"m": model}, dataclasses.replace(pairs, captions=["Sun."])), "at least two pairs"),
    ):
        with pytest.raises(LongalignError, match=message):
            retrieve(*arguments)
    with pytest.raises(LongalignError, match="'length' is unknown; There are score, cosine"):
        retrieve({"m": model}, pairs, rank_by="length")
    with pytest.raises(LongalignError, match="start at 1"):
        retrieve({"m": model}, pairs, limits=(0,))
    broken = table_pairs(["Sun.", "Moon."], [(float("nan"), 0.9, 0.0), (0.9, 0.0, 0.3)])
    with pytest.raises(LongalignError, match="not finite"):
        retrieve({"m": model}, broken)


def test_sticker_pairs_and_files(tmp_path: Path) -> None:
    pairs = sticker_pairs(4, "2-3")
    assert len(pairs) == 4 and pairs.picture(0).shape == (3, 96, 96) and 0 <= pairs.picture(1).min() < 1
    assert pairs.v_prompts is not None and not set(pairs.v_prompts) & set(pairs.captions)
    with pytest.raises(LongalignError, match="split 'tests' is unknown"):
        sticker_pairs(4, split="tests")
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"image": "a.png", "caption": "Red."}\n\n{"file_name": "a.png", "text": "All red."}\n')
    read = read_pairs(file)
    assert read.captions == ["Red.", "All red."]
    assert read.picture(1)[:, 0, 0].tolist() == [1, 0, 0] and read.v_prompts is None
    for line, message in (
        ('{"image": "b.png", "caption": "x"}', "no such image file"),
        ('{"image": "a.png"}', "line 1: has no caption"),
        ("red", "line 1: is no line of JSON"),
        ("", "holds no pairs"),
    ):
        file.write_text(line)
        with pytest.raises(LongalignError, match=message):
            read_pairs(file)


def test_models_by_name() -> None:
    models = Models(["stickers/clip", "mine=/a/b/denscore", "/a/c/denscore/"])
    assert list(models) == ["stickers/clip", "mine", "denscore"] and "mine" in models
    assert models.names["stickers/clip"] == "stickers/clip" and models.names["mine"] == "/a/b/denscore"
    assert embedded_models()[0] == "stickers/clip"
    with pytest.raises(LongalignError, match="two models are called 'x': give labels"):
        Models(["a/x", "b/x"])
    with pytest.raises(
        LongalignError, match="no embedded preference model stickers/clap; there are stickers/clip"
    ):
        Models(["stickers/clap"])
    with pytest.raises(LongalignError, match="write NAME or LABEL=NAME"):
        Models(["mine="])


def test_hits_of_a_cell_agree_with_match() -> None:
    """The two ends of the same arithmetic, on 10 pairs of one sentence."""
    texts, images = unit(10, 3, 4), unit(10, 3, 5)
    table = {f"Word{i}.": t.tolist() for i, t in enumerate(texts)}
    found = retrieve(
        {"m": TableModel(table, V)}, table_pairs(list(table), images.tolist()), limits=(), samples=100
    )
    for direction, counts in zip(("text → image", TO_TEXT), match(texts, images), strict=True):
        assert found.estimate(Cell("m", C_P, SINGLE, direction)).value == hits(counts, 1).mean()


def test_families_differ_by_one_mistake() -> None:
    """Two families of three and one of another: no two of a family alike, and each relative is one mistake away.

    A mistake touches two cells at most (a swap or a move), so at most two stickers of the first are not in the other;
    or it is the background, and all stickers are.
    """
    scenes = families(7, 3, "3-5")
    assert len(scenes) == 7 and len(families(2, 1, "3-5")) == 2
    assert scenes[0] == scene(0, objects=(3, 5), split="test") and scenes[3] == scene(
        1, objects=(3, 5), split="test"
    )
    for first in (0, 3):
        one, *others = scenes[first : first + 3]
        assert len({(s.background, frozenset(s.stickers)) for s in (one, *others)}) == 3
        for other in others:
            changed = set(one.stickers) ^ set(other.stickers)
            assert not changed if other.background != one.background else 1 <= len(changed) <= 4
    assert families(7, 3, "3-5") == scenes
