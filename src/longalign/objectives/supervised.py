"""Supervised fine-tuning on pictures with long captions (LongAlign, §5.1; FACTS §1.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from longalign.data.texts import Padding, TextStates, join
from longalign.encoding import Conditioning
from longalign.objectives.draws import normal, uniform
from longalign.objectives.from_pictures import FromPictures
from longalign.objectives.picture_settings import PictureSettings


class SupervisedSettings(PictureSettings):
    """The section `supervised` of a recipe.

    `noisings`: how often each row is noised, at different times: encoding pictures and captions is shared by them, and
    the denoiser sees as many times the batch. `time_power` p: t = 1000 u^p for u uniform; below 1 it prefers high
    noise, where what stands where is decided. `tune_text`: lora trains one on each CLIP besides, so that with
    ``clip-cat:context=before`` or ``context=referent`` it learns whom "it" means.
    """

    caption_dropout: float = Field(0.1, ge=0, le=1, description="share of captions replaced by the empty one")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the LoRA's inputs; the released models had 0.1")
    noisings: int = Field(1, gt=0)
    time_power: float = Field(1.0, gt=0)
    tune_text: Literal["none", "lora"] = "none"
    text_rank: int = Field(8, gt=0, description="of the text encoders' LoRAs")


class SupervisedObjective(FromPictures):
    """L2 between the denoiser's prediction and its own target (ε, v or velocity) under long captions."""

    Settings = SupervisedSettings
    name = "supervised"
    trains_adapter = True
    solver = ("unipc", 25)

    def learn(
        self, x0: Tensor, states: Sequence[TextStates], padding: Padding, accelerator: Any
    ) -> dict[str, float | Tensor]:
        """One micro-batch, its times stratified over the step's whole batch; see `FromPictures.learn`."""
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
        """(B,) means over channels and places."""
        f = self.denoiser(self.denoiser.noised(x0, eps, t), t, conditioning)
        return (f - self.denoiser.target(x0, eps, t)).square().flatten(1).mean(1)

    def times(self, u: Tensor) -> Tensor:
        """t = 1000 u^p; whole steps where the schedule has such."""
        t = 1000 * u**self.settings.time_power
        if self.denoiser.alphas_cumprod is None:
            return t
        return t.long().clamp(max=len(self.denoiser.alphas_cumprod) - 1)
