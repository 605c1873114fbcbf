"""Preference models as losses on pictures (LongAlign, §2.3, §4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.objectives.reward.settings import RewardModel, RewardSettings, TextReading, VSource
from longalign.preference import PreferenceModel
from longalign.preference.decomposition import Decomposition
from longalign.runtime import inference


@dataclass(frozen=True, eq=False)
class Reward:
    """One preference model in the sum that is the reward.

    Attributes:
        name: name in metrics and messages.
        model: the preference model.
        weight: weight in the sum.
        omega: ω, the factor of the text-irrelevant part: 1 is the plain score, 0 is text–image alignment only.
        v: source of V: ``stored`` beside the model, or the ``batch`` in all processes, as in the released code. With
            one prompt in the batch, V is the direction of that prompt, and only ω·C_P remains.
        text: C_P^seg of all ``segments``, as Denscore reads, or C_P of the ``single`` window of first tokens.

    Raises:
        LongalignError: V should be the stored one, and the model has none.
    """

    name: str
    model: PreferenceModel
    weight: float = 1.0
    omega: float = 0.3
    v: VSource = "stored"
    text: TextReading = "segments"

    def __post_init__(self) -> None:
        if self.omega != 1 and self.v == "stored" and self.model.decomposition is None:
            raise LongalignError(
                f"reward {self.name!r} has no V beside it, which omega {self.omega:g} needs: make it with "
                "`longalign decompose`, or take v: batch, or omega: 1"
            )

    # C⊥ + ω ηV                                                                                         Eq. 8
    def embed(self, prompts: Sequence[str], accelerator: Any) -> tuple[Tensor, Tensor]:
        """(B, D) the text embeddings of the loss, and (B, D) the plain C_P; both without gradient.

        With V of the batch, every process has to call this.
        """
        plain = self.plain(prompts)
        if self.omega == 1:
            return plain, plain
        decomposition = self.model.decomposition
        if self.v == "batch":
            decomposition = _of_all_processes(plain, accelerator)
        assert decomposition is not None  # __post_init__ has asked for it
        return decomposition.reweight(plain, self.omega), plain

    # C_P^seg(p), or C_P of the first tokens
    def plain(self, prompts: Sequence[str]) -> Tensor:
        """(B, D), without gradient."""
        with inference(self.model.clip):
            if self.text == "single":
                return self.model.text(prompts, truncate=True)
            return self.model.text_mean(prompts)

    # C_X(x)
    def image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] → (B, D) unit, differentiable."""
        return self.model.image(pixels)


def load_reward(
    wanted: RewardModel, settings: RewardSettings, device: str, *, judging: bool = False
) -> Reward:
    """A preference model that a recipe names, in float32.

    Args:
        judging: use only its plain score, which needs no V.

    Raises:
        LongalignError: there is no such model, or no V beside it.
    """
    model = PreferenceModel.from_pretrained(
        wanted.model, device=device, dtype="float32", tokenizer=wanted.tokenizer
    )
    omega = settings.omega if wanted.omega is None else wanted.omega
    name = Path(wanted.model).name
    return Reward(name, model, wanted.weight, 1.0 if judging else omega, settings.v, wanted.text)


# L = Σ_k w_k (1 − C_X·(C⊥ + ω ηV)), halved in the released code                                  §2.3, Eq. 8
def reward_loss(
    rewards: Sequence[Reward], images: Sequence[Tensor], texts: Sequence[Tensor], *, half: bool = False
) -> Tensor:
    """The loss of each picture, (B,).

    Args:
        images: for each reward (B, D) C_X.
        texts: for each reward (B, D), what `Reward.embed` gives first.
    """
    total = sum(
        reward.weight * (1 - (c_x * text).sum(-1))
        for reward, c_x, text in zip(rewards, images, texts, strict=True)
    )
    assert isinstance(total, Tensor)
    return total / 2 if half else total


def _of_all_processes(embeddings: Tensor, accelerator: Any) -> Decomposition:
    """V of the texts of all processes."""
    c = embeddings.double() if embeddings.device.type != "mps" else embeddings
    sums = torch.cat([c.sum(0), c.new_tensor([len(c)])])  # (D + 1,)
    sums = accelerator.reduce(sums, reduction="sum").cpu().double()
    return Decomposition(sums[:-1], round(float(sums[-1])))
