"""LPIPS: perceptual distance between a picture and the reference picture of its prompt (Zhang et al. 2018)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from longalign.errors import LongalignError
from longalign.metrics.metric import Metric, MetricColumn, PictureBatch, Tools
from longalign.metrics.weight_files import read_state
from longalign.preference.images import to_pixels
from longalign.runtime import inference, pick_device

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# Of pixels in [−1, 1], per channel: ImageNet's mean and deviation, which the backbones were trained with.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPS = 1e-10
_PIXELS_AT_ONCE = 1 << 20  # VGG's first layer then takes 256 MiB


class _Conv(NamedTuple):
    kernel: int
    stride: int = 1
    padding: int = 1


class _Net(NamedTuple):
    """Layers of a backbone by their numbers in torchvision's ``features``; a ReLU follows each convolution."""

    convolutions: dict[int, _Conv]
    pools: dict[int, int]  # number → kernel; the stride is 2
    taps: tuple[int, ...]  # the ReLUs whose outputs are compared
    least_px: int
    torchvision: str


_NETS = {
    "alex": _Net(
        {0: _Conv(11, 4, 2), 3: _Conv(5, 1, 2), 6: _Conv(3), 8: _Conv(3), 10: _Conv(3)},
        {2: 3, 5: 3},
        (1, 4, 7, 9, 11),
        31,
        "alexnet-owt-7be5be79.pth",
    ),
    "vgg": _Net(
        {n: _Conv(3) for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)},
        {4: 2, 9: 2, 16: 2, 23: 2},
        (3, 8, 15, 22, 29),
        16,
        "vgg16-397923af.pth",
    ),
}


@dataclass(frozen=True)
class LpipsOptions:
    """Options of `Lpips`.

    Attributes:
        backbone: torchvision's weights of the backbone.
        net: ``alex`` or ``vgg``.
        heads: file of the linear heads; None: those in the installed package lpips.
    """

    backbone: str | None = None
    net: str = "alex"
    heads: str | None = None


class PerceptualDistance(nn.Module):
    """LPIPS's network: a backbone, and a linear head on each of its five compared layers.

    Args:
        net: ``alex`` or ``vgg``.
        backbone: file in torchvision's layout; keys ``features.N.weight`` and ``features.N.bias``.
        heads: file in the layout of the package lpips; keys ``linN.model.1.weight``.

    Raises:
        LongalignError: a file is missing, damaged, or of another net.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str, backbone: str | os.PathLike[str], heads: str | os.PathLike[str]) -> None:
        super().__init__()
        plan = _NETS[net]
        self.taps, self.least_px = plan.taps, plan.least_px
        weights = {k: v for k, v in read_state(backbone).items() if k.startswith("features.")}
        wanted = {f"features.{n}.{part}" for n in plan.convolutions for part in ("weight", "bias")}
        if odd := sorted(wanted ^ weights.keys()):
            where = "lacks" if odd[0] in wanted else "has"
            raise LongalignError(
                f"lpips: {backbone}: is no {plan.torchvision.split('-')[0]} of torchvision: it {where} {odd[0]!r}"
            )
        self.features = nn.Sequential(*(_layer(plan, n, weights) for n in range(plan.taps[-1] + 1)))
        try:
            self.features.load_state_dict(
                {k.removeprefix("features."): v.float() for k, v in weights.items()}
            )
        except RuntimeError:
            raise LongalignError(f"lpips: {backbone}: a tensor has not the shape that {net} wants") from None
        found = read_state(heads)
        kept = []
        for i, tap in enumerate(plan.taps):
            head = found.get(f"lin{i}.model.1.weight")
            if head is None or head.shape != (1, self.features[tap - 1].out_channels, 1, 1):
                raise LongalignError(f"lpips: {heads}: holds no linear heads for this backbone ({net})")
            kept.append(nn.Parameter(head[0].float()))  # (C, 1, 1)
        self.heads = nn.ParameterList(kept)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def layers(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) pixels in [0, 1] → the compared layers, each (B, C, h, w), of unit length over channels."""
        x = (2 * pixels - 1 - self.shift) / self.scale
        found = []
        for n, layer in enumerate(self.features):
            x = layer(x)
            if n in self.taps:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + _EPS))
        return found

    # d(x, y) = Σ_l mean_hw w_l · (u_l(x) − u_l(y))²
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of pairs.

        Args:
            x, y: (B, 3, H, W) pixels in [0, 1].

        Returns:
            (B,)
        """
        pairs = zip(self.layers(x), self.layers(y), self.heads, strict=True)
        return torch.stack([((a - b).square() * head).sum(1).mean((1, 2)) for a, b, head in pairs]).sum(0)


def _layer(plan: _Net, number: int, weights: dict[str, Tensor]) -> nn.Module:
    if number in plan.pools:
        return nn.MaxPool2d(plan.pools[number], 2)
    if number not in plan.convolutions:
        return nn.ReLU()
    weight, shape = weights[f"features.{number}.weight"], plan.convolutions[number]
    return nn.Conv2d(weight.shape[1], len(weight), shape.kernel, shape.stride, shape.padding)


class Lpips(Metric):
    """LPIPS 0.1 of each picture and the reference picture of its prompt.

    A picture of another size than its reference is first scaled to the reference's size (bicubic). A picture without
    a reference has no number.

    Args:
        tools: what the evaluation has loaded.
        options: an `LpipsOptions`; None: the defaults.

    Raises:
        LongalignError: there is no reference set, no such net; backbone or heads are missing or of another net.
    """

    name = "lpips"
    columns = (MetricColumn("lpips", "LPIPS", ".4f", "lower"),)
    needs = frozenset(("reference",))
    Options = LpipsOptions

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        net = self.options.net
        if net not in _NETS:
            raise LongalignError(f"lpips: net {net!r} is unknown; one of {', '.join(_NETS)}")
        if self.options.backbone is None:
            files = " or ".join(f"{plan.torchvision} (lpips.net={name})" for name, plan in _NETS.items())
            raise LongalignError(
                f"lpips: no backbone is given: download torchvision's {files} and give --set lpips.backbone=FILE"
            )
        self.heads_file = self.options.heads or published_heads(net)
        self.device = pick_device(tools.device)
        self.model = PerceptualDistance(net, self.options.backbone, self.heads_file).to(self.device)

    @classmethod
    def weights(cls, tools: Tools, options: Any) -> Sequence[str]:
        """The backbone; the heads are small."""
        return () if options.backbone is None else (options.backbone,)

    @property
    def reads(self) -> str:
        """No prompt."""
        return "the picture and the reference picture"

    @property
    def what(self) -> str:
        """Names net, backbone and heads."""
        return f"{self.options.net} of {self.options.backbone}, heads {Path(self.heads_file).name}"

    def measure(self, batch: PictureBatch) -> Sequence[float]:
        """One distance a picture; NaN without a reference.

        Args:
            batch: decoded pictures with the references of their prompts.

        Raises:
            LongalignError: a picture is too small for the backbone.
        """
        found = [math.nan] * len(batch)
        of_size: dict[tuple[int, int], list[int]] = {}
        for i, reference in enumerate(batch.references):
            if reference is not None:
                of_size.setdefault(reference.size, []).append(i)
        for size, rows in of_size.items():
            if min(size) < self.model.least_px:
                raise LongalignError(
                    f"lpips: a reference picture of {size[0]} × {size[1]} px is too small: {self.options.net} needs "
                    f"{self.model.least_px} px on each side"
                )
            at_once = max(1, _PIXELS_AT_ONCE // (size[0] * size[1]))
            for start in range(0, len(rows), at_once):
                part = rows[start : start + at_once]
                x = torch.stack([to_pixels(_scaled(batch.images[i], size)) for i in part])
                y = torch.stack([to_pixels(reference) for i in part if (reference := batch.references[i])])
                with inference(self.model):
                    distances = self.model(x.to(self.device), y.to(self.device)).tolist()
                for i, distance in zip(part, distances, strict=True):
                    found[i] = distance
        return found


def _scaled(image: Picture, size: tuple[int, int]) -> Picture:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def published_heads(net: str) -> str:
    """The file of the published heads in the installed package lpips, which is not imported.

    Args:
        net: ``alex`` or ``vgg``.

    Raises:
        LongalignError: the package is not installed, or has no heads for this net.
    """
    package = find_spec("lpips")
    for folder in (package.submodule_search_locations or []) if package else []:
        if (file := Path(folder) / "weights" / "v0.1" / f"{net}.pth").is_file():
            return str(file)
    raise LongalignError(
        f"lpips: no linear heads for {net!r}: `pip install --no-deps lpips` (they ship in it), or give "
        "--set lpips.heads=FILE"
    )
