"""Supervised fine-tuning on pictures with long captions (LongAlign, §5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from longalign.data.text_states import Padding, TextStates, join
from longalign.encoding import Conditioning
from longalign.objectives.pictures.settings import SupervisedSettings
from longalign.objectives.pictures.tuned import TunedDenoiserObjective
from longalign.objectives.random_draws import normal, uniform


class SupervisedObjective(TunedDenoiserObjective):
    """Mean squared error between the denoiser's prediction and its target (ε, v or velocity) under long captions."""

    Settings = SupervisedSettings
    name = "supervised"
    trains_adapter = True
    solver = ("unipc", 25)
    settings: SupervisedSettings

    @property
    def lora_dropout(self) -> float:
        """Dropout on the inputs of the LoRA, as the recipe says."""
        return self.settings.dropout

    def learn(
        self, x0: Tensor, states: Sequence[TextStates], padding: Padding, accelerator: Any
    ) -> dict[str, float | Tensor]:
        """See `CaptionedObjective.learn`. Times are stratified over the step's whole batch."""
        count, copies = len(x0), self.settings.noisings
        draws = self.draws_of(count)
        own = draws.rows(count)
        drop = (uniform(own) < self.settings.caption_dropout).tolist()
        t = self.times(draws.stratified(count, copies, draws.common())).to(x0.device)
        eps = normal(own, copies, *x0.shape[1:], dtype=x0.dtype).flatten(0, 1).to(x0.device)
        n = count * copies
        total = x0.new_zeros(())
        for members, conditioning in join(states, padding, self.adapter, drop):
            rows = [m for m in members for _ in range(copies)]
            places = [copies * m + k for m in members for k in range(copies)]
            if copies > 1:
                conditioning = conditioning[[i for i in range(len(members)) for _ in range(copies)]]
            loss = self.losses(x0[rows], t[places], eps[places], conditioning).sum() / n
            accelerator.backward(loss)
            total += loss.detach()
        return {"loss": total}

    # L = E ‖ f_θ(x_t, t, c) − target(x_0, ε, t) ‖²
    def losses(self, x0: Tensor, t: Tensor, eps: Tensor, conditioning: Conditioning) -> Tensor:
        """(B,) means over channels and positions; see `TunedDenoiserObjective.losses`."""
        f = self.denoiser(self.denoiser.noised(x0, eps, t), t, conditioning)
        return (f - self.denoiser.target(x0, eps, t)).square().flatten(1).mean(1)

    def times(self, u: Tensor) -> Tensor:
        """t = 1000 u^p for u in [0, 1), (B,); whole steps where the schedule has steps."""
        return super().times(u**self.settings.time_power)
