"""The settings of an encoding, and their checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Literal, TypedDict, TypeVar, get_args

from longalign.encoding.cache import EncodingCache
from longalign.encoding.segments import Mode, Segmenter
from longalign.encoding.sentences import check_language
from longalign.encoding.strategy import ConcatRule, Strategy, check_choice
from longalign.encoding.syntax import Syntax
from longalign.encoding.text_parts import T5Branch, TextParts
from longalign.errors import LongalignError
from longalign.plugins import unknown

Pooled = Literal["first", "mean", "whole"]
# One weight a segment: of the only prompt, or a list for each prompt (None: all 1)
SentenceWeights = Sequence[float] | Sequence[Sequence[float] | None] | None


class EncodeOptions(TypedDict, total=False):
    """The keyword arguments of `encode`, for type checkers: those of `Options`, none of them required."""

    strategy: str | ConcatRule | Strategy
    length: int
    max_length: int | None
    segments: Mode | Segmenter
    pooled: Pooled
    language: str
    syntax: Syntax
    weights: SentenceWeights
    clean: bool
    clip_skip: int | None
    prompt_2: str | Sequence[str] | None
    prompt_3: str | Sequence[str] | None
    negative_prompt_2: str | Sequence[str] | None
    negative_prompt_3: str | Sequence[str] | None
    t5: T5Branch | None
    batch_size: int
    cache: EncodingCache | None


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `encode` with their defaults; `encode` explains them.

    Raises:
        LongalignError: one of them is out of range or unknown.
    """

    strategy: str | ConcatRule | Strategy = "auto"
    length: int = 240
    max_length: int | None = None
    segments: Mode | Segmenter = "sentence"
    pooled: Pooled = "whole"
    language: str = "en"
    syntax: Syntax = "plain"
    weights: SentenceWeights = None
    clean: bool = True
    clip_skip: int | None = None
    prompt_2: str | Sequence[str] | None = None
    prompt_3: str | Sequence[str] | None = None
    negative_prompt_2: str | Sequence[str] | None = None
    negative_prompt_3: str | Sequence[str] | None = None
    t5: T5Branch | None = None
    batch_size: int = 64
    cache: EncodingCache | None = None

    def __post_init__(self) -> None:
        for name in ("length", "max_length", "batch_size"):
            number = getattr(self, name)
            if number is None and name == "max_length":
                continue
            if not isinstance(number, int) or number < 1:
                raise LongalignError(f"{name} must be a whole number above 0, not {number!r}")
        check_choice("pooled", self.pooled, get_args(Pooled))
        if not isinstance(self.segments, Segmenter):
            check_choice("segments", self.segments, get_args(Mode))
            check_language(self.language)  # a prompt that fits the window may never be cut
        check_choice("syntax", self.syntax, get_args(Syntax))
        if self.weights is not None and self.syntax == "a1111":
            raise LongalignError(
                "weights of whole sentences act by compel's rule: A1111's brings the mean of a sentence back to what "
                "it was. Use syntax='plain' or syntax='compel' with weights"
            )
        if self.strategy != "auto":
            Strategy.of(self.strategy)

    @classmethod
    def of(cls, function: Callable[..., Any], options: Mapping[str, Any]) -> Options:
        """The options that were given to a function of this package.

        Raises:
            UnknownOptionError: there is no such option; the message names the function and the nearest one.
        """
        known = [name for name in signature(function).parameters if name != "options"]
        for name in options:
            if name not in known:
                raise UnknownOptionError(unknown(f"{function.__name__}: option", name, known))
        return cls(**options)

    def strategy_for(self, parts: TextParts) -> Strategy:
        """The strategy, after checking that the model has the parts that it needs."""
        strategy = Strategy.of(self.strategy)
        if strategy.t5 and parts.backbone.t5 is not None:
            raise LongalignError(
                f"strategy {strategy.kind!r} adds a T5 to models without one, and {parts.backbone.abbreviation} has T5 "
                "of its own: use 'clip-cat'"
            )
        if strategy.t5 and self.t5 is None:
            raise LongalignError(
                f"strategy {strategy.kind!r} needs the T5 branch: give t5=T5Branch.from_pretrained(folder)"
            )
        return strategy


class UnknownOptionError(LongalignError, TypeError):
    """A function has no such option."""


_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes_options(function: _Function) -> _Function:
    """Makes `help` and notebooks show the single `Options` of a function in place of its ``**options``."""
    own = signature(function)
    named = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    options = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in signature(Options).parameters.values()]
    function.__signature__ = own.replace(parameters=named + options)  # type: ignore[attr-defined]
    return function


def weights_each(weights: SentenceWeights, prompts: int) -> list[tuple[float, ...] | None]:
    """The weights of the segments of each prompt.

    Args:
        weights: as of `encode`.
        prompts: how many there are.

    Raises:
        LongalignError: another number of lists, or a weight that is no finite number from 0 on.
    """
    if weights is None:
        return [None] * prompts
    told: Any = list(weights)
    if prompts == 1 and all(isinstance(weight, int | float) for weight in told):
        told = [told]
    if len(told) != prompts or not all(of is None or isinstance(of, Sequence) for of in told):
        raise LongalignError(
            f"weights must be one list of numbers for each of the {prompts} prompts (or None for a prompt without)"
        )
    for of in told:
        for weight in of or ():
            good = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
            if not good or weight < 0:
                raise LongalignError(f"a weight must be a number from 0 on, not {weight!r}")
    return [None if of is None else tuple(map(float, of)) for of in told]


def check_texts(given: str | Sequence[str], what: str) -> list[str]:
    """One text or several, as a list."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        raise LongalignError(f"a {what} must be text or a list of texts, not {type(given).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise LongalignError(f"{what} {i + 1} must be text, not {type(text).__name__}")
    return list(texts)
