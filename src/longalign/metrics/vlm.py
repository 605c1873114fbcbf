"""Base of the metrics that ask a vision-language model. A model that several of them name is loaded once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from longalign.data.vision_language import VisionLanguageModel
from longalign.errors import LongalignError
from longalign.metrics.metric import Metric, Tools

_loaded: WeakKeyDictionary[Tools, WeakValueDictionary[str, VisionLanguageModel]] = WeakKeyDictionary()


@dataclass(frozen=True)
class VlmOptions:
    """Options of a metric that asks a vision-language model.

    Attributes:
        model: folder or hub name of an image-text-to-text model of transformers.
        batch_size: questions that the model reads at once.
    """

    model: str | None = None
    batch_size: int = 8


def shared_model(tools: Tools, name: str) -> VisionLanguageModel:
    """A vision-language model, loaded once as long as a metric of the same evaluation holds it.

    Args:
        tools: of the evaluation.
        name: folder or hub name.

    Raises:
        LongalignError: it cannot be loaded.
    """
    models = _loaded.setdefault(tools, WeakValueDictionary())
    model = models.get(name)
    if model is None:
        model = VisionLanguageModel.from_pretrained(name, device=tools.device, dtype=tools.dtype)
        models[name] = model
    return model


def named_model(metric: str, option: str, value: str | None, kind: str, example: str) -> str:
    """The value of an option that names a model. None has a default, so that nothing large is downloaded unasked.

    Args:
        metric: name of the metric.
        option: name of the option.
        value: what the user gave.
        kind: of the model, for the message.
        example: a hub name of such a model.

    Raises:
        LongalignError: the user gave none.
    """
    if value is None:
        raise LongalignError(
            f"{metric}: no {kind} is given: --set {metric}.{option}=NAME, a folder or a hub name such as {example}"
        )
    return value


class VlmMetric(Metric):
    """Base class of metrics that ask a vision-language model.

    Args:
        tools: what the evaluation has loaded.
        options: a `VlmOptions` or a subclass of it.

    Raises:
        LongalignError: no model is given, it cannot be loaded, or the batch size is not positive.
    """

    Options = VlmOptions

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        name = named_model(
            self.name,
            "model",
            self.options.model,
            "vision-language model",
            "Qwen/Qwen2.5-VL-7B-Instruct",
        )
        if self.options.batch_size < 1:
            raise LongalignError(
                f"{self.name}: batch_size is {self.options.batch_size}; it must be at least 1"
            )
        self.vlm = shared_model(tools, name)

    @classmethod
    def weights(cls, tools: Tools, options: Any) -> Sequence[str]:
        """The vision-language model.

        Args:
            tools: what the evaluation has loaded.
            options: an `Options`.
        """
        return () if options.model is None else (options.model,)

    @property
    def what(self) -> str:
        """Names the model, and whether its chat template is used."""
        chat = "its chat template" if self.vlm.has_chat_template else "no chat template"
        return f"{self.name} by {self.options.model} with {chat}"

    @property
    def reads(self) -> str:
        """All of the prompt."""
        return "the whole prompt"

    def share_read(self, prompts: Sequence[str]) -> str:
        """All of it: a prompt beyond the context of the model is an error.

        Args:
            prompts: of all pictures of all sets.
        """
        return "100.0% of the characters" if any(prompts) else "—"


def filled(template: str, of_metric: str, **fields: str) -> str:
    """A template with texts in place of ``{field}``. Braces in the texts are left as they are.

    Args:
        template: must hold each field.
        of_metric: for messages.
        fields: name → text.

    Raises:
        LongalignError: the template lacks a field.
    """
    for name in fields:
        if f"{{{name}}}" not in template:
            raise LongalignError(f"{of_metric}: the template {template!r} has no place {{{name}}}")
    return re.sub(r"\{(\w+)\}", lambda found: fields.get(found[1], found[0]), template)
