"""Training of preference models on pairs of pictures (LongAlign, §3.2, §5.1, App. B.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longalign.data.pairs import Pair, PreferenceData
from longalign.data.preferences import load_pairs
from longalign.errors import LongalignError
from longalign.losses import margin, pair_loss, seg_a_loss, seg_loss, seg_o_loss
from longalign.objectives import BuildContext, Objective, Task
from longalign.objectives.preference.late_losses import LateParts, late_losses
from longalign.objectives.preference.pair_batches import Batch, collate_pairs
from longalign.objectives.preference.settings import PreferenceDataSettings, PreferenceSettings
from longalign.preference import Calibration, LateHead, PreferenceModel, segment_mean
from longalign.preference.decomposition import fit_prompts
from longalign.preference.late import late_scores
from longalign.preference.scores import SCALE
from longalign.runtime import inference, quiet

MAX_LOGIT_SCALE = 100.0  # CLIP's own bound; unbounded, a model that is always right makes it grow for ever
_EVALUATED_AT_ONCE = 32  # pairs


class TextMean:
    """The text-irrelevant direction V in training: a running mean of text embeddings over all processes.

    Eq. 10 needs V, and the paper does not say how it is estimated in training. Here every batch counts with its number
    of texts, and the weight of earlier texts falls by e^(−n/h) after n more::

        S ← e^(−n/h) S + Σ c,   N ← e^(−n/h) N + n,   E[C_P] = S / N

    The current batch is included, so the first estimate is the mean of the first batch. Since the decay counts texts
    and not steps, it depends little on the batch size. There is no gradient.

    Args:
        width: D, width of the embeddings.
        device: where the sums are kept.
        horizon_texts: h. 0 forgets all but the current batch, as the released reward code does.
    """

    def __init__(self, width: int, device: Any, horizon_texts: float) -> None:
        self.horizon_texts = horizon_texts
        self.total = torch.zeros(width, device=device)  # S, (D,)
        self.weight = torch.zeros((), device=device)  # N

    def update(self, embeddings: Tensor, accelerator: Any) -> None:
        """Add (N, D) embeddings of this process and those of all others, which may differ in number."""
        c = embeddings.detach()
        added = torch.cat([c.sum(0), c.new_full((1,), len(c))])  # (D + 1,): one call, not two
        added = accelerator.reduce(added, reduction="sum")
        total, number = added[:-1], added[-1]
        kept = (-number / self.horizon_texts).exp() if self.horizon_texts else torch.zeros_like(number)
        self.total = kept * self.total.to(total) + total
        self.weight = kept * self.weight.to(total) + number

    @property
    def mean(self) -> Tensor:
        """E[C_P], (D,); its length is the mean η."""
        return self.total / self.weight

    # V = E[C_P] / |E[C_P]|
    @property
    def v(self) -> Tensor:
        """(D,), unit length."""
        return torch.nn.functional.normalize(self.total, dim=0)

    def state_dict(self) -> dict[str, Tensor]:
        """S and N, for checkpoints."""
        return {"text_sum": self.total, "text_weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            LongalignError: the state has no running mean, or one of another width.
        """
        if "text_sum" not in state:
            raise LongalignError(
                "the checkpoint holds no running mean of text embeddings: it was written with another loss"
            )
        total = state["text_sum"]
        if total.shape != self.total.shape:
            raise LongalignError(
                f"the saved V has width {len(total)}, but the model's embeddings have width {len(self.total)}: "
                "the checkpoint is of another model"
            )
        device = self.total.device
        self.total, self.weight = total.clone().to(device), state["text_weight"].clone().to(device)


class PreferenceObjective(Objective):
    """Trains a CLIP to score the pictures higher that people prefer.

    Args:
        model: the model to train, with weights in float32.
        settings: the section ``preference`` of a recipe.
        data: the training pairs; V is computed from their texts when the model is saved.
        held_out: the pairs that `evaluate` measures on, at most ``held_out_count`` of them.
        context: processes, and the seed that draws the texts of V; None is one process.

    Raises:
        LongalignError: both towers are frozen, long captions are missing, or V is missing.
    """

    Settings = PreferenceSettings
    DataSettings = PreferenceDataSettings

    def __init__(
        self,
        model: PreferenceModel,
        settings: PreferenceSettings,
        data: PreferenceData,
        held_out: PreferenceData | None = None,
        held_out_count: int = 512,
        context: BuildContext | None = None,
    ) -> None:
        self.model, self.settings, self.data, self.held_out = model, settings, data, held_out
        self.held_out_count = min(held_out_count, len(held_out)) if held_out is not None else 0
        self.context = context or BuildContext(model.device)
        self._text_mean = TextMean(
            model.width, model.device, settings.v_horizon_texts if settings.v == "running" else 0
        )
        if settings.loss == "seg-o" and settings.v == "stored" and model.decomposition is None:
            raise LongalignError(
                "preference.v is 'stored', but the model has no V beside it: "
                "use 'running', or start from a model with one"
            )
        if settings.loss != "single" and (where := data.without_captions()):
            raise LongalignError(
                f"{where}: the loss {settings.loss!r} needs a long caption of each picture; add them, or "
                "train with preference.loss=single"
            )
        self._free(model.clip)
        if settings.head == "pooled":
            model.late = None  # it would be of other towers afterwards
        elif not isinstance(model.late, LateHead):
            vision, text = model.clip.config.vision_config, model.clip.config.text_config
            model.late = LateHead(vision.hidden_size, text.hidden_size, settings.late_width)
        if model.late is not None:
            model.late.to(model.device).train().requires_grad_(True)
        model.calibration = None  # of the scores before

    @classmethod
    def build(
        cls, model: str, settings: PreferenceSettings, data: PreferenceDataSettings, context: BuildContext
    ) -> Task:
        """See `longalign.objectives.Objective.build`.

        Raises:
            LongalignError: no such model or data; data without labels, without captions, or with ties only; a V that
                is missing or of another width.
        """
        pairs = load_pairs(data.pairs, split="train", seed=context.seed, count=data.count)
        held_out = None
        if data.held_out is not None:  # the same for every seed, so that runs can be compared
            held_out = load_pairs(data.held_out, split="validation", count=data.held_out_count)
        # Weights in float32, whatever they are stored in: autocast takes care of half precision.
        loaded = PreferenceModel.from_pretrained(model, device=str(context.device), dtype="float32")
        objective = cls(loaded, settings, pairs, held_out, data.held_out_count, context)
        return Task(objective, pairs)

    def _free(self, clip: Any) -> None:
        """Freeze the weights that are not trained."""
        wanted = self.settings
        if wanted.head == "pooled" and not (wanted.train_vision or wanted.train_text):
            raise LongalignError("preference: train_vision and train_text are both off: nothing to train")
        for part in (clip.vision_model, clip.visual_projection):
            part.requires_grad_(wanted.train_vision)
        for part in (clip.text_model, clip.text_projection):
            part.requires_grad_(wanted.train_text)
        clip.logit_scale.requires_grad_(wanted.train_logit_scale)
        clip.train()
        if wanted.gradient_checkpointing:
            # the name in transformers 5, and before
            enable = (
                getattr(clip, "activation_checkpointing_enable", None) or clip.gradient_checkpointing_enable
            )
            enable({"use_reentrant": False})
        if clip.device.type == "cpu":  # SDPA's backward is twice as slow there at the sticker world's sizes
            clip.set_attn_implementation("eager")

    def modules(self) -> Mapping[str, nn.Module]:
        """The CLIP, and the late head where there is one."""
        return {"clip": self.model.clip, **({} if self.model.late is None else {"late": self.model.late})}

    def collate(self, rows: Sequence[Pair]) -> Batch:
        """See `collate_pairs`."""
        return collate_pairs(
            rows,
            self.model,
            with_captions=self.settings.loss != "single",
            whole_prompts=self.settings.prompt == "whole",
            with_questions=self.settings.head == "late",
        )

    def backward(self, batch: Batch, accelerator: Any) -> dict[str, float | Tensor]:
        """See `longalign.objectives.Objective.backward`.

        Returns:
            `loss`; `logit_scale` s; `accuracy` and `accuracy_caption`, how often the preferred picture scores higher on
            the prompt and on its own caption; `v_length`, the norm of E[C_P]. With a late head also its two losses
            (`late`, `truth`), and `sentences_right`, the share of sentences that it judges rightly.
        """
        self._bound_scale()
        with accelerator.autocast():
            image, prompt, caption, late = self._embed(batch)
        with torch.autocast(image.device.type, enabled=False):  # the loop may have it on around all of this
            loss, logged = self._loss(batch, image, prompt, caption, accelerator)
            if late is not None:
                assert isinstance(self.model.late, LateHead)
                of_pairs, of_truth, right = late_losses(
                    self.model.late, batch, late, self._looks(image, prompt), self.settings.loss
                )
                trained = self.settings.train_vision or self.settings.train_text
                loss = (
                    loss * trained
                    + self.settings.late_weight * of_pairs
                    + self.settings.truth_weight * of_truth
                )
                logged |= {"late": of_pairs, "truth": of_truth, "sentences_right": right}
        accelerator.backward(loss)
        return {name: value.detach() for name, value in {"loss": loss, **logged}.items()}

    def _loss(
        self, batch: Batch, image: Tensor, prompt: Tensor, caption: Tensor, accelerator: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over the pairs, and what to log. For the arguments see `_embed`."""
        name = self.settings.loss
        a, b = image.chunk(2)  # (B, D)
        y, scale = batch["preferred"].to(image), self.model.clip.logit_scale.exp()
        logged = {"logit_scale": scale}
        if name != "seg":
            logged["accuracy"] = _agreement(margin(a, b, prompt), y).mean()
        if name == "single":
            return pair_loss(a, b, prompt, y, scale), logged
        # A caption without weight stands as 0; seg_loss multiplies what comes of it by 0.
        rows = batch["caption_rows"].to(image.device)
        caption_a, caption_b = torch.zeros_like(image).index_copy(0, rows, caption).chunk(2)  # (B, D)
        own = y * margin(a, b, caption_a) + (1 - y) * margin(a, b, caption_b)
        logged["accuracy_caption"] = _agreement(own, y).mean()
        if name == "seg":
            return seg_loss(a, b, caption_a, caption_b, y, scale), logged
        if name == "seg-a":
            return seg_a_loss(a, b, prompt, caption_a, caption_b, y, scale), logged
        if self.settings.v == "stored" and self.model.decomposition is not None:
            v = self.model.decomposition.v_like(image)
        else:
            self._text_mean.update(caption, accelerator)
            logged["v_length"] = self._text_mean.mean.norm()
            v = self._text_mean.v
        return seg_o_loss(a, b, prompt, caption_a, caption_b, v, y, scale), logged

    # s η (C_X(a) − C_X(b))·V
    @torch.no_grad()
    def _looks(self, image: Tensor, prompt: Tensor) -> Tensor:
        """(B,) what the text-irrelevant part says of each pair, so that S need not; 0 where V is not known."""
        a, b = image.chunk(2)
        if self.settings.loss != "seg-o":
            return image.new_zeros(len(a))
        stored = self.model.decomposition if self.settings.v == "stored" else None
        v = self._text_mean.v if stored is None else stored.v_like(image)
        return self.model.clip.logit_scale.exp() * (prompt @ v) * ((a - b) @ v)

    @torch.no_grad()
    def _bound_scale(self) -> None:
        """In place: a clamp in the graph would leave a scale above the bound without gradient."""
        self.model.clip.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, LateParts | None]:
        """(2B, D) unit embeddings of the pictures; (B, D) of the prompts and (N, D) of the captions, means of segments.

        Equal texts are encoded once, prompts and captions together, those of like length in one call. A whole prompt
        is one segment, of which the first tokens are read. Eq. 6 needs no prompts, and Eq. 4 no captions: they are
        then (0, D). With a late head also the patches, and the tokens of all texts.
        """
        image, patches = self.model.parts_prepared(batch["image"].to(self.model.device))
        prompts = [] if self.settings.loss == "seg" else batch["prompts"]
        texts = prompts + batch["captions"]
        pieces, tokens = self.model.text_parts(
            [piece for text in [*texts, *batch["asked"]] for piece in text], truncate=True
        )  # only whole prompts are
        means = segment_mean(pieces[: sum(map(len, texts))], [len(text) for text in texts])
        prompt, caption = means.split([len(prompts), len(batch["captions"])])
        late = None if patches is None or tokens is None else LateParts(patches, tokens, len(prompts))
        return image, prompt, caption, late

    def state_dict(self) -> dict[str, Tensor]:
        """The running mean behind V, where the loss uses one."""
        return self._text_mean.state_dict() if self._remembers else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the running mean; see `TextMean.load_state_dict`."""
        if self._remembers:
            self._text_mean.load_state_dict(state)

    @property
    def _remembers(self) -> bool:
        return self.settings.loss == "seg-o" and self.settings.v == "running"

    def evaluate(self, accelerator: Any) -> dict[str, float]:
        """How often the model agrees with held-out preferences, by the score of each picture against the prompt.

        A prompt is read as the loss reads texts: its first tokens (single), or its segments (other losses).

        Returns:
            `accuracy`, where ties of either kind count ½. Where the factors are known: `accuracy_truth`, how often the
            picture with more true sentences scores higher among pairs of equal looks; `accuracy_looks`, how often the
            better-looking picture scores higher among pairs of equal truth.
        """
        if self.held_out is None:
            return {}
        mine = self.context.share(self.held_out_count)
        sums = torch.zeros(6, device=self.model.device)  # agreement and number of pairs, three times
        for first in range(0, len(mine), _EVALUATED_AT_ONCE):
            rows = [self.held_out[i] for i in mine[first : first + _EVALUATED_AT_ONCE]]
            margins, factors = self._margins(rows, accelerator)
            y = torch.tensor([row.preferred for row in rows])
            for k, (truth_sign, counted) in enumerate(_subsets(y, factors)):
                agreement = _agreement(margins, truth_sign)[counted]
                sums[2 * k : 2 * k + 2] += torch.stack([agreement.sum(), counted.sum()]).to(sums)
        totals = accelerator.reduce(sums, reduction="sum").tolist()
        names = ("accuracy", "accuracy_truth", "accuracy_looks")
        figures = {
            name: totals[2 * k] / totals[2 * k + 1] for k, name in enumerate(names) if totals[2 * k + 1]
        }
        if self.model.late is not None:  # few sentences suffice, and every process reads the same
            true, false = self._held_out_sentences(_EVALUATED_AT_ONCE)
            if len(true) and len(false):
                figures["sentences_auc"] = float((np.array(true)[:, None] > np.array(false)).mean())
        return figures

    def _held_out_sentences(self, most: int) -> tuple[list[float], list[float]]:
        """100 · S of true and of false sentences about held-out pictures, of at most so many pairs."""
        assert self.held_out is not None
        scores: tuple[list[float], list[float]] = ([], [])
        with inference(self.model.clip):
            for first in range(0, min(most, self.held_out_count), _EVALUATED_AT_ONCE):
                last = min(first + _EVALUATED_AT_ONCE, most, self.held_out_count)
                rows = [self.held_out[i] for i in range(first, last)]
                batch = collate_pairs(
                    rows, self.model, with_captions=False, whole_prompts=True, with_questions=True
                )
                _, patches = self.model.parts_prepared(batch["image"].to(self.model.device))
                tokens = self.model.tokens([text for of_one in batch["asked"] for text in of_one])
                assert patches is not None
                found = SCALE * late_scores(patches, tokens, [len(of_one) for of_one in batch["asked"]])
                for value, answer in zip(
                    found.tolist(), chain.from_iterable(batch["asked_true"]), strict=True
                ):
                    scores[0 if answer else 1].append(value)
        return scores

    def _margins(self, rows: Sequence[Pair], accelerator: Any) -> tuple[Tensor, Tensor | None]:
        """(B,) differences in score between a and b on the prompt, and (2, B) in truth and looks; on the CPU."""
        single = self.settings.loss == "single"
        batch = collate_pairs(rows, self.model, with_captions=False, whole_prompts=single)
        with inference(self.model.clip), accelerator.autocast():
            a, b = self.model.image_prepared(batch["image"].to(self.model.device)).chunk(2)
            pieces = self.model.text([piece for text in batch["prompts"] for piece in text], truncate=single)
            text = segment_mean(pieces, [len(text) for text in batch["prompts"]])
        return margin(a, b, text).float().cpu(), batch["factors"]

    def save(self, folder: Path) -> None:
        """A `CLIPModel` folder for `PreferenceModel.from_pretrained`, with tokenizer, preprocessing and V.

        V is computed from texts of the data, drawn by the run's seed. The late head is calibrated on held-out pairs.
        """
        self._bound_scale()
        rng = np.random.default_rng([self.context.seed, 1])
        number = min(self.settings.v_prompts, len(self.data))
        rows = rng.choice(len(self.data), number, replace=False).tolist()
        texts = [of_pair[rng.integers(len(of_pair))] for of_pair in map(self.data.texts, rows)]
        with inference(self.model.clip):
            v = fit_prompts(self.model, texts)
        model, calibration = self.model, None
        if model.late is not None and self.held_out is not None:
            true, false = self._held_out_sentences(self.held_out_count)
            with suppress(LongalignError):  # too few sentences, or a head that has not learnt anything yet
                calibration = Calibration.fit(true, false, "late", source="held-out pairs of its training")
        whole = PreferenceModel(model.clip, model.tokenizer, model.preprocess, v, model.late, calibration)
        with quiet():
            whole.save_pretrained(folder)


def _agreement(margins: Tensor, preferred: Tensor) -> Tensor:
    """(B,) 1 where the preferred picture scores higher, 0 where the other does, ½ where either ties."""
    wins = torch.heaviside(margins.detach(), margins.new_tensor(0.5))  # 1, 0, or ½
    y = preferred.to(wins)
    return y * wins + (1 - y) * (1 - wins)


def _subsets(preferred: Tensor, factors: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """What margins should agree with, and of which pairs: preferences of all, truth or looks where only it differs."""
    found = [(preferred, torch.ones_like(preferred, dtype=torch.bool))]
    if factors is not None:
        truth, looks = factors
        found.append(((truth > 0).float(), (truth != 0) & (looks == 0)))
        found.append(((looks > 0).float(), (looks != 0) & (truth == 0)))
    return found
