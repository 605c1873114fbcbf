"""TIT-Score: text → image → text (Wang et al. 2025, arXiv 2510.02987).

A vision-language model describes the picture. A text encoder compares the description with the prompt. Instruction and
settings are those of the published code, which recommends Qwen2.5-VL and Qwen3-Embedding (pooled at the last token).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longalign.errors import LongalignError
from longalign.metrics.metric import MetricColumn, PictureBatch, Tools
from longalign.metrics.text_embedder import TextEmbedder
from longalign.metrics.vlm import VlmMetric, VlmOptions, named_model

INSTRUCTION = (
    "Please provide a detailed, single-paragraph description of the image in English, using between 250 and 350 "
    "words."
)


@dataclass(frozen=True)
class TitOptions(VlmOptions):
    """Options of `Tit`.

    Attributes:
        model: folder or hub name of an image-text-to-text model of transformers.
        batch_size: pictures, or texts, that a model reads at once.
        embedder: folder or hub name of a text encoder, plain or in the layout of sentence-transformers.
        pooling: ``mean``, ``cls``, ``lasttoken`` or ``max``; None: what the encoder's folder states, else ``mean``.
        instruction: for the description.
        max_new_tokens: of a description, at most.
    """

    embedder: str | None = None
    pooling: str | None = None
    instruction: str = INSTRUCTION
    max_new_tokens: int = 512


class Tit(VlmMetric):
    """Cosine between the prompt and a description of the picture.

    Args:
        tools: what the evaluation has loaded.
        options: a `TitOptions`.

    Raises:
        LongalignError: a model is not given or cannot be loaded.
    """

    name = "tit"
    columns = (MetricColumn("tit", "TIT-Score", ".3f", "higher"),)
    Options = TitOptions

    def __init__(self, tools: Tools, options: Any = None) -> None:
        options = options or TitOptions()
        embedder = named_model(
            self.name, "embedder", options.embedder, "text encoder", "Qwen/Qwen3-Embedding-8B"
        )
        super().__init__(tools, options)
        try:
            self.embedder = TextEmbedder.from_pretrained(
                embedder, pooling=options.pooling, device=tools.device, dtype=tools.dtype
            )
        except LongalignError as error:
            raise LongalignError(f"{self.name}: {error}") from error

    @classmethod
    def weights(cls, tools: Tools, options: Any) -> Sequence[str]:
        """The vision-language model and the text encoder.

        Args:
            tools: what the evaluation has loaded.
            options: a `TitOptions`.
        """
        return tuple(name for name in (options.model, options.embedder) if name is not None)

    def measure(self, batch: PictureBatch) -> Sequence[Mapping[str, Any]]:
        """One value a picture: ``tit``, the ``description`` and the ``prompt``. NaN where the model wrote nothing.

        Args:
            batch: decoded pictures with their prompts.

        Raises:
            LongalignError: a model cannot read them.
        """
        size, texts = self.options.batch_size, []
        for start in range(0, len(batch), size):
            texts += self.vlm.describe(
                batch.images[start : start + size], self.options.instruction, self.options.max_new_tokens
            )
        different = list(dict.fromkeys(text for text in (*texts, *batch.prompts) if text.strip()))
        place = {text: k for k, text in enumerate(different)}
        embeddings = self.embedder(different, size)  # (N, D)
        return [
            {
                "tit": float(embeddings[place[text]] @ embeddings[place[prompt]])
                if text in place and prompt in place
                else math.nan,
                "description": text,
                "prompt": prompt,
            }
            for text, prompt in zip(texts, batch.prompts, strict=True)
        ]

    @property
    def what(self) -> str:
        """Names both models, the pooling and the instruction."""
        return (
            f"{super().what}, instruction {self.options.instruction!r}, compared by {self.options.embedder} "
            f"({self.embedder.pooling} pooling)"
        )

    @property
    def reads(self) -> str:
        """Names the window of the text encoder."""
        return f"the first {self.embedder.window_tokens} tokens"

    def share_read(self, prompts: Sequence[str]) -> str:
        """The share of the prompts' tokens in the window of the text encoder.

        Args:
            prompts: of all pictures of all sets.
        """
        counts = self.embedder.tokens_of(list(dict.fromkeys(prompts)))
        read, whole = sum(min(n, self.embedder.window_tokens) for n in counts), sum(counts)
        return f"{read / whole:.1%} of the tokens" if whole else "—"
