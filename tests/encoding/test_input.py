"""Bad input is refused with words that help; what is cut is told, and nothing else."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny import (
    clip_tokenizer,
    t5_branch,
    t5_encoder,
    t5_tokenizer,
    text_encoder,
    tiny_sd3,
    tiny_sd15,
    tiny_sdxl,
)

from longalign.encoding import (
    ConcatRule,
    T5Branch,
    TextParts,
    TruncationWarning,
    encode,
    encode_groups,
)
from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_sd15()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": []}, "no prompts"),
        ({"prompts": ["a", 3]}, "prompt 2 must be text, not int"),
        ({"prompts": None}, "must be text or a list of texts, not NoneType"),
        ({"prompts": b"bytes"}, "not bytes"),
        ({"prompts": "half a pair: \ud800"}, "not valid Unicode"),
        ({"negative_prompt": ["a", "b", "c"]}, "3 negative prompts do not go with 2 prompts"),
        ({"negative_prompt": ["a", None]}, "negative prompt 2 must be text, not NoneType"),
        ({"length": -1}, "length must be a whole number above 0, not -1"),
        ({"length": 0}, "length must be"),
        ({"length": 2.5}, "length must be"),
        ({"max_length": 0}, "max_length must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"strategy": "clipcat"}, "unknown strategy 'clipcat'.*did you mean 'clip-cat'"),
        ({"strategy": "clip-cat:sott=first"}, "unknown setting of the strategy 'sott'.*did you mean 'sot'"),
        ({"strategy": "clip-cat:sot=frist"}, "unknown sot 'frist'.*did you mean 'first'"),
        ({"strategy": "plain:sot=first"}, "'plain' has no settings"),
        ({"strategy": 7}, "must be a name or a ConcatRule, not int"),
        ({"strategy": "t5-mlp"}, "'t5-mlp' needs the T5 branch.*T5Branch.from_pretrained"),
        ({"strategy": "clip+t5"}, "'clip.t5' needs the T5 branch"),
        ({"segments": "sentences"}, "unknown segments 'sentences'.*did you mean 'sentence'"),
        ({"pooled": "last"}, "unknown pooled 'last'"),
    ],
)
def test_bad_arguments(pipe: Any, arguments: dict[str, Any], message: str) -> None:
    for function in (encode, encode_groups):
        with pytest.raises(LongalignError, match=message):
            function(pipe, **{"prompts": ["a", "b"], **arguments})


def test_both_functions_show_the_same_options() -> None:
    """`help` and type checkers read them from different places, which have to agree."""
    from inspect import signature
    from typing import get_type_hints

    from longalign.encoding.options import EncodeOptions, Options

    assert get_type_hints(EncodeOptions) == get_type_hints(Options)
    own = dict(signature(encode).parameters)
    assert own.pop("pad_together").default is False
    assert own == dict(signature(encode_groups).parameters)
    assert list(own)[3:] == list(get_type_hints(Options))
    assert signature(encode).parameters["length"].default == Options().length


def test_an_unknown_option_is_refused(pipe: Any) -> None:
    for function in (encode, encode_groups):
        with pytest.raises(TypeError, match="lenght"):
            function(pipe, "a", lenght=240)


def test_bad_rule() -> None:
    with pytest.raises(LongalignError, match=r"unknown eot 'kept'.*did you mean 'keep'"):
        ConcatRule(eot="kept")


def test_a_missing_part_is_named() -> None:
    for part in ("text_encoder", "tokenizer"):
        pipe = tiny_sd15()
        pipe.register_modules(**{part: None})
        with pytest.raises(LongalignError, match=f"has no {part}:"):
            encode(pipe, "a")
    pipe = tiny_sdxl()
    pipe.register_modules(text_encoder_2=None)
    with pytest.raises(LongalignError, match="has no text_encoder_2:"):
        encode(pipe, "a")


def test_other_models_are_refused() -> None:
    with pytest.raises(LongalignError, match="cannot encode with a str: give a diffusers pipeline"):
        encode("some/model", "a")
    with pytest.raises(LongalignError, match="text_encoder is a T5EncoderModel, not a CLIP text model"):
        TextParts("sd15", (t5_tokenizer(),), (t5_encoder(),))
    with pytest.raises(LongalignError, match="family 'sdxl' has 2 CLIP encoders, not 1"):
        TextParts("sdxl", (clip_tokenizer(),), (text_encoder(),))
    with pytest.raises(LongalignError, match="unknown family 'sd2'"):
        TextParts("sd2", (clip_tokenizer(),), (text_encoder(),))
    with pytest.raises(LongalignError, match="1 tokenizers do not go with 2"):
        TextParts("sdxl", (clip_tokenizer(),), (text_encoder(), text_encoder()))
    with pytest.raises(LongalignError, match="needs joint_width"):
        TextParts("sd3", (clip_tokenizer(),) * 2 + (None,), (text_encoder(), text_encoder(), None))


def test_sd3_has_no_use_for_the_branch() -> None:
    with pytest.raises(LongalignError, match="SD3 has T5 of its own"):
        encode(tiny_sd3(), "a", strategy="clip+t5", t5=t5_branch())


def test_widths_must_fit(pipe: Any) -> None:
    branch = t5_branch()
    with pytest.raises(LongalignError, match="takes states of width 24, but this T5 gives 32"):
        T5Branch(branch.tokenizer, t5_encoder(width=32), branch.adapter)
    with pytest.raises(LongalignError, match=r"adapter gives states of width 40.*32"):
        encode(pipe, "a", strategy="clip+t5", t5=t5_branch(out_dim=40))


# --- what is cut ---


def test_max_length_cuts_and_tells(pipe: Any) -> None:
    """ "A cat." is <sot> and 3 tokens, so 10 places hold both sentences' first 4 + 4 and of the third <sot>
    and one token, "A"; "red dog." is cut. Offsets: "A cat. A cat. A red dog." has "red" at 16."""
    with pytest.warns(TruncationWarning) as caught:
        conditioning = encode(pipe, "A cat. A cat. A red dog.", strategy="clip-cat", max_length=10)
    assert conditioning.embeds.shape[1] == 10
    [[cut]] = conditioning.truncation
    assert (cut.text, cut.start, cut.end, cut.where) == ("red dog.", 16, 24, "max_length")
    assert len(caught) == 1 and "'red dog.'" in str(caught[0].message)
    assert caught[0].filename == __file__
    whole = encode(pipe, "A cat. A cat. A red dog.", strategy="clip-cat")
    assert torch.equal(conditioning.embeds[0], whole.embeds[0, :10])


def test_a_cut_that_hits_no_text_is_none(pipe: Any) -> None:
    """With <eot> kept, "A cat." has 5 places. The fifth is no text."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditioning = encode(pipe, "A cat.", strategy="clip-cat:eot=keep", max_length=4)
    assert conditioning.truncation == ((),)


def test_released_pieces_beyond_the_window_are_told(pipe: Any) -> None:
    """The published rule does not mind the window: 80 words without a full stop are one piece, and 75 fit."""
    prompt = "A dog! " + "cat " * 80 + ". End."
    with pytest.warns(TruncationWarning):
        conditioning = encode(pipe, prompt, segments="released")
    [[cut]] = conditioning.truncation
    # "a", "dog", "!" and 72 cats fill the 75 places: the cut is at 7 + 72 · 4 = 295.
    assert (cut.start, cut.where) == (295, "text_encoder")
    assert cut.text == "cat " * 8 + "."


def test_groups_warn_once_for_all(pipe: Any) -> None:
    prompts = ["cat " * 300, "dog", "dog " * 20]
    with pytest.warns(TruncationWarning, match="2 of 3 prompts") as caught:
        groups = encode_groups(pipe, prompts, max_length=12, length=4)
    assert len(caught) == 1
    found = {i: c.truncation[row] for indices, c in groups for row, i in enumerate(indices)}
    assert [bool(found[i]) for i in range(3)] == [True, False, True]
    assert found[2][0].prompt_index == 2


def test_a_long_cut_is_shortened_in_the_warning_only(pipe: Any) -> None:
    with pytest.warns(TruncationWarning, match=r"… \(19,9\d\d characters\)") as caught:
        conditioning = encode(pipe, "cat " * 5000, max_length=10)
    assert len(str(caught[0].message)) < 500
    assert len(conditioning.truncation[0][0].text) > 19_900


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """All that transformers and diffusers log."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Handler()
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    for logger in loggers:
        logger.addHandler(handler)
    yield messages
    for logger in loggers:
        logger.removeHandler(handler)


def test_the_log_is_caught(logged: list[str]) -> None:
    clip_tokenizer()("cat " * 100)
    assert len(logged) == 1 and "Token indices sequence length is longer" in logged[0]


@pytest.mark.parametrize("strategy", ["plain", "clip-cat", "clip+t5"])
def test_no_other_warnings(logged: list[str], strategy: str) -> None:
    """Longer than CLIP's window and than T5's 512: one warning of ours where something is cut, and silence."""
    pipe = tiny_sd15()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encode(pipe, "A cat sits. " * 200, strategy=strategy, t5=t5_branch())
    assert logged == []
    assert [w.category for w in caught] == ([] if strategy == "clip-cat" else [TruncationWarning])


def test_own_segmenter(pipe: Any) -> None:
    segmenter = Segmenter("sentence", pipe.tokenizer, window=7, language="de")
    conditioning = encode(pipe, "Die Katze z. B. schläft. Ja.", segments=segmenter)
    assert list(conditioning.segments[0]) == segmenter("Die Katze z. B. schläft. Ja.")
    language = encode(pipe, "Die Katze z. B. schläft. Ja.", language="de")
    assert len(language.segments[0]) == 2


@pytest.mark.parametrize("prompt", ["", "   ", "…", "\u200b", "🙂" * 40, "ก" * 200, "x" * 2000, "!" * 300])
def test_odd_prompts(pipe: Any, prompt: str) -> None:
    for segments in ("sentence", "packed", "released"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            [(_, conditioning)] = encode_groups(pipe, prompt, prompt, segments=segments)
        assert torch.isfinite(conditioning.embeds).all()
        assert torch.equal(conditioning.embeds, conditioning.negative_embeds)
