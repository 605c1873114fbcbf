"""Embeddings of a long series of pictures and texts, in which each different text is encoded once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from longalign.preference.decomposition import Decomposition
from longalign.preference.model import PreferenceModel
from longalign.preference.scores import Scores, scores_of
from longalign.runtime import inference

_TEXTS_KEPT = 16_384  # embeddings; 64 MB at 1,024 numbers each


class EmbeddingMemory:
    """Unit embeddings of pictures, and of texts, which it remembers. They lie on the CPU, without gradient.

    Args:
        model: the preference model.
    """

    def __init__(self, model: PreferenceModel) -> None:
        self.model = model
        self._known: dict[str, Tensor] = {}

    def forget(self) -> None:
        """Forget all texts."""
        self._known.clear()

    def images(self, prepared: Sequence[Tensor]) -> Tensor:
        """B pictures (1, 3, S, S) that `PreferenceModel.preprocess` has prepared → (B, D)."""
        with inference(self.model.clip):
            return self.model.image_prepared(torch.cat(list(prepared)).to(self.model.device)).cpu()

    def texts(self, texts: Sequence[str], truncate: bool = False) -> Tensor:
        """(N) texts → (N, D); ``truncate`` as in `PreferenceModel.text`."""
        # A text that is cut is longer than the window, so it is no sentence: one memory serves both.
        if len(self._known) > _TEXTS_KEPT:
            self._known.clear()
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            with inference(self.model.clip):
                encoded = self.model.text(new, truncate=truncate).cpu()
            self._known.update(zip(new, encoded, strict=True))
        if not texts:
            return torch.zeros(0, self.model.width)
        return torch.stack([self._known[text] for text in texts])

    def score(
        self, images: Tensor, prompts: Sequence[str], decomposition: Decomposition | None = None
    ) -> Scores:
        """The scores that `PreferenceModel.score` gives, from embeddings of pictures.

        Args:
            images: (B, D) from `images`.
            prompts: B texts of any length.
            decomposition: replaces the model's own.
        """
        texts = [[segment.text for segment in self.model.segments(prompt)] for prompt in prompts]
        segments = self.texts([text for of_prompt in texts for text in of_prompt])  # (Σ K, D)
        single = self.texts(prompts, truncate=True)  # (B, D)
        return scores_of(images, segments, single, texts, decomposition or self.model.decomposition)
