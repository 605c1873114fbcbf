"""Names of the encodings, and the rules of LongAlign, App. A, for joining segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from longalign.errors import LongalignError
from longalign.plugins import nearest

Kind = Literal["plain", "clip-cat", "t5-mlp", "clip+t5"]
Sot = Literal["keep", "first", "drop", "replace"]
Special = Literal["keep", "drop", "replace"]
PadStar = Literal["paper", "released"]
Context = Literal["none", "before", "referent"]


@dataclass(frozen=True)
class ConcatRule:
    """Which special tokens of each segment are kept (App. A, Figs. 10 and 11). The default is the paper's choice.

    Attributes:
        sot: the start tokens: all are kept, only that of the ``first`` segment (the paper's `1-sot`), or none.
        eot: the end tokens.
        pad: what fills each segment up to the encoder's window. ``keep`` and ``replace`` make every segment a
            whole window long.
        pad_star: the vector that fills the row up to its length: the mean over ``paper``: all pad positions
            of the empty prompt, ``released``: its last 60 positions, as the published weights were trained.
        context: what stands ahead of a sentence while it is encoded, its own states alone being kept: nothing (the
            paper's), as many of the sentences ``before`` it as the window holds, or, of a sentence that refers back
            (`longalign.encoding.context`), those that it may refer to (``referent``), which costs next to nothing.

    ``replace`` puts pad* in the token's place.
    """

    sot: Sot = "keep"
    eot: Special = "drop"
    pad: Special = "drop"
    pad_star: PadStar = "paper"
    context: Context = "none"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if self.context != "none" and self.pad == "keep":
            raise LongalignError(
                f"context={self.context} leaves no room for pads in the window, so they cannot be kept: use pad=replace"
            )


_CHOICES = {
    "sot": get_args(Sot),
    "eot": get_args(Special),
    "pad": get_args(Special),
    "pad_star": get_args(PadStar),
    "context": get_args(Context),
}


@dataclass(frozen=True)
class Strategy:
    """An encoding, and its rule for joining segments if it has one."""

    kind: Kind
    rule: ConcatRule = field(default_factory=ConcatRule)

    @property
    def clip(self) -> bool:
        return self.kind in ("clip-cat", "clip+t5")

    @property
    def t5(self) -> bool:
        return self.kind in ("t5-mlp", "clip+t5")

    @classmethod
    def of(cls, strategy: str | ConcatRule | Strategy) -> Strategy:
        """Reads ``"clip+t5"``, ``"clip-cat:sot=first,eot=keep"`` or a rule, which means clip-cat by it.

        Raises:
            LongalignError: a name or value is unknown; the message names the nearest one.
        """
        if isinstance(strategy, Strategy):
            return strategy
        if isinstance(strategy, ConcatRule):
            return cls("clip-cat", strategy)
        if not isinstance(strategy, str):
            raise LongalignError(f"strategy must be a name or a ConcatRule, not {type(strategy).__name__}")
        name, colon, settings = strategy.partition(":")
        check_choice("strategy", name, get_args(Kind))
        kind: Kind = name  # type: ignore[assignment]
        if colon and kind not in ("clip-cat", "clip+t5"):
            raise LongalignError(f"strategy {name!r} has no settings, so {':' + settings!r} means nothing")
        chosen = {}
        for setting in settings.split(",") if settings else ():
            key, _, value = (part.strip() for part in setting.partition("="))
            check_choice("setting of the strategy", key, [f.name for f in fields(ConcatRule)])
            chosen[key] = value
        return cls(kind, ConcatRule(**chosen))  # type: ignore[arg-type]


def check_choice(name: str, given: object, choices: Sequence[str]) -> None:
    """Raises a LongalignError that names the nearest choice, unless ``given`` is one."""
    if given not in choices:
        near = nearest(str(given), choices)
        hint = "" if near is None else f"; did you mean {near!r}?"
        raise LongalignError(f"unknown {name} {given!r}: choose one of {', '.join(choices)}{hint}")
