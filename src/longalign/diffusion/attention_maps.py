"""Where in the picture a word of the prompt is looked at: cross-attention maps while sampling (LongAlign, Fig. 12).

With queries Q of the picture's positions and keys K of the text's tokens, head by head,

    A = softmax(Q Kᵀ / √d)   (B, heads, h·w, L),

and the map of a token is its column of A, averaged over heads, layers and steps. In a UNet, A is that of the
cross-attention layers (`attn2`). In SD3's joint attention K holds the keys of picture and text, so the columns of all
tokens sum to less than 1. The model is not changed: hooks compute A beside each layer, from what the layer is given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from longalign.backbones import backbone_of, denoising_module
from longalign.backbones.base import Pipeline
from longalign.errors import LongalignError
from longalign.soft_tokens.attachment import arguments_of, forget_compiled

_SCORES_AT_ONCE = 2**24  # 64 MiB
# blue, cyan, green, yellow, red: the usual order of heat
_HEAT = np.array([(0, 0, 160), (0, 160, 255), (80, 220, 80), (255, 220, 0), (220, 0, 0)], np.float32)


class AttentionMaps:
    """The maps that `attention_maps` collects.

    Args:
        columns: positions of tokens along L.
        joint: whether picture and text share an attention (SD3).
        groups: (B, G, columns) weights with which the maps of columns are added up; None: they stay apart.
    """

    def __init__(self, columns: Sequence[int], joint: bool, groups: Tensor | None = None) -> None:
        self.columns, self.joint, self.groups = list(columns), joint, groups
        self.step = -1
        self.active = False
        self.grid = (0, 0)  # (height, width) of the latents, or of SD3's patches
        self.length = 0  # L, text tokens that the model is given
        self.conditional = slice(None)
        self._sums: dict[tuple[int, int], Tensor] = {}  # (h, w) → (B, columns, h, w)
        self._counts: dict[tuple[int, int], int] = {}

    def result(self) -> Tensor:
        """(B, columns, h, w) float32 on the CPU: the mean over heads, layers and steps, of the conditional rows.

        With groups it is (B, G, h, w).

        Layers of a lower resolution are enlarged to that of the finest one (bilinearly, which keeps sums over tokens).

        Raises:
            LongalignError: the model did not run, or no chosen layer or step has come.
        """
        if not self._sums:
            raise LongalignError(
                "no attention was seen: call the pipeline inside the with block, and choose steps and resolutions "
                "that it has"
            )
        finest = max(self._sums)
        total = sum(
            F.interpolate(maps, finest, mode="bilinear", align_corners=False) for maps in self._sums.values()
        )
        assert isinstance(total, Tensor)
        return total / sum(self._counts.values())

    def _add(self, maps: Tensor, size: tuple[int, int]) -> None:
        """(B, columns, h·w) of one layer and one step."""
        if self.groups is not None:
            if len(self.groups) != len(maps):
                raise LongalignError(
                    f"groups are of {len(self.groups)} prompts, and the model was called with {len(maps)}: give the "
                    "pipeline that conditioning, and one picture a prompt"
                )
            maps = torch.einsum("bgc,bcn->bgn", self.groups.to(maps), maps)
        maps = maps.reshape(*maps.shape[:2], *size).float().cpu()
        before = self._sums.get(size)
        if before is not None and before.shape != maps.shape:
            raise LongalignError(
                "attention maps are of one call of the pipeline: begin a new with block for another"
            )
        self._sums[size] = maps if before is None else before + maps
        self._counts[size] = self._counts.get(size, 0) + 1


@contextmanager
def attention_maps(
    pipe: Pipeline,
    token_columns: Sequence[int],
    *,
    factors: Collection[int] | None = None,
    layers: Collection[int] | None = None,
    steps: Collection[int] | None = None,
    guided: bool | None = None,
    groups: Tensor | None = None,
) -> Iterator[AttentionMaps]:
    """Collect attention maps of some tokens while a pipeline samples; afterwards the model is as before::

        columns = longalign.encoding.word_columns.word_columns(pipe, conditioning, prompt, "fox")
        with attention_maps(pipe, columns[0]) as maps:
            image = pipe(**conditioning.pipeline_kwargs()).images[0]
        heatmap(image, maps.result()[0].mean(0)).save("fox.png")

    Args:
        pipe: a pipeline of SD 1.x, 2.x, XL or 3. Its output is the same to the bit.
        token_columns: positions of tokens along L of the conditioning. Soft tokens on the model are not counted.
        factors: of a UNet, the layers that are this much smaller than the latents, such as ``{2, 4}``; None: all.
        layers: places among the model's attention layers with text, from 0; None: all.
        steps: which calls of the model, from 0; None: all.
        guided: whether the first half of the batch is unconditional and left out; None: as the pipeline says.
        groups: (B, G, columns) for B prompts: the maps of columns are added up with these weights, so that G maps a
            prompt are kept in place of one a column.

    Raises:
        LongalignError: no tokens are given, the model has none of these layers or positions, or it belongs to no known
            family.
    """
    module = denoising_module(pipe)
    module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper
    places = backbone_of(module).token_places
    if places is None:
        raise LongalignError(f"{type(module).__name__} has no attention to text that is known here")
    if not len(token_columns):
        raise LongalignError("no token columns: give the positions of at least one token")
    found = _layers(module, places.joint)
    chosen = [layer for k, layer in enumerate(found) if layers is None or k in layers]
    if not chosen:
        raise LongalignError(f"no attention layer is chosen: the model has {len(found)}, counted from 0")
    maps = AttentionMaps(token_columns, places.joint, groups)
    arguments = arguments_of(module)

    def before(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = arguments(args, kwargs)
        maps.active = given.get("skip_layers") is None  # a further call of SD3's skip-layer guidance
        if not maps.active:
            return
        maps.step += 1
        maps.active = steps is None or maps.step in steps
        latents = given[places.latents]  # (B, C, h, w)
        patch = module.config.patch_size if places.joint else 1
        maps.grid = (latents.shape[-2] // patch, latents.shape[-1] // patch)
        maps.length = given["encoder_hidden_states"].shape[1]
        if not all(0 <= column < maps.length for column in maps.columns):
            raise LongalignError(f"token columns must be from 0 to {maps.length - 1}, not {maps.columns}")
        halves = guided if guided is not None else getattr(pipe, "do_classifier_free_guidance", False)
        maps.conditional = slice(len(latents) // 2 if halves else 0, None)

    handles = [module.register_forward_pre_hook(before, with_kwargs=True)]
    handles += [
        layer.register_forward_pre_hook(_collector(maps, layer, factors), with_kwargs=True)
        for layer in chosen
    ]
    forget_compiled()
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
        forget_compiled()


def heatmap(image: Image.Image, attention: Tensor, opacity: float = 0.5) -> Image.Image:
    """A picture with an attention map over it, from blue (least) to red (most).

    Args:
        image: the picture.
        attention: (h, w), any range; it is stretched to the picture's size and from its least to its greatest value.
        opacity: of the colours, from 0 to 1.

    Raises:
        LongalignError: the map has another shape or is not finite, or the opacity is out of range.
    """
    if attention.ndim != 2 or not torch.isfinite(attention).all():
        raise LongalignError(f"a map is (h, w) finite numbers, not of shape {tuple(attention.shape)}")
    if not 0 <= opacity <= 1:
        raise LongalignError(f"opacity must be from 0 to 1, not {opacity}")
    low, high = attention.min(), attention.max()
    share = (attention - low) / (high - low) if high > low else torch.zeros_like(attention)
    size = (image.height, image.width)
    large = F.interpolate(share[None, None].float(), size, mode="bicubic", align_corners=False)[0, 0].clamp(
        0, 1
    )
    at = large.cpu().numpy() * (len(_HEAT) - 1)
    colours = np.stack([np.interp(at, np.arange(len(_HEAT)), _HEAT[:, c]) for c in range(3)], axis=-1)
    return Image.blend(image.convert("RGB"), Image.fromarray(colours.round().astype(np.uint8)), opacity)


def _layers(module: nn.Module, joint: bool) -> list[nn.Module]:
    """The attention layers that read text, in the order of the model."""
    if joint:
        return [block.attn for block in module.transformer_blocks]  # type: ignore[union-attr]
    return [layer for name, layer in module.named_modules() if name.endswith("attn2")]


def _collector(maps: AttentionMaps, layer: Any, factors: Collection[int] | None) -> Callable[..., None]:
    arguments = arguments_of(layer)

    @torch.no_grad()
    def collect(_layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not maps.active:
            return
        given = arguments(args, kwargs)
        image, text = given["hidden_states"], given["encoder_hidden_states"]
        text = text[0] if isinstance(text, tuple) else text  # an IP-Adapter's pictures beside it
        image, text = image[maps.conditional], text[maps.conditional]
        size, factor = _size(image.shape[1], maps.grid)
        if factors is not None and factor not in factors:
            return
        mask = given.get("attention_mask")  # a bias, broadcast over heads and queries
        bias = None if mask is None else mask[maps.conditional] if len(mask) > 1 else mask
        maps._add(_attention(layer, image, text, bias, _shifted(maps, text.shape[1])), size)

    return collect


def _shifted(maps: AttentionMaps, seen: int) -> list[int]:
    """The columns among the tokens that a layer sees: soft tokens stand behind the first of a UNet's, before SD3's."""
    extra = seen - maps.length
    return [column + extra if maps.joint or column > 0 else column for column in maps.columns]


# A = softmax(Q Kᵀ / √d), its columns of some text tokens, averaged over heads
def _attention(
    layer: Any, image: Tensor, text: Tensor, bias: Tensor | None, columns: Sequence[int]
) -> Tensor:
    """(B, columns, N) of image states (B, N, C) and text states (B, L, D).

    One head and some queries after the other, so that memory does not grow with the square of the picture's positions.
    """

    def heads(states: Tensor, norm: Any) -> Tensor:
        split = states.unflatten(-1, (layer.heads, -1)).transpose(1, 2)  # (B, heads, n, d)
        return split if norm is None else norm(split)

    queries = heads(layer.to_q(image), layer.norm_q)
    joint = getattr(layer, "add_k_proj", None) is not None
    if joint:
        own, added = heads(layer.to_k(image), layer.norm_k), heads(layer.add_k_proj(text), layer.norm_added_k)
        keys = torch.cat([own, added], dim=2)
    else:
        keys = heads(layer.to_k(text), layer.norm_k)
    first = image.shape[1] if joint else 0
    chosen = torch.tensor([first + column for column in columns], device=keys.device)
    total = queries.new_zeros(len(image), len(columns), image.shape[1], dtype=torch.float32)
    at_once = max(1, _SCORES_AT_ONCE // (len(image) * keys.shape[2]))  # queries
    for head in range(layer.heads):
        key = keys[:, head].float().mT
        for start in range(0, image.shape[1], at_once):
            some = slice(start, start + at_once)
            scores = queries[:, head, some].float() @ key * queries.shape[-1] ** -0.5  # (B, n, keys)
            if bias is not None and not joint:
                scores = scores + bias.float()  # (B, 1, L)
            total[:, :, some] += scores.softmax(-1)[..., chosen].mT
    return total / layer.heads


def _size(count: int, grid: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """(height, width) of a layer with so many positions, and how much smaller it is than the grid."""
    height, width, factor = *grid, 1
    while height * width > count and height * width > 1:
        # odd sides are rounded up, as in UNets
        height, width, factor = -(-height // 2), -(-width // 2), 2 * factor
    if height * width != count:
        raise LongalignError(f"{count} positions are no reduced grid of {grid[0]} × {grid[1]}")
    return (height, width), factor
