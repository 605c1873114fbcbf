"""Names that the page offers → models with LoRAs and soft tokens on them. The last ones that were used stay loaded."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from longalign.errors import LongalignError
from longalign.generation import GenerateConfig
from longalign.generation.painter import Painter
from longalign.plugins import unknown
from longalign.preference import PreferenceModel
from longalign.studio.cut import Cut, cut_prompt
from longalign.studio.settings import StudioConfig
from longalign.worlds import owner

STRATEGIES = ("auto", "clip-cat", "plain", "clip-cat:context=referent")


@dataclass(frozen=True)
class Choice:
    """A stack, as a user chose it by names that the page offers.

    Attributes:
        model: the base.
        loras: in the order of their training.
        soft_tokens: name, or None.
        strategy: how text is encoded.
    """

    model: str
    loras: tuple[str, ...] = ()
    soft_tokens: str | None = None
    strategy: str = "auto"

    @property
    def label(self) -> str:
        """What it is, in a few words."""
        words = [name for name in (*self.loras, self.soft_tokens) if name]
        plain = {"auto": "", "clip-cat": "segment by segment", "plain": "plain, first 77 tokens"}
        encoding = plain.get(self.strategy, self.strategy)
        parts = [" + ".join([self.model, *words]), encoding]
        return " · ".join(part for part in parts if part)


class Stacks:
    """The models of a studio. One is loaded when it is first used; the least recently used one is dropped.

    Args:
        config: what is offered.
    """

    def __init__(self, config: StudioConfig) -> None:
        self.config = config
        self._pipes: OrderedDict[GenerateConfig, Any] = OrderedDict()
        self._tokenizers: dict[str, Any] = {}
        self._scorer: PreferenceModel | None = None
        self._lock = threading.RLock()

    def loras_of(self, model: str) -> list[str]:
        """LoRAs that are offered for a model.

        Args:
            model: one of the models.
        """
        world = owner(model)
        return [*(world.lora_names(model) if world else ()), *self.config.loras]

    def tokens_of(self, model: str) -> list[str]:
        """Soft tokens that are offered for a model.

        Args:
            model: one of the models.
        """
        world = owner(model)
        return [*(world.token_names(model) if world else ()), *self.config.soft_tokens]

    def check(self, choice: Choice) -> Choice:
        """The choice, if each of its names is offered. A page or a program may send any other name.

        Args:
            choice: what the user chose.

        Raises:
            LongalignError: a name is not offered.
        """
        if choice.model not in self.config.models:
            raise LongalignError(
                unknown("model", choice.model, self.config.models) + _START.format("--model")
            )
        for lora in choice.loras:
            if lora not in (names := self.loras_of(choice.model)):
                raise LongalignError(unknown("LoRA", lora, names) + _START.format("--lora"))
        if choice.soft_tokens is not None and choice.soft_tokens not in (
            names := self.tokens_of(choice.model)
        ):
            raise LongalignError(
                unknown("soft tokens", choice.soft_tokens, names) + _START.format("--soft-tokens")
            )
        if choice.strategy not in STRATEGIES:
            raise LongalignError(unknown("text encoding", choice.strategy, STRATEGIES))
        return choice

    def painter(self, choice: Choice, **settings: object) -> Painter:
        """A model that draws by these settings. Settings of sampling are changed without loading it anew.

        Its solver is changed for all who hold the model, so only one job at a time may draw.

        Args:
            choice: checked.
            settings: of `GenerateConfig`.

        Raises:
            LongalignError: the model cannot be loaded, or a setting is wrong.
        """
        bare = self._bare(choice)
        wanted = replace(bare, strategy=choice.strategy, **settings)  # type: ignore[arg-type]
        with self._lock:
            return Painter(wanted, self._pipe(bare))

    def cut(self, prompt: str, model: str, syntax: str = "plain") -> Cut:
        """A prompt, cut for a model. Any thread may call this, also while the model draws.

        Args:
            prompt: of any length.
            model: one of the models.
            syntax: notation of weights.

        Raises:
            LongalignError: as of `longalign.studio.cut.cut_prompt`; the model is not offered or cannot be loaded.
        """
        choice = self.check(Choice(model))
        with self._lock:
            if model not in self._tokenizers:  # one of our own: two threads must not use one tokenizer
                self._tokenizers[model] = copy.deepcopy(self._pipe(self._bare(choice)).tokenizer)
            return cut_prompt(self._tokenizers[model], prompt, syntax)

    def warm(self) -> None:
        """Loads the first model and the preference model, where both are embedded, before anybody asks for them."""
        names = [self.config.models[0], *([self.config.scorer] if self.config.scorer else [])]
        if all(owner(name) is not None for name in names):
            with suppress(LongalignError), self._lock:  # it is told to the one who asks
                self._pipe(self._bare(Choice(self.config.models[0])))
                _ = self.scorer

    def _bare(self, choice: Choice) -> GenerateConfig:
        """What decides which weights are loaded."""
        return GenerateConfig(
            model=choice.model,
            loras=choice.loras,
            soft_tokens=choice.soft_tokens,
            device=self.config.device,
            dtype=self.config.dtype,
        )

    def _pipe(self, bare: GenerateConfig) -> Any:
        """The pipeline, loaded if it is not kept. Nothing on it is changed: it may be drawing."""
        kept = self._pipes.pop(bare, None)
        while kept is None and len(self._pipes) >= self.config.keep:
            self._pipes.popitem(last=False)
        self._pipes[bare] = kept or bare.load()
        return self._pipes[bare]

    @property
    def scorer(self) -> PreferenceModel | None:
        """The preference model, loaded when it is first asked for; None where there is none."""
        if self.config.scorer is None:
            return None
        with self._lock:
            if self._scorer is None:
                self._scorer = PreferenceModel.from_pretrained(
                    self.config.scorer, device=self.config.device, dtype=self.config.dtype
                )
            return self._scorer


_START = ". This studio offers what it was started with: `longalign studio {} NAME`"


def compared(choice: Choice, others: Sequence[str], stacks: Stacks) -> list[Choice]:
    """The stacks that are drawn side by side: the chosen one, and the others.

    Args:
        choice: the chosen one.
        others: of `comparisons`.
        stacks: the models.

    Raises:
        LongalignError: a name is not offered.
    """
    offered = comparisons(choice.model, stacks)
    found = [choice]
    for name in others:
        if name not in offered:
            raise LongalignError(unknown("comparison", name, list(offered)))
        if offered[name] not in found:
            found.append(offered[name])
    return found


def comparisons(model: str, stacks: Stacks) -> dict[str, Choice]:
    """What a model can be compared with: words of the page → stack.

    Args:
        model: the chosen one.
        stacks: the models.
    """
    found = {
        "first 77 tokens (plain)": Choice(model, strategy="plain"),
        "segment by segment": Choice(model, strategy="clip-cat"),
    }
    found |= {f"LoRA {name}": Choice(model, (name,)) for name in stacks.loras_of(model)}
    found |= {f"soft tokens {name}": Choice(model, (), name) for name in stacks.tokens_of(model)}
    found |= {f"model {name}": Choice(name) for name in stacks.config.models if name != model}
    return found
