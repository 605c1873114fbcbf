"""What the embedded preference model learns from: pair losses on both of its scores, and single sentences.

The pooled scores C_X·C_P learn by Eq. 10. The late ones, S, learn by the same pairs: on the prompt the text-irrelevant
part η C_X·V is added to them, which leaves looks to V; and each of some sentences about each picture is called true
or false (binary cross entropy), half of them lies in one word.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from longalign.losses import margin, preference_nll, seg_o_loss
from longalign.preference.late import LateHead, Tokens, max_sim
from longalign.stickers.making.rated_tensors import Rated

MAX_SCALE = math.log(100.0)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
WEIGHTS = {"pooled": 1.0, "late": 0.1, "truth": 2.0}


class Judge(nn.Module):
    """A CLIP and a late head that are trained together.

    Args:
        clip: a `CLIPModel`.
        ids: (S, L) token ids of every sentence of `tensors.table`, padded.
        lengths: (S,) tokens of each.
        horizon_texts: how many texts the running mean looks back on from which V comes.
    """

    ids: Tensor
    lengths: Tensor
    total: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, clip: Any, ids: Tensor, lengths: Tensor, width: int = 64, horizon_texts: float = 8192
    ) -> None:
        super().__init__()
        self.clip = clip
        self.head = LateHead(
            clip.config.vision_config.hidden_size, clip.config.text_config.hidden_size, width
        )
        self.late_scale = nn.Parameter(torch.tensor(2.5))  # log of s in the pair losses of S
        self.horizon_texts = horizon_texts
        self.register_buffer("ids", ids)
        self.register_buffer("lengths", lengths)
        self.register_buffer("total", torch.zeros(clip.config.projection_dim))
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1))

    def images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 96, 96) in [0, 1] → C_X (B, D) and patches (B, P, W)."""
        found = self.clip.get_image_features(pixel_values=(pixels - self.mean) / self.std)
        return _unit(found.pooler_output), self.head.patches(found.last_hidden_state)

    def texts(self, numbers: Tensor) -> tuple[Tensor, Tokens]:
        """(N,) numbers of sentences → C_P (N, D) and tokens (N, L, W)."""
        found = self.clip.get_text_features(input_ids=self.ids[numbers])
        tokens = self.head.tokens(found.last_hidden_state, self.lengths[numbers])
        return _unit(found.pooler_output), tokens

    @property
    def v(self) -> Tensor:
        return normalize(self.total, dim=0)

    @torch.no_grad()
    def _remember(self, c: Tensor) -> None:
        """The running sum of text embeddings; see `longalign.objectives.preference.text_mean`."""
        self.total.mul_(math.exp(-len(c) / self.horizon_texts)).add_(c.detach().sum(0))

    def loss(self, batch: Rated, weights: dict[str, float] = WEIGHTS) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of the pairs, and what to log."""
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=MAX_SCALE)
            self.late_scale.clamp_(max=MAX_SCALE)
        with torch.autocast(self.ids.device.type, torch.bfloat16):
            image, patches = self.images(batch.image)
            parts = [batch.prompt, batch.caption, batch.asked]
            distinct, place = torch.unique(torch.cat([p.flatten() for p in parts]), return_inverse=True)
            c, (embeddings, token_weights) = self.texts(distinct)
        prompt, caption, asked = (
            of.view_as(part) for of, part in zip(place.split([p.numel() for p in parts]), parts, strict=True)
        )

        def tokens(numbers: Tensor) -> Tokens:
            return Tokens(embeddings[numbers], token_weights[numbers])

        a, b = image.chunk(2)
        y = batch.preferred
        text = _mean(c[prompt], batch.prompt_there)
        own = _mean(c[caption], batch.caption_there)
        self._remember(own)
        v = self.v
        pooled = seg_o_loss(a, b, text, own, own, v, y, self.clip.logit_scale.exp())

        patches_a, patches_b = patches.chunk(2)
        of_prompt, of_caption = tokens(prompt), tokens(caption)
        prompt_a, prompt_b = max_sim(patches_a, of_prompt), max_sim(patches_b, of_prompt)
        d_prompt = _mean((prompt_a - prompt_b)[..., None], batch.prompt_there)[:, 0]
        d_caption = max_sim(patches_a, of_caption) - max_sim(patches_b, of_caption)
        d_caption = _mean(d_caption[..., None], batch.caption_there)[:, 0]
        looks = ((a - b) @ v).detach() * (text @ v).detach()  # η (C_X(a) − C_X(b))·V
        # S may be on another scale than cosines of pooled vectors: each has a scale of its own.
        s = self.late_scale.exp()
        late = preference_nll(s * d_prompt + self.clip.logit_scale.exp().detach() * looks, y, 1.0).mean()
        late = (
            late + preference_nll(s * d_caption + self.clip.logit_scale.exp().detach() * looks, y, 1.0).mean()
        )

        logits = self.head.logits(max_sim(patches, tokens(asked)))  # (2B, M)
        truth = binary_cross_entropy_with_logits(logits, batch.asked_true.float())
        stated = self.head.logits(torch.cat([prompt_a, prompt_b]))
        there = torch.cat([batch.prompt_there, batch.prompt_there])
        on_prompt = binary_cross_entropy_with_logits(stated, batch.prompt_true.float(), weight=there.float())
        truth = truth + on_prompt
        loss = weights["pooled"] * pooled + weights["late"] * late + weights["truth"] * truth
        with torch.no_grad():
            logged = {
                "loss": loss,
                "pooled": pooled,
                "late": late,
                "truth": truth,
                "asked_right": ((logits > 0) == batch.asked_true).float().mean(),
                "accuracy": ((margin(a, b, text) > 0) == (y > 0.5)).float()[y != 0.5].mean(),
                "scale": self.clip.logit_scale.exp(),
                "late_scale": s,
                "head_scale": self.head.scale.exp(),
            }
        return loss, logged


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """(B, M, D) → (B, D), the mean of those that there are."""
    weight = there.to(values)[..., None]
    return (values * weight).sum(1) / weight.sum(1)


def _unit(features: Tensor) -> Tensor:
    return normalize(features.float(), dim=-1)
