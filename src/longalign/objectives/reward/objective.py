"""Reward fine-tuning (LongAlign, §2.3, §4.2): a LoRA that makes pictures score higher on preference models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from longalign.backbones import denoising_module
from longalign.diffusion.pipelines import ModelSettings, settings_of
from longalign.encoding import T5Branch
from longalign.errors import LongalignError
from longalign.objectives import BuildContext, Objective, Task
from longalign.objectives.reward.gradient import backpropagate, make_plan, sample_keeping
from longalign.objectives.reward.held_out import HeldOut, load_held_out
from longalign.objectives.reward.rewards import Reward, load_reward, reward_loss
from longalign.objectives.reward.sampling import RewardSampler, load_prompts
from longalign.objectives.reward.settings import RewardDataSettings, RewardSettings
from longalign.preference.scores import SCALE
from longalign.weights import lora, text_lora
from longalign.weights.fingerprint import fingerprint
from longalign.weights.stack import load_pipeline, put_on, t5_branch


class RewardObjective(RewardSampler, Objective):
    """Samples pictures without gradient, scores them, and sends the gradient of the scores to chosen predictions.

    Args:
        pipe: a diffusers pipeline with the trained LoRA on its denoiser; all other weights are frozen.
        rewards: preference models that score the pictures.
        settings: the section ``reward`` of a recipe.
        model: defaults of the pipeline's model.
        t5: the T5 branch, where the strategy needs one.
        held_out: what `evaluate` measures on.
        context: device and processes; None is one process.
        model_name: name of the model, for messages and saved files.

    Raises:
        LongalignError: the solver does not fit the model, or is not linear.
    """

    name: ClassVar[str] = "reward"  # also of the LoRA
    Settings = RewardSettings
    DataSettings = RewardDataSettings

    def __init__(
        self,
        pipe: Any,
        rewards: Sequence[Reward],
        settings: RewardSettings,
        *,
        model: ModelSettings | None = None,
        t5: T5Branch | None = None,
        held_out: HeldOut | None = None,
        context: BuildContext | None = None,
        model_name: str = "",
    ) -> None:
        RewardSampler.__init__(self, pipe, settings, model, t5)
        self.rewards, self.held_out, self.model_name = list(rewards), held_out, model_name
        self.context = context or BuildContext(self.denoiser.device)
        self.base = fingerprint(self.denoiser.module, model_name)  # once: a large model takes seconds
        self._freeze()

    @classmethod
    def build(
        cls, model: str, settings: RewardSettings, data: RewardDataSettings, context: BuildContext
    ) -> Task:
        """See `longalign.objectives.Objective.build`.

        Raises:
            LongalignError: no such model, preference model, LoRA or prompts; LoRAs of `start_from` in a wrong order or
                of another model; a V that is missing.
        """
        train = load_prompts(
            data.prompts, seed=context.seed, count=data.count, objects=data.objects, referring=data.referring
        )
        device = str(context.device)
        pipe = load_pipeline(model, device=device, dtype="float32")
        put_on(pipe, settings.start_from, base_name=model)
        lora.attach(denoising_module(pipe), rank=settings.rank, name=cls.name)
        rewards = [load_reward(wanted, settings, device) for wanted in settings.rewards]
        objective = cls(
            pipe,
            rewards,
            settings,
            model=settings_of(model, pipe),
            t5=t5_branch(model, settings.strategy, pipe, settings.start_from),
            held_out=load_held_out(settings, data, device),
            context=context,
            model_name=model,
        )
        return Task(objective, train)

    def _freeze(self) -> None:
        """Freeze all but the LoRA that is on the denoiser."""
        for name, part in self.pipe.components.items():
            if isinstance(part, nn.Module) and part is not self.denoiser.module:
                part.requires_grad_(False).eval()
                if name == "vae" and self.settings.gradient_checkpointing:
                    self.pipe.vae.enable_gradient_checkpointing()
        for reward in self.rewards:
            reward.model.clip.requires_grad_(False).eval()
        if self.settings.gradient_checkpointing:
            self.denoiser.module.enable_gradient_checkpointing()

    def large_module(self) -> nn.Module | None:
        """The denoiser."""
        return self.denoiser.module

    def modules(self) -> Mapping[str, nn.Module]:
        """The denoiser, whose LoRA is trained."""
        return {self.denoiser.backbone.component: self.denoiser.module}

    def collate(self, rows: Sequence[str]) -> list[str]:
        """The prompts."""
        return list(rows)

    def backward(self, batch: Sequence[str], accelerator: Any) -> dict[str, float | Tensor]:
        """See `longalign.objectives.Objective.backward`.

        Returns:
            `loss`; `reward`, the weighted sum of plain scores × 100, which can be compared between runs of different ω;
            with several preference models the score of each; `first_step`, the first sampling step with gradient.
        """
        draws = self.draws_of(len(batch))
        common, own = draws.common(), draws.rows(len(batch))
        texts = [reward.embed(batch, accelerator) for reward in self.rewards]
        plan = make_plan(self.settings.method, len(self.solver), self._gradient_steps, common)
        crop_seed = int(torch.randint(2**31, (), generator=common))  # one place for all pictures of the step
        loss = torch.zeros((), device=self.denoiser.device)
        scores = torch.zeros(len(self.rewards), device=self.denoiser.device)
        for members, conditioning in self.encode(batch):
            terms = self.terms(conditioning)
            generators = [own[m] for m in members]
            sampled = sample_keeping(
                self.solver,
                terms,
                self.noise(generators),
                plan,
                lambda x, f, t: self.denoiser.x0(x, f, t),
                generator=generators,
            )
            share = [(reweighted[members], plain[members]) for reweighted, plain in texts]
            g, lost, scored = self.score_gradient(sampled.x0, share, len(batch), crop_seed, accelerator)
            loss, scores = loss + lost, scores + scored
            backpropagate(
                self.solver,
                terms,
                sampled,
                plan,
                g,
                backward=accelerator.backward,
                loss_scale=_scale(accelerator),
                one_step_weight=lambda t, x: self.denoiser.x0_weights(t, x)[1],
            )
        weights = scores.new_tensor([reward.weight for reward in self.rewards])
        found: dict[str, float | Tensor] = {"loss": loss, "reward": (weights * scores).sum()}
        if len(self.rewards) > 1:
            found |= {f"reward_{r.name}": s for r, s in zip(self.rewards, scores, strict=True)}
        return {**found, "first_step": float(plan.steps[0])}

    @property
    def _gradient_steps(self) -> int:
        return min(self.settings.resolved_gradient_steps, len(self.solver))

    # g = ∂L/∂x_0
    def score_gradient(
        self,
        x0: Tensor,
        texts: Sequence[tuple[Tensor, Tensor]],
        count: int,
        crop_seed: int,
        accelerator: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of the loss on the latents, through decoder and scorers, a few pictures at a time.

        Args:
            x0: (B, C, h, w) sampled latents.
            texts: for each preference model (B, D) C⊥ + ω ηV, and (B, D) plain C_P.
            count: number of pictures in the whole micro-batch; the loss is their mean.
            crop_seed: gives the part of the pictures that is scored.

        Returns:
            (B, C, h, w) g; these pictures' part of the mean loss; their part of the mean scores × 100, (rewards,).
        """
        scale = _scale(accelerator)
        g = torch.empty_like(x0)
        loss = x0.new_zeros(())
        scores = x0.new_zeros(len(self.rewards))
        at_once = self.settings.pictures_at_once
        for rows in (slice(i, i + at_once) for i in range(0, len(x0), at_once)):
            latents = x0[rows].detach().requires_grad_()
            pixels = self.cropped(self.denoiser.decode(latents), crop_seed)
            images = [reward.image(pixels) for reward in self.rewards]
            each = reward_loss(self.rewards, images, [t[rows] for t, _ in texts], half=self.settings.half)
            part = each.sum() / count
            # Half precision's scaler: small gradients would vanish in the scorers, too.
            [scaled] = torch.autograd.grad(part * scale, latents)
            g[rows] = scaled / scale
            with torch.no_grad():
                loss += part
                scored = [(c * p[rows]).sum() for c, (_, p) in zip(images, texts, strict=True)]
                scores += SCALE * torch.stack(scored) / count
        return g, loss, scores

    def evaluate(self, accelerator: Any) -> dict[str, float]:
        """Metrics on held-out prompts: see `longalign.objectives.reward.held_out.HeldOut.evaluate`."""
        if self.held_out is None:
            return {}
        return self.held_out.evaluate(self, self.rewards, self.name, self.context, accelerator)

    def samples(self, accelerator: Any) -> list[tuple[str, Image.Image]]:
        """The first held-out prompts that this process drew in the last evaluation, and their pictures."""
        return [] if self.held_out is None else self.held_out.samples

    def save(self, folder: Path) -> None:
        """A LoRA for ``pipe.load_lora_weights(folder)`` on the model that training started from."""
        if not lora.attached(self.denoiser.module):
            raise LongalignError("nothing to save: the backbone has no LoRA")
        adapter = self.t5.adapter if self.t5 is not None and self.settings.start_from else None
        lora.save(
            self.denoiser.module,
            folder,
            adapter=adapter,
            base=self.base,
            base_name=self.model_name,
            strategy=self.settings.strategy,
            length=self.settings.length or self.model.length,
        )
        text_lora.save_text(text_lora.clips_of(self.pipe), folder, self.model_name)


def _scale(accelerator: Any) -> float:
    """The factor that `accelerator.backward` puts before gradients."""
    scaler = getattr(accelerator, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())
