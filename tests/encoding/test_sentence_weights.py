"""`encode(weights=…)`: one weight a sentence acts as compel's ``(sentence)1.3`` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import tiny_sd3, tiny_sd15

from longalign import LongalignError, encode

PROMPT = "A red cat sits. A dog runs."


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sd3])
@pytest.mark.parametrize("strategy", ["plain", "clip-cat"])
def test_equals_the_notation_of_compel(make: Callable[[], Any], strategy: str) -> None:
    """The second sentence has 1.3; in SD3 both CLIPs and T5 follow. The segments stay those of the prompt."""
    pipe = make()
    ours = encode(pipe, PROMPT, strategy=strategy, weights=[1, 1.3])
    theirs = encode(pipe, "A red cat sits. (A dog runs.)1.3", strategy=strategy, syntax="compel")
    assert torch.equal(ours.embeds, theirs.embeds)
    plain = encode(pipe, PROMPT, strategy=strategy)
    assert not torch.equal(ours.embeds, plain.embeds)
    assert ours.segments == plain.segments and torch.equal(ours.segment_of, plain.segment_of)
    assert torch.equal(encode(pipe, PROMPT, strategy=strategy, weights=[1, 1.0]).embeds, plain.embeds)


def test_several_prompts_and_marks() -> None:
    """A list each. Weights of the notation are multiplied: (red)1.2 in a sentence of 1.5 has 1.8."""
    pipe = tiny_sd15()
    both = encode(pipe, [PROMPT, "A fox."], weights=[[1, 0.5], None], strategy="clip-cat", pad_together=True)
    for row, alone in enumerate(
        [
            encode(pipe, PROMPT, weights=[1, 0.5], strategy="clip-cat"),
            encode(pipe, "A fox.", strategy="clip-cat"),
        ]
    ):
        torch.testing.assert_close(both.embeds[row], alone.embeds[0], atol=1e-5, rtol=1e-4)
    marked = encode(pipe, "A (red)1.2 cat.", syntax="compel", weights=[1.5])
    nested = encode(pipe, "(A)1.5 (red)1.8 (cat.)1.5", syntax="compel")
    torch.testing.assert_close(marked.embeds, nested.embeds)


def test_what_is_refused() -> None:
    pipe = tiny_sd15()
    for prompts, weights, more, says in (
        (PROMPT, [1.2], {}, "1 weights do not go with 2 segments"),
        (PROMPT, [1.2, -1], {}, "a number from 0 on, not -1"),
        (PROMPT, [1.2, float("nan")], {}, "a number from 0 on, not nan"),
        (PROMPT, [1.2, 1], {"syntax": "a1111"}, "A1111's brings the mean"),
        ([PROMPT, "A fox."], [1.2, 1], {}, "one list of numbers for each of the 2 prompts"),
        ([PROMPT, PROMPT], [[1.2, 1], [1, 1]], {}, "same prompt occurs with different weights"),
        ([PROMPT, PROMPT], [[1.2, 1], None], {}, "occurs once more without"),
        (PROMPT, [1.2, 1], {"negative_prompt": PROMPT}, "or as a negative prompt"),
    ):
        with pytest.raises(LongalignError, match=says):
            encode(pipe, prompts, weights=weights, **more)  # type: ignore[arg-type]
