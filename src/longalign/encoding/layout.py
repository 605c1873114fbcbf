"""The order of tokens in a row of joined segments: ``<sot> Text1. <sot> Text2. … <pad*>`` (LongAlign, App. A)."""

from __future__ import annotations

from collections.abc import Sequence

from longalign.encoding.strategy import ConcatRule
from longalign.encoding.tokens import Tokens

# (segment, place in it): place 0 is <sot>, then the text's tokens, <eot>, and pads up to the window.
Cell = tuple[int, int]
PAD_STAR: Cell = (-1, 0)


def lay_out(counts: Sequence[int], rule: ConcatRule, window: int) -> list[Cell]:
    """The row of cells for one prompt, before pad* is added.

    Args:
        counts: text tokens of each segment, without special tokens.
    """
    row: list[Cell] = []
    for segment, count in enumerate(counts):
        if rule.sot == "keep" or (rule.sot == "first" and segment == 0):
            row.append((segment, 0))
        elif rule.sot == "replace":
            row.append(PAD_STAR)
        row += [(segment, place) for place in range(1, count + 1)]
        if rule.eot != "drop":
            row.append((segment, count + 1) if rule.eot == "keep" else PAD_STAR)
        if rule.pad != "drop":
            pads = range(count + 2, window)
            row += [(segment, place) if rule.pad == "keep" else PAD_STAR for place in pads]
    return row


def tokens_needed(tokens: Tokens, rule: ConcatRule, window: int) -> int:
    """The number of a segment's states that `lay_out` may use."""
    if rule.pad == "keep":
        return window
    return len(tokens) - (rule.eot != "keep")


def bank_index(
    row: Sequence[Cell],
    length: int,
    starts: Sequence[int],
    ahead: Sequence[int],
    own: Sequence[int],
    joint: Sequence[int],
) -> list[int]:
    """The index of each position's state in one encoder's bank of states, whose entry 0 is pad*.

    Two encoders of one model may cut a segment into different numbers of tokens (a textual-inversion token
    that only one of them knows). They are joined token by token, as in the pipelines. The shorter one is filled with
    its own pad* before its end token.

    Args:
        length: number of positions; positions after the row are pad*.
        starts: where each segment's row begins in the bank, with its start token.
        ahead: tokens of other segments between that and its own.
        own: text tokens of each segment for this encoder; ``joint`` for the encoder with most.
    """
    index = []
    for segment, place in row:
        if segment < 0 or own[segment] < place <= joint[segment]:
            index.append(0)
        elif place == 0:
            index.append(starts[segment])
        elif place == joint[segment] + 1:
            index.append(starts[segment] + ahead[segment] + own[segment] + 1)
        else:
            index.append(starts[segment] + ahead[segment] + place)
    return index + [0] * (length - len(row))


def segment_row(row: Sequence[Cell], joint: Sequence[int], length: int) -> list[int]:
    """Each position's segment; −1 for pads of every kind."""
    return [s if s >= 0 and place <= joint[s] + 1 else -1 for s, place in row] + [-1] * (length - len(row))


def padded(n_tokens: int, length: int, max_length: int | None) -> int:
    """The smallest multiple of ``length`` that holds ``n_tokens``, but at most ``max_length``."""
    multiple = max(-(-n_tokens // length), 1) * length
    return multiple if max_length is None else min(multiple, max_length)
