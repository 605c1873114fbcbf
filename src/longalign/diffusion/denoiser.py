"""`Denoiser`: one call for every backbone, with noise levels, guidance and conversions of predictions.

α_t and σ_t are the shares of signal and noise at time t, with t from 0 to 1000::

    x_t = α_t·x_0 + σ_t·ε

    epsilon   α² + σ² = 1     f = ε                x_0 = (x_t − σ f)/α
    v         α² + σ² = 1     f = α ε − σ x_0      x_0 = α x_t − σ f
    flow      α = 1 − σ       f = ε − x_0          x_0 = x_t − σ f        σ = t/1000
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import Tensor, nn

from longalign import soft_tokens
from longalign.backbones import backbone_named, backbone_of, denoising_module
from longalign.backbones.base import Parameterisation, Pipeline
from longalign.encoding.conditioning import Conditioning
from longalign.errors import LongalignError

Times = float | int | Tensor  # one for all, or (B,)


class Denoiser:
    """A denoising module with one signature for all backbones. Objectives and solvers use nothing else.

    The caller decides about gradients and autocast. Predictions have the precision of x_t.

    Args:
        module: the UNet or transformer, on its device.
        family: name of the backbone, as in `Conditioning`.
        parameterisation: what the module predicts.
        alphas_cumprod: (T,) ᾱ_t = α_t² of the training schedule; None for flow models.
        vae: the VAE for `encode_pixels` and `decode`; None where neither is used.

    Raises:
        LongalignError: the family is unknown, a schedule is missing, or the module takes the guidance scale as an
            input.
    """

    def __init__(
        self,
        module: nn.Module,
        family: str,
        parameterisation: Parameterisation,
        alphas_cumprod: Tensor | None = None,
        vae: Any = None,
    ) -> None:
        if parameterisation not in get_args(Parameterisation):
            raise LongalignError(
                f"a denoiser predicts one of {get_args(Parameterisation)}, not {parameterisation!r}"
            )
        if parameterisation != "flow" and alphas_cumprod is None:
            raise LongalignError(f"a denoiser that predicts {parameterisation} needs a noise schedule")
        if getattr(module.config, "time_cond_proj_dim", None) is not None:
            raise LongalignError(
                "this UNet takes the guidance scale as an input (a distilled LCM); use a base model with an LCM-LoRA"
            )
        self.module: Any = module
        self.family, self.backbone = family, backbone_named(family)
        self.parameterisation = parameterisation
        self.alphas_cumprod = None if alphas_cumprod is None else alphas_cumprod.double().cpu()
        self.vae = vae

    @classmethod
    def of(cls, pipe: Pipeline) -> Denoiser:
        """The denoiser of a diffusers pipeline; it shares the pipeline's module.

        Raises:
            LongalignError: the pipeline is of no known backbone, or its scheduler's prediction type is not supported.
        """
        backbone = backbone_of(pipe)
        parameterisation, alphas_cumprod = backbone.schedule(pipe.scheduler)
        return cls(denoising_module(pipe), backbone.family, parameterisation, alphas_cumprod, pipe.vae)

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.module.config.in_channels

    @property
    def side(self) -> int:
        """Side of a square latent at the model's own size."""
        return self.module.config.sample_size

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1) if self.vae is not None else 8

    def __call__(
        self, x_t: Tensor, t: Times, conditioning: Conditioning, *, negative: bool = False
    ) -> Tensor:
        """f(x_t, t, text) without guidance.

        Args:
            x_t: (B, C, h, w) noised latents.
            t: one time for all rows, or (B,); from 0 to 1000.
            conditioning: of B prompts.
            negative: predict under the negative prompts instead.

        Raises:
            LongalignError: the conditioning is of another family or of another number of prompts.
        """
        c = self._check(conditioning, len(x_t))
        with soft_tokens.branch(self.module, "uncond" if negative else "cond"):
            if negative:
                return self._predict(x_t, t, c.negative_embeds, c.negative_pooled, c.frames)
            return self._predict(x_t, t, c.embeds, c.pooled, c.frames)

    # f = f_n + w (f_c − f_n) = (1 − w) f_n + w f_c
    def terms(
        self, x_t: Tensor, t: Times, conditioning: Conditioning, guidance: float, *, split: bool = False
    ) -> Iterator[tuple[float, Tensor]]:
        """The terms whose weighted sum is the guided prediction: (weight, (B, C, h, w)), each computed on request.

        Args:
            guidance: w. As in diffusers, w ≤ 1 means no guidance: one call of B rows.
            split: compute the two branches one after the other. This needs half of the memory if the gradient of one
                term is taken before the next term is requested. Otherwise there is one term, from one call of 2B rows.
        """
        if guidance <= 1:
            yield 1.0, self(x_t, t, conditioning)
        elif split:
            yield 1 - guidance, self(x_t, t, conditioning, negative=True)
            yield guidance, self(x_t, t, conditioning)
        else:
            c = self._check(conditioning, len(x_t))
            pooled = None
            if c.pooled is not None and c.negative_pooled is not None:
                pooled = torch.cat([c.negative_pooled, c.pooled])
            twice = t.repeat(2) if isinstance(t, Tensor) and t.ndim else t
            with soft_tokens.branch(self.module, "cfg"):
                frames = None if c.frames is None else c.frames.repeat(2, 1)
                embeds = torch.cat([c.negative_embeds, c.embeds])
                both = self._predict(x_t.repeat(2, 1, 1, 1), twice, embeds, pooled, frames)
            without, with_text = both.chunk(2)
            yield 1.0, without + guidance * (with_text - without)

    def guided(
        self, x_t: Tensor, t: Times, conditioning: Conditioning, guidance: float, *, split: bool = False
    ) -> Tensor:
        """The sum of `terms`: the prediction with classifier-free guidance, (B, C, h, w)."""
        total: Tensor | None = None
        for weight, f in self.terms(x_t, t, conditioning, guidance, split=split):
            part = f if weight == 1 else weight * f
            total = part if total is None else total + part
        assert total is not None
        return total

    def levels(self, t: Times, like: Tensor) -> tuple[Tensor, Tensor]:
        """α_t and σ_t, in the precision of ``like`` (B, …) and in a shape that multiplies it.

        ᾱ is interpolated between whole time steps, which Euler's solver uses.
        """
        times = torch.as_tensor(t, dtype=torch.float64).cpu()
        if self.alphas_cumprod is None:
            sigma = times / 1000
            alpha = 1 - sigma
        else:
            below = times.floor().long().clamp(0, len(self.alphas_cumprod) - 1)
            above = (below + 1).clamp(max=len(self.alphas_cumprod) - 1)
            alpha_bar = torch.lerp(self.alphas_cumprod[below], self.alphas_cumprod[above], times - below)
            alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        shape = (-1, *[1] * (like.ndim - 1)) if times.ndim else ()
        return alpha.to(like).reshape(shape), sigma.to(like).reshape(shape)

    # x_t = α x_0 + σ ε
    def noised(self, x0: Tensor, eps: Tensor, t: Times) -> Tensor:
        """(B, …) clean latents and noise → (B, …) noised latents at time t."""
        alpha, sigma = self.levels(t, x0)
        return alpha * x0 + sigma * eps

    def target(self, x0: Tensor, eps: Tensor, t: Times) -> Tensor:
        """The target of the prediction on `noised` latents: ε, α ε − σ x_0, or ε − x_0."""
        if self.parameterisation == "epsilon":
            return eps
        if self.parameterisation == "flow":
            return eps - x0
        alpha, sigma = self.levels(t, x0)
        return alpha * eps - sigma * x0

    def x0_weights(self, t: Times, like: Tensor) -> tuple[Tensor, Tensor]:
        """p and q in x_0 = p·x_t + q·f, in the form of `levels`."""
        alpha, sigma = self.levels(t, like)
        if self.parameterisation == "epsilon":
            return 1 / alpha, -sigma / alpha
        return (alpha if self.parameterisation == "v" else torch.ones_like(alpha)), -sigma

    def x0(self, x_t: Tensor, f: Tensor, t: Times) -> Tensor:
        """The clean latents (B, …) that correspond to a prediction f."""
        p, q = self.x0_weights(t, x_t)
        return p * x_t + q * f

    def encode_pixels(self, pixels: Tensor, batch_size: int = 16) -> Tensor:
        """(B, 3, H, W) pixels, uint8 or in [0, 1] → (B, C, h, w) float32 latents on the denoiser's device.

        Args:
            batch_size: most pictures in one call of the VAE.
        """
        return self.backbone.encode_pixels(self.vae, pixels, batch_size).to(self.device)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) latents → (B, 3, H, W) pixels in [0, 1]; differentiable. Values outside are clamped."""
        return self.backbone.decode(self.vae, latents)

    def _check(self, conditioning: Conditioning, rows: int) -> Conditioning:
        if conditioning.family != self.family:
            raise LongalignError(f"a conditioning for {conditioning.family} does not fit {self.family}")
        if len(conditioning) != rows:
            raise LongalignError(f"{rows} latents need as many prompts, not {len(conditioning)}")
        return conditioning

    def _predict(
        self, x_t: Tensor, t: Times, embeds: Tensor, pooled: Tensor | None, frames: Tensor | None
    ) -> Tensor:
        kind = self.module.dtype
        times = torch.as_tensor(t, device=x_t.device).expand(len(x_t))  # (B,)
        x, embeds = x_t.to(kind), embeds.to(kind)
        pooled = None if pooled is None else pooled.to(kind)
        framed = {"frames": frames} if self.backbone.takes_frames else {}
        f = self.backbone.predict(self.module, x, times, embeds, pooled, self._size_px(x), **framed)
        return f.to(x_t.dtype)

    def _size_px(self, latents: Tensor) -> tuple[int, int]:
        height, width = latents.shape[-2:]
        return height * self.vae_factor, width * self.vae_factor
