"""`plain` is the pipelines' own encoding to the last bit, and says what it leaves out."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from tiny import tiny_sd3, tiny_sd15, tiny_sdxl
from tokenizers.pre_tokenizers import Metaspace

from longalign.encoding import Conditioning, TruncationWarning, encode

PIPELINES = {
    "sd15": tiny_sd15,
    "sdxl": tiny_sdxl,
    "sdxl without zeros": lambda: tiny_sdxl(force_zeros_for_empty_prompt=False),
    "sd3": tiny_sd3,
    "sd3 without T5": lambda: tiny_sd3(with_t5=False),
}


@pytest.fixture(scope="module", params=PIPELINES)
def pipe(request: pytest.FixtureRequest) -> Any:
    return PIPELINES[request.param]()


@torch.no_grad()
def own_encoding(pipe: Any, prompts: list[str], negatives: list[str] | None) -> list[torch.Tensor | None]:
    """What ``pipe.encode_prompt`` gives: embeddings, negative ones, and both pooled where there are any."""
    if "text_encoder_3" in pipe.components:
        return list(pipe.encode_prompt(prompts, None, None, negative_prompt=negatives))
    if "text_encoder_2" in pipe.components:
        return list(pipe.encode_prompt(prompts, negative_prompt=negatives))
    return [*pipe.encode_prompt(prompts, "cpu", 1, True, negatives), None, None]


def tensors(conditioning: Conditioning) -> list[torch.Tensor | None]:
    return [
        conditioning.embeds,
        conditioning.negative_embeds,
        conditioning.pooled,
        conditioning.negative_pooled,
    ]


def assert_equal(ours: list[torch.Tensor | None], theirs: list[torch.Tensor | None]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a.dtype == b.dtype and torch.equal(a, b))


@pytest.mark.parametrize("negative", [None, "", "A blue house."])
def test_equals_encode_prompt(pipe: Any, negative: str | None) -> None:
    prompts = ["A cat sits on the red disc."]
    negatives = None if negative is None else [negative]
    assert_equal(
        tensors(encode(pipe, prompts, negative, strategy="plain")), own_encoding(pipe, prompts, negatives)
    )


def test_equals_encode_prompt_for_a_batch_with_a_long_prompt(pipe: Any) -> None:
    prompts = ["A cat!", "cat " * 300, ""]
    negatives = ["dog", "", "dog " * 100]
    with pytest.warns(TruncationWarning):
        ours = encode(pipe, prompts, negatives, strategy="plain")
    assert_equal(tensors(ours), own_encoding(pipe, prompts, negatives))


def test_half_precision(pipe: Any) -> None:
    kept = {name: module for name, module in pipe.components.items() if name.startswith("text_encoder")}
    for module in filter(None, kept.values()):
        module.to(torch.bfloat16)
    ours = encode(pipe, "A cat sits on the red disc.", strategy="plain")
    assert_equal(tensors(ours), own_encoding(pipe, ["A cat sits on the red disc."], None))
    assert ours.dtype == torch.bfloat16
    for module in filter(None, kept.values()):
        module.to(torch.float32)


def test_reports_what_is_beyond_the_window() -> None:
    """Each "cat " is one token and four characters. 75 of 80 fit beside <sot> and <eot>, so the cut is at
    75 · 4 = 300; the text ends at 80 · 4 − 1 = 319, without its last blank."""
    prompt = "cat " * 80
    with pytest.warns(TruncationWarning, match=r"prompt 2, by text_encoder: 'cat cat cat cat cat'") as caught:
        conditioning = encode(tiny_sd15(), ["cat", prompt], strategy="plain")
    assert len(caught) == 1
    assert conditioning.truncation[0] == ()
    [cut] = conditioning.truncation[1]
    assert (cut.prompt_index, cut.start, cut.end, cut.text) == (1, 300, 319, "cat cat cat cat cat")
    assert not cut.negative


def test_reports_every_encoder_of_sd3() -> None:
    """T5 has 256 places, one for </s>, and "cat" is one token there too: its cut is at 255 · 4 = 1020. The
    two CLIPs leave out the same text and share an entry. The negative prompt has one of its own."""
    pipe = tiny_sd3()
    with pytest.warns(TruncationWarning, match="negative prompt 1") as caught:
        conditioning = encode(pipe, "cat " * 300, "dog " * 76, strategy="plain")
    assert len(caught) == 1
    found = [(cut.start, cut.end, cut.where, cut.negative) for cut in conditioning.truncation[0]]
    assert found == [
        (300, 1199, "text_encoder and text_encoder_2", False),
        (1020, 1199, "text_encoder_3", False),
        (300, 303, "text_encoder and text_encoder_2", True),
    ]


def test_offsets_are_right_whatever_the_tokenizer_makes_of_the_text() -> None:
    """CLIP lower-cases, folds blanks and joins combining marks; offsets are the prompt's own all the same.
    Behind 74 cats, "É" of two characters is the 75th token and fits; "naïve" does not."""
    prompt = "CAT \n\t" * 74 + "e\u0301   naïve 😀"
    with pytest.warns(TruncationWarning):
        conditioning = encode(tiny_sd15(), prompt, strategy="plain")
    assert [cut.text for cut in conditioning.truncation[0]] == ["naïve 😀"]


def test_blanks_that_a_tokenizer_counts_to_a_token_are_no_cut() -> None:
    """T5 tokenizers of older files give a word the blank before it: " cat" from 1019, the text from 1020."""
    pipe = tiny_sd3()
    pipe.tokenizer_3.backend_tokenizer.pre_tokenizer = Metaspace()
    offsets = pipe.tokenizer_3("cat cat", return_offsets_mapping=True)["offset_mapping"]
    assert offsets[1] == (3, 7)
    with pytest.warns(TruncationWarning):
        conditioning = encode(pipe, "cat " * 300, strategy="plain")
    cut = conditioning.truncation[0][-1]
    assert (cut.start, cut.end, cut.where) == (1020, 1199, "text_encoder_3")


def test_segment_of_says_which_sentences_are_within_the_window() -> None:
    """ "A cat." has three tokens: <sot> A cat . → places 1 to 3 are segment 0. The next sentence begins at 4."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        conditioning = encode(tiny_sd15(), "A cat. " + "dog " * 80 + "end. A house.", strategy="plain")
    row = conditioning.segment_of[0].tolist()
    assert row[:5] == [-1, 0, 0, 0, 1]
    assert row[75:] == [1, -1]
    assert len(conditioning.segments[0]) >= 3
