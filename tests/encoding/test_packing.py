"""Texts that share rows: every text is there, sees itself alone, and comes out as it does by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_encoding import encode
from tiny import clip_tokenizer, text_encoder

from longalign.encoding import TextParts
from longalign.encoding.packing import Row, pack, row_tensors, visible
from longalign.encoding.towers import Need, Tower

texts_of_ids = st.sets(st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple), min_size=1)


@settings(deadline=None)
@given(texts_of_ids, texts_of_ids, st.integers(0, 12))
def test_every_text_is_in_one_row_and_sees_itself_alone(texts: set, alone: set, window: int) -> None:
    rows = pack(texts, window, alone)
    assert sorted(text for row in rows for text in row.at) == sorted(texts)
    for row in rows:
        length = len(row.ids) + 2
        ids, places = row_tensors([row], length, 9)
        [seen] = visible(places)
        assert ids[0].tolist() == [*row.ids, 9, 9]
        assert bool(seen.diagonal().all())
        assert len(row.ids) <= window or row.is_one_text  # longer than a row is only what needs it by itself
        for text, at in row.at.items():
            assert tuple(row.ids[i] for i in at) == text
            assert places[0, at].tolist() == list(range(len(text)))
            for n, i in enumerate(at):
                assert seen[i].nonzero().flatten().tolist() == at[: n + 1]
        for text in alone & set(row.at):
            assert tuple(row.ids) == text


@settings(deadline=None)
@given(texts_of_ids)
def test_no_beginning_is_run_twice_where_there_is_room(texts: set) -> None:
    """One row, as many tokens as there are different beginnings."""
    [row] = pack(texts, 10_000)
    assert len(row.ids) == len({text[:n] for text in texts for n in range(1, len(text) + 1)})


def test_by_hand() -> None:
    """With room for 6, (0 1 2) and (0 1 3 4) share "0 1" and take 5; (0 5) would be a sixth, (6 7) two more. Rows
    are filled from the last text in order to the first: (6 7), (0 5) takes 2 + 2, (0 1 3 4) adds 3 to make 7: too
    many. So it begins the second row, to which (0 1 2) adds 1."""
    first, second = pack({(0, 1, 2), (0, 1, 3, 4), (0, 5), (6, 7)}, 6)
    assert first.ids == [6, 7, 0, 5]
    assert first.places == [0, 1, 0, 1]
    assert second.ids == [0, 1, 3, 4, 2]
    assert second.places == [0, 1, 2, 3, 2]
    assert second.at == {(0, 1, 3, 4): [0, 1, 2, 3], (0, 1, 2): [0, 1, 4]}


def test_what_fills_a_row_continues_its_last_text() -> None:
    ids, places = row_tensors([Row([5, 6, 7], [0, 1, 1])], 5, 9)
    assert ids.tolist() == [[5, 6, 7, 9, 9]]
    assert places.tolist() == [[0, 1, 1, 2, 3]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_states_are_those_of_each_text_alone(attention: str, dtype: torch.dtype) -> None:
    """Against one call a text, in float32 to 1e-5 and in half precision as far as that goes."""
    encoder = text_encoder().to(dtype)
    encoder.set_attn_implementation(attention)
    [tower] = Tower.all_of(TextParts("sd15", (clip_tokenizer(),), (encoder,)))
    words = ["cat", "dog", "tree", "house"]
    texts = [f"A {a} {b} {c}." for a in words for b in words for c in words]
    tokens = tower.tokenise(texts)
    with torch.no_grad():
        found = tower.encode({t.ids: Need(len(t) - 1) for t in tokens.values()}, 64)
        for t in tokens.values():
            expected = encoder(torch.tensor([t.ids]))[0][0, :-1]
            error = (found[t.ids].tokens - expected).abs().max() / expected.abs().max()
            assert float(error) < (1e-5 if dtype == torch.float32 else 1e-2)


def test_attention_that_takes_no_mask_gets_no_trees() -> None:
    """Such as flash attention; here only the name, so the tower must not ask for a tree."""
    encoder = text_encoder()
    [tower] = Tower.all_of(TextParts("sd15", (clip_tokenizer(),), (encoder,)))
    assert tower._takes_trees()
    encoder.config._attn_implementation = "flash_attention_2"
    assert not tower._takes_trees()
    encoder.config._attn_implementation = "sdpa"
    encoder.config.use_attention_mask = True
    assert not tower._takes_trees()


def test_trees_and_single_rows_give_the_same() -> None:
    encoder = text_encoder()
    parts = TextParts("sd15", (clip_tokenizer(),), (encoder,))
    prompts = ["A red cat. A red dog. A tree.", "A tree. A house on the red disc. A red"]
    trees = encode(parts, prompts)
    encoder.config.use_attention_mask = True  # changes no state that is used here, but forbids trees
    singles = encode(parts, prompts)
    torch.testing.assert_close(trees.embeds, singles.embeds, atol=1e-6, rtol=1e-5)
