"""The small vocabularies, as real tokenizers have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from longalign.stickers.captions import caption, text_of
from longalign.stickers.tokenizers import make_clip_tokenizer, make_t5_tokenizer
from longalign.stickers.world import scene

SENTENCE = "A fox on a red disc is in the top left."


def test_every_word_is_one_clip_token() -> None:
    """As many tokens as words and full stops, and the start and end tokens."""
    tokenizer = make_clip_tokenizer()
    for i in range(50):
        text = text_of(caption(scene(i, objects=(0, 9)), i))
        assert len(tokenizer(text, verbose=False).input_ids) == len(text.replace(".", " .").split()) + 2


def test_any_text_encodes_in_clip_without_unknowns() -> None:
    tokenizer = make_clip_tokenizer()
    ids = tokenizer("Zürich 🦊 fährt!").input_ids
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "zürich🦊fährt!"


def test_clip_pads_with_the_end_token() -> None:
    tokenizer = make_clip_tokenizer()
    ids = tokenizer(SENTENCE, padding="max_length").input_ids
    assert len(ids) == 77 and ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id


def test_t5_tokens_are_words() -> None:
    tokenizer = make_t5_tokenizer()
    assert tokenizer.tokenize(SENTENCE) == [*(f"▁{w}" for w in SENTENCE[:-1].split()), "."]
    assert tokenizer.unk_token_id not in tokenizer("Anything else, spelled: 42!").input_ids


@pytest.mark.parametrize("make", [make_clip_tokenizer, make_t5_tokenizer])
def test_saved_and_loaded_they_are_the_same(make, tmp_path: Path) -> None:
    tokenizer = make()
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again(SENTENCE).input_ids == tokenizer(SENTENCE).input_ids
    assert again.model_max_length == tokenizer.model_max_length
