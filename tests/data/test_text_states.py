"""Captions encoded one by one and joined: the same as `longalign.encode_groups`, and with gradient for the adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import WIDTH, t5_branch, tiny_sd3, tiny_sd15, tiny_sdxl

from longalign.data.text_states import TextSide, join
from longalign.encoding import encode_groups
from longalign.errors import LongalignError

TEXTS = ["A cat sits on the red house. A dog runs.", "A tree.", "The cat is in the house. " * 5, ""]
LENGTH = 24  # so that the third text needs twice as much


def branch(family: str) -> Any:
    return t5_branch(WIDTH if family == "sd15" else WIDTH + 40)


PIPES = {"sd15": tiny_sd15, "sdxl": tiny_sdxl, "sd3": tiny_sd3}
CASES = [(f, s) for f in ("sd15", "sdxl") for s in ("plain", "clip-cat", "t5-mlp", "clip+t5")]
CASES += [("sd3", "plain"), ("sd3", "clip-cat"), ("sd15", "clip-cat:eot=keep,pad_star=released")]


@pytest.mark.parametrize(("family", "strategy"), CASES)
@torch.no_grad()
def test_joined_states_are_the_encoding(family: str, strategy: str) -> None:
    """Prompts, their unconditional counterparts (zeros for SDXL) and pooled vectors, group by group."""
    pipe = PIPES[family]()
    t5 = branch(family) if "t5" in strategy else None
    expected = dict_of(encode_groups(pipe, TEXTS, strategy=strategy, length=LENGTH, t5=t5))
    side = TextSide(pipe, strategy, LENGTH, t5)
    states = side.encode(TEXTS)
    found = dict_of(join(states, side.padding, t5.adapter if t5 else None))
    for i, (embeds, pooled, negative, negative_pooled) in expected.items():
        torch.testing.assert_close(found[i][0], embeds)
        torch.testing.assert_close(found[i][2], negative)
        for a, b in ((found[i][1], pooled), (found[i][3], negative_pooled)):
            assert (a is None) == (b is None)
            torch.testing.assert_close(a, b) if a is not None else None


def dict_of(groups: Any) -> dict[int, tuple[Any, ...]]:
    """place → its row of embeddings, pooled vector, and those of its negative prompt."""
    fields = ("embeds", "pooled", "negative_embeds", "negative_pooled")
    rows: dict[int, tuple[Any, ...]] = {}
    for members, c in groups:
        for row, i in enumerate(members):
            rows[i] = tuple(None if getattr(c, f) is None else getattr(c, f)[row] for f in fields)
    return rows


def test_states_are_kept_without_pad_star() -> None:
    """ "A tree." is <sot> a tree . : four states. T5's are kept padded, since its pads are not masked."""
    t5 = branch("sd15")
    side = TextSide(tiny_sd15(), "clip+t5", LENGTH, t5)
    short, long = side.encode(["A tree.", TEXTS[2]])
    assert short.own is not None and short.own.shape == (4, WIDTH) and short.own_shape == (LENGTH, 0)
    assert long.own is not None and len(long.own) == 5 * 8 and long.own_shape == (2 * LENGTH, 0)
    assert short.t5 is not None and len(short.t5) == LENGTH
    assert not short.cut


def test_dropped_captions_become_the_empty_prompt_at_their_own_length() -> None:
    side = TextSide(tiny_sdxl(force_zeros_for_empty_prompt=False), "clip-cat", LENGTH)
    states = side.encode(TEXTS[:3])
    groups = join(states, side.padding, drop=[True, False, True])
    assert [members for members, _ in groups] == [[0, 1], [2]]
    (_, c), (_, long) = groups
    assert torch.equal(c.embeds[0], c.negative_embeds[0]) and not torch.equal(
        c.embeds[1], c.negative_embeds[1]
    )
    assert (
        c.pooled is not None
        and c.negative_pooled is not None
        and torch.equal(c.pooled[0], c.negative_pooled[0])
    )
    assert torch.equal(long.embeds, long.negative_embeds) and long.embeds.shape[1] == 2 * LENGTH
    assert c.embeds.abs().sum() > 0


def test_the_adapter_gets_gradient_and_the_encoders_none() -> None:
    t5 = branch("sd15")
    side = TextSide(tiny_sd15(), "clip+t5", LENGTH, t5)
    [(_, c)] = join(side.encode(TEXTS[:2]), side.padding, t5.adapter, drop=[False, True])
    c.embeds.square().sum().backward()
    assert all(p.grad is not None for p in t5.adapter.parameters())
    assert all(p.grad is None for m in side.modules for p in m.parameters())


def test_a_strategy_without_its_parts_is_refused() -> None:
    with pytest.raises(LongalignError, match="needs the T5 branch"):
        TextSide(tiny_sd15(), "t5-mlp")


def test_what_was_cut_is_known() -> None:
    side = TextSide(tiny_sd15(), "plain")
    assert [s.cut for s in side.encode(["A tree.", "A cat. " * 60])] == [False, True]
