"""Late interaction: a sentence's tokens look for themselves in a picture's patches (FILIP, ColPali).

C_X·C_P squeezes a picture into one vector, in which nine places with a kind and a colour each do not find room. Here
both sides keep their parts: a picture has an embedding a patch, a sentence one a token, all of unit length, and

    S(x, p̂) = Σ_k w_k max_j T_k·P_j,      w ≥ 0,  Σ_k w_k = 1

is between −1 and 1 like a cosine. Patches and tokens are computed once for each picture and each sentence.

A `LateHead` is trained, with the towers or on frozen ones. `ZeroShot` needs no training: the patches are those of
MaskCLIP (Zhou et al., 2022), and a sentence is one token, its pooled embedding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn.functional import normalize

from longalign.errors import LongalignError
from longalign.preference.calibration import Kind
from longalign.runs import atomic_write_bytes

FILE_NAME = "late_head.safetensors"  # beside the weights of the preference model
_FORMAT = "longalign.late_head"


class Tokens(NamedTuple):
    """Token embeddings of N sentences, padded to the longest.

    Attributes:
        embeddings: (N, L, W), unit length.
        weights: (N, L), the w_k; 0 on padding.
    """

    embeddings: Tensor
    weights: Tensor

    def rows(self, chosen: Tensor | slice) -> Tokens:
        """Those of some sentences."""
        return Tokens(self.embeddings[chosen], self.weights[chosen])


class LateHead(nn.Module):
    """Projects the last states of both towers to patch and token embeddings, and weighs the tokens.

    Args:
        vision_width, text_width: of the towers' states.
        width: W, of the embeddings.
    """

    def __init__(self, vision_width: int, text_width: int, width: int = 64) -> None:
        super().__init__()
        self.vision_width, self.text_width, self.width = vision_width, text_width, width
        self.patch_norm = nn.LayerNorm(vision_width)  # CLIP normalises the class token's last state alone
        self.patch = nn.Linear(vision_width, width, bias=False)
        self.token = nn.Linear(text_width, width, bias=False)
        self.weight = nn.Linear(text_width, 1)
        nn.init.zeros_(self.weight.weight)  # all tokens weigh alike at first
        nn.init.zeros_(self.weight.bias)
        # P(true) = σ(e^scale · S + offset) in training; what users see is calibrated afterwards.
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def patches(self, states: Tensor) -> Tensor:
        """(B, 1 + P, width) last states of the image tower, the class token first → (B, P, W) unit embeddings."""
        return _unit(self.patch(self.patch_norm(states[:, 1:])))

    def tokens(self, states: Tensor, lengths: Tensor) -> Tokens:
        """(N, L, width) last states of the text tower → its tokens; the start token does not count.

        Args:
            lengths: (N,) tokens of each text, start and end token counted.
        """
        place = torch.arange(states.shape[1], device=states.device)
        counted = (place > 0) & (place < lengths[:, None])  # (N, L)
        logits = self.weight(states).squeeze(-1).float().masked_fill(~counted, float("-inf"))
        return Tokens(_unit(self.token(states)), logits.softmax(-1))

    def of(self, clip: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the image tower reads → its pooled features (B, D), not of unit length, and the patches."""
        found = clip.get_image_features(pixel_values=x)
        return found.pooler_output, self.patches(found.last_hidden_state)

    def said(self, pooled: Tensor, states: Tensor, lengths: Tensor) -> Tokens:
        """The tokens of texts, from the text tower's pooled features (N, D) and its last states."""
        return self.tokens(states, lengths)

    def logits(self, scores: Tensor) -> Tensor:
        """S → the logit of P(true) by which the head is trained."""
        return self.scale.exp() * scores + self.offset

    def save(self, path: str | os.PathLike[str]) -> None:
        """As safetensors."""
        about = {"format": _FORMAT, "widths": json.dumps([self.vision_width, self.text_width, self.width])}
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        atomic_write_bytes(Path(path), to_safetensors(state, about))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LateHead:
        """In float32.

        Raises:
            LongalignError: no such file, or it is no late head.
        """
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                about = file.metadata() or {}
                if about.get("format") != _FORMAT:
                    raise LongalignError(f"{path}: holds tensors, but no late head of longalign")
                head = cls(*json.loads(about["widths"]))
                head.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
        except FileNotFoundError:
            raise LongalignError(f"{path}: no such file of a late head") from None
        except (SafetensorError, OSError, RuntimeError) as error:
            raise LongalignError(f"{path}: cannot be read as a late head: {error}") from error
        return head


class ZeroShot(nn.Module):
    """Late interaction of a published CLIP as it is.

    The image tower's last layer takes each place's own value instead of attending, which leaves the place what it
    shows; then CLIP's own projection. A sentence is its pooled embedding: S is its cosine to the nearest patch.
    """

    def of(self, clip: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `LateHead.of`."""
        tower = clip.vision_model
        found = tower(pixel_values=x, output_hidden_states=True)
        h, last = found.hidden_states[-2][:, 1:], tower.encoder.layers[-1]  # (B, P, width)
        h = h + last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(h)))
        h = h + last.mlp(last.layer_norm2(h))
        patches = clip.visual_projection(tower.post_layernorm(h))
        return clip.visual_projection(found.pooler_output), _unit(patches)

    def said(self, pooled: Tensor, states: Tensor, lengths: Tensor) -> Tokens:
        """As `LateHead.said`: one token a text."""
        return Tokens(_unit(pooled)[:, None], torch.ones(len(pooled), 1, device=pooled.device))


Late = LateHead | ZeroShot


def kinds_of(late: Late | None) -> tuple[Kind, ...]:
    """The scores that sentences can be judged by, the preferred one first."""
    if late is None:
        return ("aligned", "score")
    return ("late",) if isinstance(late, LateHead) else ("zero-shot",)


def pad(tokens: Sequence[Tokens]) -> Tokens:
    """Those of one or more calls as one, padded to the longest."""
    longest = max(t.weights.shape[1] for t in tokens)
    spare = [longest - t.weights.shape[1] for t in tokens]
    fill = nn.functional.pad
    return Tokens(
        torch.cat([fill(t.embeddings, (0, 0, 0, n)) for t, n in zip(tokens, spare, strict=True)]),
        torch.cat([fill(t.weights, (0, n)) for t, n in zip(tokens, spare, strict=True)]),
    )


def late_scores(patches: Tensor, tokens: Tokens, counts: Sequence[int]) -> Tensor:
    """(B, P, W) patches of pictures and the tokens of all their sentences, picture after picture → (Σ counts,)."""
    bounds = [0, *accumulate(counts)]
    found = [
        max_sim(patches[i : i + 1], Tokens(tokens.embeddings[None, a:b], tokens.weights[None, a:b]))[0]
        for i, (a, b) in enumerate(pairwise(bounds))
    ]
    return torch.cat(found) if found else patches.new_zeros(0)


# S(x, p̂) = Σ_k w_k max_j T_k·P_j
def max_sim(patches: Tensor, tokens: Tokens) -> Tensor:
    """(B, P, W) patches of pictures, tokens of N sentences each: (B, N, L, W) and (B, N, L) → (B, N) scores."""
    embeddings, weights = tokens
    similar = torch.einsum("bnlw,bpw->bnlp", embeddings, patches).amax(-1)  # (B, N, L)
    return (similar * weights).sum(-1)


def _unit(features: Tensor) -> Tensor:
    return normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
