"""Reward fine-tuning (LongAlign, §2.3, §4.2): a LoRA that makes pictures score higher on preference models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from longalign import lora
from longalign.checkpoints.base import fingerprint
from longalign.denoiser import Denoiser
from longalign.encoding import Conditioning, T5Branch, encode_groups
from longalign.encoding.towers import inference
from longalign.errors import LongalignError
from longalign.generate import t5_branch
from longalign.objectives import BuildContext, Task
from longalign.objectives.draws import Drawing, normal
from longalign.objectives.reward_chain import Terms, backpropagate, make_plan, sample_keeping
from longalign.objectives.reward_data import load_prompts
from longalign.objectives.reward_evaluation import HeldOut, evaluate, load_held_out
from longalign.objectives.reward_settings import RewardDataSettings, RewardSettings
from longalign.objectives.rewards import Reward, load_reward, reward_loss
from longalign.pipelines import ModelSettings, load_pipeline, settings_of
from longalign.preference import crop
from longalign.preference.scores import SCALE
from longalign.solver import LinearSolver, make_solver


class RewardObjective(Drawing):
    """Samples pictures without gradient, scores them, and takes the scores' gradient back to chosen predictions.

    Args:
        pipe: a diffusers pipeline, with the LoRA that is trained on its backbone, all else frozen.
        rewards: what the pictures are scored with.
        model: the defaults of the pipeline's model.
        t5: the T5 branch, where the strategy wants one.
        held_out: what `evaluate` measures on.
        context: which process this is.

    Raises:
        LongalignError: the solver does not fit the model, or is not linear.
    """

    name: ClassVar[str] = "reward"  # also of the LoRA
    Settings: ClassVar[type] = RewardSettings
    DataSettings: ClassVar[type] = RewardDataSettings

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
        self.pipe, self.rewards, self.settings = pipe, list(rewards), settings
        self.model = model or ModelSettings()
        self.t5, self.held_out, self.model_name = t5, held_out, model_name
        self.denoiser = Denoiser.of(pipe)
        self.context = context or BuildContext(self.denoiser.device)
        self.base = fingerprint(self.denoiser.module, model_name)  # once: of a big model it takes seconds
        self.solver: LinearSolver = make_solver(
            pipe.scheduler,
            settings.solver,
            settings.resolved_steps,
            spacing=settings.spacing,
            timesteps=settings.timesteps,
        )
        no_guidance = 1.0 if settings.solver == "lcm" else self.model.guidance  # FACTS §1.5
        guidance = settings.guidance if settings.guidance is not None else no_guidance
        self.guidance = 1.0 if guidance is None else guidance
        self._freeze()

    @classmethod
    def build(
        cls, model: str, settings: RewardSettings, data: RewardDataSettings, context: BuildContext
    ) -> Task:
        """See `longalign.objectives.Objective`.

        Raises:
            LongalignError: no such model, preference model, LoRA or prompts; a V that is missing.
        """
        train = load_prompts(
            data.prompts, seed=context.seed, count=data.count, objects=data.objects, referring=data.referring
        )
        device = str(context.device)
        pipe = load_pipeline(model, device=device, dtype="float32")
        backbone = Denoiser.of(pipe).module
        t5 = t5_branch(model, settings.strategy, pipe)
        for number, folder in enumerate(settings.start_from):
            lora.load(backbone, folder, name=f"stage_{number}", base_name=model)
            lora.load_text(pipe, folder, name=f"stage_{number}", base_name=model)
            adapter = lora.load_text_adapter(folder)
            if t5 is not None and adapter is not None:
                t5 = T5Branch(t5.tokenizer, t5.encoder, adapter.to(device))
        lora.attach(backbone, rank=settings.rank, name=cls.name)
        rewards = [load_reward(wanted, settings, device) for wanted in settings.rewards]
        objective = cls(
            pipe,
            rewards,
            settings,
            model=settings_of(model, pipe),
            t5=t5,
            held_out=load_held_out(settings, data, device),
            context=context,
            model_name=model,
        )
        return Task(objective, train)

    def _freeze(self) -> None:
        """All but what is trained on the backbone already."""
        for name, part in self.pipe.components.items():
            if isinstance(part, nn.Module) and part is not self.denoiser.module:
                part.requires_grad_(False).eval()
                if name == "vae" and self.settings.gradient_checkpointing:
                    self.pipe.vae.enable_gradient_checkpointing()
        for reward in self.rewards:
            reward.model.clip.requires_grad_(False).eval()
        if self.settings.gradient_checkpointing:
            self.denoiser.module.enable_gradient_checkpointing()

    def modules(self) -> Mapping[str, nn.Module]:
        return {lora.component_of(self.denoiser.module): self.denoiser.module}

    def collate(self, rows: Sequence[str]) -> list[str]:
        return list(rows)

    def backward(self, batch: Sequence[str], accelerator: Any) -> dict[str, float | Tensor]:
        """See `longalign.objectives.Objective`.

        Returns:
            the loss; the `reward`, which is the weighted sum of plain scores × 100, so that runs of different ω can be
            compared; where there are several, each one's score; the first step with gradient (`first_step`).
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

    def encode(self, prompts: Sequence[str]) -> list[tuple[list[int], Conditioning]]:
        """One conditioning for each padded length, with the places of its prompts."""
        length = self.settings.length if self.settings.length is not None else self.model.length
        return encode_groups(
            self.pipe,
            list(prompts),
            self.settings.negative_prompt,
            strategy=self.settings.strategy,
            length=length,
            t5=self.t5,
        )

    def terms(self, conditioning: Conditioning) -> Terms:
        """The guided prediction under a conditioning."""

        def parts(_: int, x: Tensor, t: Tensor) -> Iterator[tuple[float, Tensor]]:
            return self.denoiser.terms(x, t, conditioning, self.guidance, split=self.settings.split_guidance)

        return parts

    def noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        """(B, C, h, w) starting noise, each row from its own generator."""
        denoiser = self.denoiser
        dtype = torch.promote_types(torch.float32, denoiser.module.dtype)
        shape = (denoiser.channels, denoiser.side, denoiser.side)
        return normal(generators, *shape, dtype=dtype).to(denoiser.device)

    # g = ∂L/∂x_0
    def score_gradient(
        self,
        x0: Tensor,
        texts: Sequence[tuple[Tensor, Tensor]],
        count: int,
        crop_seed: int,
        accelerator: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Through the decoder and the scorers alone, a few pictures at a time.

        Args:
            x0: (B, C, h, w) sampled latents.
            texts: for each reward (B, D) C⊥ + ω ηV, and (B, D) plain C_P.
            count: what the loss is a mean over: the pictures of the whole micro-batch.
            crop_seed: says which part of the pictures is scored.

        Returns:
            (B, C, h, w) g; these pictures' part of the mean loss; and of each reward's mean score × 100, (rewards,).
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

    def cropped(self, pixels: Tensor, seed: int | None) -> Tensor:
        """The part of the pictures that is scored: at a place that the seed gives, or in the middle without one."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return crop(pixels, self.settings.crop, generator)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        return None

    def evaluate(self, accelerator: Any) -> dict[str, float]:
        """Held-out prompts: see `longalign.objectives.reward_evaluation`."""
        return {} if self.held_out is None else evaluate(self, self.held_out, accelerator)

    def samples(self, accelerator: Any) -> list[tuple[str, Image.Image]]:
        """Held-out prompts and their pictures, of those that this process drew in the last evaluation."""
        return [] if self.held_out is None else self.held_out.samples

    @torch.no_grad()
    def sample(self, conditioning: Conditioning, seeds: Sequence[int]) -> Tensor:
        """One picture for each prompt, (B, 3, H, W) in [0, 1], each from its own seed."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = self.noise(generators)

        def predict(_: int, x: Tensor, t: Tensor) -> Tensor:
            return self.denoiser.guided(x, t, conditioning, self.guidance, split=self.settings.split_guidance)

        with inference(self.denoiser.module):
            return self.denoiser.decode(self.solver.sample(predict, noise, generator=generators))

    def save(self, folder: Path) -> None:
        """A LoRA for ``pipe.load_lora_weights(folder)`` on the model that training started from."""
        if not lora.attached(self.denoiser.module):
            raise LongalignError("nothing to save: the backbone has no LoRA")
        adapter = self.t5.adapter if self.t5 is not None and self.settings.start_from else None
        noted = {"base": self.base, "base_name": self.model_name, "strategy": self.settings.strategy}
        lora.save(self.denoiser.module, folder, adapter=adapter, **noted)
        lora.save_text(lora.clips_of(self.pipe), folder, self.model_name)


def _scale(accelerator: Any) -> float:
    """The factor that `accelerator.backward` puts before gradients."""
    scaler = getattr(accelerator, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())
