"""Training of soft text tokens by contrast (SoftREPA), or by its successor (`guided.py`)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longalign.data.cached import CachedPictures
from longalign.data.text_states import Padding, TextStates, frames_of
from longalign.errors import LongalignError
from longalign.losses import contrastive_loss
from longalign.objectives.contrastive.guided import (
    choose_negatives,
    learn_guided,
    update_averages,
)
from longalign.objectives.contrastive.pairs import (
    Caption,
    Matching,
    batches_of,
    fixed_noise,
    fixed_place,
    gather_captions,
    near_caption,
    row_figures,
    same_captions,
)
from longalign.objectives.contrastive.settings import (
    AlignmentGuidedSettings,
    ContrastiveSettings,
)
from longalign.objectives.contrastive.tokens import check_size, new_tokens
from longalign.objectives.pictures.captioned import Batch, CaptionedObjective
from longalign.objectives.random_draws import Draws, numpy_generator
from longalign.soft_tokens import SoftTokens


class ContrastiveObjective(CaptionedObjective):
    """Trains soft tokens so that each picture is predicted best under its own caption, among those of the batch.

    All rows of a step, in all processes, share one time and one noise. The captions of all processes are negatives,
    except equal captions. The model is frozen; only the soft tokens are trained and saved.

    Raises:
        LongalignError: pictures of a size that the model cannot take; settings for another backbone; when it learns, a
            batch without negatives, or one in several micro-batches.
    """

    Settings = ContrastiveSettings
    name = "contrastive"
    solver = ("unipc", 25)
    settings: ContrastiveSettings

    def prepare(self) -> None:
        """Freeze the model and attach new tokens."""
        settings, denoiser = self.settings, self.denoiser
        check_size(denoiser, self.size_px)
        self._leave_lone_pictures_out()
        self._freeze()
        if settings.gradient_checkpointing:
            denoiser.module.enable_gradient_checkpointing()
        self.tokens = new_tokens(denoiser, settings, self.texts, self.adapter, self.model_name)
        self.attachment = self.tokens.attach(denoiser.module)
        self.negative: SoftTokens | None = None
        self.averages: dict[str, SoftTokens] = {}
        if settings.alignment_guided is not None:
            self.negative = copy.deepcopy(self.tokens)
            for name in ("positive", "negative"):
                self.averages[name] = copy.deepcopy(self.tokens).requires_grad_(False)
        weight = settings.matched_weight
        self.matched_weight = self.tokens.config.places.matched_weight if weight is None else weight

    def _leave_lone_pictures_out(self) -> None:
        """A picture that is alone in its bucket would be a batch of one caption, without negatives."""
        bucket_of = self.data.bucket_of
        if bucket_of is None:
            return
        _, of_row, counts = np.unique(bucket_of, return_inverse=True, return_counts=True)
        lone = counts[of_row] == 1
        if lone.any():
            self.data.bucket_of = np.where(lone, -1, bucket_of)
            if self.context.process_index == 0:
                warnings.warn(
                    f"contrastive: {lone.sum()} of {len(lone)} pictures are left out: no other picture has their "
                    "aspect ratio, so their captions would have no negatives; data.buckets=false uses all",
                    stacklevel=2,
                )

    def modules(self) -> Mapping[str, nn.Module]:
        """The tokens, and those for other captions where the successor's loss is used."""
        found: dict[str, nn.Module] = {"soft_tokens": self.tokens}
        if self.negative is not None:
            found["negative_tokens"] = self.negative
        return found

    def encode(self, batch: Batch) -> tuple[Tensor, list[TextStates], Padding]:
        """As `CaptionedObjective.encode`; the states are `Caption`s."""
        x0, states, padding = super().encode(batch)
        return x0, [Caption.of(s, text) for s, text in zip(states, batch["texts"], strict=True)], padding

    def learn(
        self, x0: Tensor, states: Sequence[TextStates], padding: Padding, accelerator: Any
    ) -> dict[str, float | Tensor]:
        """See `CaptionedObjective.learn`. The micro-batch has to be this process's whole share of the step's batch.

        Returns:
            of the contrastive loss: `loss`, and over the batch of all processes `contrast`, `accuracy`, `matched`, as
            `longalign.objectives.contrastive.pairs.row_figures` has them.
        """
        settings, count = self.settings, len(x0)
        draws = self.draws_of(count)
        own = [s for s in states if isinstance(s, Caption)]
        captions: list[Caption] = gather_captions(own, accelerator)
        first = count * accelerator.process_index if accelerator.num_processes > 1 else 0
        same = same_captions([c.key for c in captions])  # (B, B)
        self._check_batch(count, draws, same)
        t, eps = self._time_and_noise(draws, x0)
        generators = draws.rows(count)
        near = self._near_captions(own, captions, generators)
        matching = self._matching(x0, t, eps, [*captions, *near], padding, own)
        rows = torch.arange(count)
        # (b, n): the places of each row's near negatives
        of_row = len(captions) + torch.arange(len(near)).view(count, settings.near_negatives)
        if settings.alignment_guided is not None:
            chosen = [
                choose_negatives(
                    same, first + i, of_row[i], settings.alignment_guided.negatives, generators[i]
                )
                for i in range(count)
            ]
            return self._learn_guided(matching, torch.stack(chosen), settings.alignment_guided, accelerator)
        columns = torch.cat([torch.arange(len(captions)).expand(count, -1), of_row], dim=1)  # (b, B + n)
        pairs = torch.stack([rows[:, None].expand_as(columns), columns], dim=2).flatten(0, 1)
        found: dict[str, float | Tensor] = {}

        def weigh(errors: Tensor) -> Tensor:
            whole = accelerator.gather(errors.view(count, -1))  # (B, B + n), the same in every process
            weights, figures = self._weighed(whole, same.to(whole.device))
            found.update(figures)
            # The loop takes the mean over processes of what is here a part of one sum.
            return accelerator.num_processes * weights[first : first + count].flatten()

        matching.backward(pairs, weigh, accelerator)
        return found

    def _learn_guided(
        self, matching: Matching, seen: Tensor, guided: AlignmentGuidedSettings, accelerator: Any
    ) -> dict[str, float | Tensor]:
        assert self.negative is not None
        update_averages(self.averages, {"positive": self.tokens, "negative": self.negative}, guided.ema)
        found = learn_guided(
            matching, seen, guided, self.attachment, self.averages, self.negative, accelerator
        )
        return dict(found)

    def _weighed(self, errors: Tensor, same: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """∂L/∂E (B, B + n), and the loss with its metrics."""
        settings = self.settings
        masked = torch.zeros_like(errors, dtype=torch.bool)
        masked[:, : len(errors)] = same
        with torch.enable_grad():
            errors = errors.detach().requires_grad_()
            loss = contrastive_loss(
                errors,
                masked,
                scale=settings.scale,
                temperature=settings.temperature,
                matched_weight=self.matched_weight,
                symmetric=settings.symmetric,
            )
            [weights] = torch.autograd.grad(loss, errors)
        weights = weights.masked_fill(weights.abs() < settings.skip_below * weights.abs().max(), 0)
        rows = row_figures(
            errors.detach()[:, : len(errors)], same, scale=settings.scale, temperature=settings.temperature
        )
        figures = {name: rows[name].mean() for name in ("contrast", "accuracy", "matched")}
        return weights, {"loss": loss.detach(), **figures}

    def _check_batch(self, count: int, draws: Draws, same: Tensor) -> None:
        """Refuse a micro-batch that is not a whole step, and a batch without negatives."""
        if count * self.context.num_processes < draws.batch_size:
            raise LongalignError(
                "contrastive: the batch has to be one micro-batch, since captions of other micro-batches are no "
                "negatives: leave train.micro_batch_size out, and lower contrastive.pairs_at_once to save memory"
            )
        # A trial of one process of several has a part of the batch.
        whole, others = len(same) == draws.batch_size, len(same) - 1
        if whole and int(same.sum(1).min()) == others and not self.settings.near_negatives:
            raise LongalignError(
                "contrastive: the batch has only one caption, so there is no negative; take a train.batch_size of at "
                "least 2, better 8, and data with more than one caption"
            )

    def _near_captions(
        self, own: Sequence[Caption], whole: Sequence[Caption], generators: Sequence[torch.Generator]
    ) -> list[TextStates]:
        """n near negatives of each row, one row's after another's."""
        if not self.settings.near_negatives:
            return []
        if isinstance(self.data, CachedPictures):
            raise LongalignError(
                f"contrastive.near_negatives: {self.data.folder} is a cache, which does not hold captions as text: "
                "name the source itself as data.pictures"
            )
        known = [caption.key for caption in whole]
        texts: list[str] = []
        for caption, generator in zip(own, generators, strict=True):
            rng = numpy_generator(generator)
            near = (
                near_caption(caption.key, known, rng, self.model.oracle)
                for _ in range(self.settings.near_negatives)
            )
            texts += near
        return self.texts.encode(texts)

    def _time_and_noise(self, draws: Draws, x0: Tensor) -> tuple[Tensor, Tensor]:
        """t () and ε (C, h, w), the same for all rows of a step, wherever they are."""
        common = draws.common()
        t = self.times(torch.rand((), generator=common))
        eps = torch.randn(x0.shape[1:], generator=common, dtype=x0.dtype)
        return t.to(x0.device), eps.to(x0.device)

    def _matching(
        self,
        x0: Tensor,
        t: Tensor,
        eps: Tensor,
        captions: Sequence[TextStates],
        padding: Padding,
        own: Sequence[TextStates],
    ) -> Matching:
        """Of pictures and captions; ``own`` are the pictures' own captions, which know their frames."""
        at_once, frames = self.settings.pairs_at_once, frames_of(own, x0.device)
        return Matching(self.denoiser, x0, t, eps, captions, padding, self.adapter, at_once, frames)

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), **nn.ModuleDict(self.averages).state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        own = {k: v for k, v in state.items() if k != "rows_skipped"}
        nn.ModuleDict(self.averages).load_state_dict(own)

    def held_out_figures(self, accelerator: Any) -> dict[str, float]:
        """Metrics on held-out batches of `held_out_batch` pictures, each with a fixed time (spread evenly) and noise.

        Returns:
            means of `longalign.objectives.contrastive.pairs.row_figures`; `loss`, which is `contrast` + λ·`matched`.
            Empty where there is only one held-out row.
        """
        groups = self.held_out_groups(range(self.held_out_count))
        batches = batches_of(groups, self.settings.held_out_batch)
        if not batches:
            return {}
        sums: dict[str, Tensor] = {}
        for g in self.context.share(len(batches)):
            for name, values in self._held_out_rows(batches[g], g, len(batches)).items():
                total = torch.stack([values.sum(), values.new_tensor(float(len(values)))])
                sums[name] = sums.get(name, 0) + total
        names = ("contrast", "accuracy", "matched", "information")
        empty = torch.zeros(2, device=self.denoiser.device)
        table = torch.stack([sums.get(name, empty).to(empty) for name in names])
        table = accelerator.reduce(table, reduction="sum")
        means = dict(zip(names, (table[:, 0] / table[:, 1]).tolist(), strict=True))
        return {"loss": means["contrast"] + self.matched_weight * means["matched"], **means}

    @torch.no_grad()
    def _held_out_rows(self, numbers: Sequence[int], batch: int, batches: int) -> Mapping[str, Tensor]:
        x0, states, padding = self.encode_held_out(numbers)
        t = self.times(torch.tensor(fixed_place(batch, batches))).to(x0.device)
        same = same_captions([s.key for s in states if isinstance(s, Caption)]).to(x0.device)
        errors = self._matching(x0, t, fixed_noise(batch, x0), states, padding, states).matrix()
        return row_figures(errors, same, scale=self.settings.scale, temperature=self.settings.temperature)

    def save(self, folder: Path) -> None:
        """The tokens, for ``SoftTokens.from_pretrained(folder)``. LoRAs of `start_from` stay where they are."""
        self.tokens.save(folder)
