"""LPIPS against the published formula in numpy, with tiny random backbones in torchvision's layout.

Distances agree to 1e-5 of their size (float32 against float64).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from longalign.errors import LongalignError
from longalign.metrics import METRICS
from longalign.metrics.lpips import Lpips, LpipsOptions, published_heads
from longalign.metrics.metric import PictureBatch, Tools

# torchvision's `features`: kernel, stride and padding of each convolution, "pool" of kernel 3 (AlexNet) or 2 (VGG), and
# "tap" where LPIPS looks. The numbers of the layers are those of the published files.
ALEX = [
    (0, 11, 4, 2), "tap", "pool", (3, 5, 1, 2), "tap", "pool", (6, 3, 1, 1), "tap", (8, 3, 1, 1), "tap",
    (10, 3, 1, 1), "tap",
]  # fmt: skip
VGG = [
    (0, 3, 1, 1), (2, 3, 1, 1), "tap", "pool", (5, 3, 1, 1), (7, 3, 1, 1), "tap", "pool",
    (10, 3, 1, 1), (12, 3, 1, 1), (14, 3, 1, 1), "tap", "pool", (17, 3, 1, 1), (19, 3, 1, 1), (21, 3, 1, 1), "tap",
    "pool", (24, 3, 1, 1), (26, 3, 1, 1), (28, 3, 1, 1), "tap",
]  # fmt: skip
NETS = {"alex": (ALEX, 3), "vgg": (VGG, 2)}


def files(folder: Path, net: str) -> LpipsOptions:
    """Backbone with 3 + i channels after convolution i, and heads, both with the published keys."""
    rng = torch.Generator().manual_seed(0)
    backbone, heads, channels, taps = {}, {}, 3, 0
    for i, step in enumerate(NETS[net][0]):
        if isinstance(step, tuple):
            number, kernel, _, _ = step
            out = 3 + i
            backbone[f"features.{number}.weight"] = 0.3 * torch.randn(
                out, channels, kernel, kernel, generator=rng
            )
            backbone[f"features.{number}.bias"] = 0.3 * torch.randn(out, generator=rng)
            channels = out
        elif step == "tap":
            heads[f"lin{taps}.model.1.weight"] = torch.rand(1, channels, 1, 1, generator=rng)
            taps += 1
    backbone["classifier.1.weight"] = torch.zeros(2, 2)  # torchvision's files have the classifier, too
    torch.save(backbone, folder / f"{net}-backbone.pth")
    torch.save(heads, folder / f"{net}-heads.pth")
    return LpipsOptions(str(folder / f"{net}-backbone.pth"), net, str(folder / f"{net}-heads.pth"))


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[2:], (1, 2))[:, ::stride, ::stride]  # (C, h, w, k, k)
    return np.einsum("chwij,ocij->ohw", windows, weight) + bias[:, None, None]


def plain_lpips(options: LpipsOptions, x: np.ndarray, y: np.ndarray) -> float:
    """(H, W, 3) bytes. d = Σ_l mean_hw Σ_c w_lc (u_lc(x) − u_lc(y))², u of unit length over channels."""
    weights = {k: v.double().numpy() for k, v in torch.load(str(options.backbone)).items()}
    heads = {k: v.double().numpy() for k, v in torch.load(str(options.heads)).items()}
    steps, pool = NETS[options.net]

    def layers(picture: np.ndarray) -> list[np.ndarray]:
        h = picture.astype(np.float64).transpose(2, 0, 1) / 127.5 - 1
        h = (h - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array([0.458, 0.448, 0.450])[
            :, None, None
        ]
        found = []
        for step in steps:
            if isinstance(step, tuple):
                number, _, stride, padding = step
                weight, bias = weights[f"features.{number}.weight"], weights[f"features.{number}.bias"]
                h = np.maximum(convolve(h, weight, bias, stride, padding), 0)
            elif step == "pool":
                h = sliding_window_view(h, (pool, pool), (1, 2))[:, ::2, ::2].max((3, 4))
            else:
                found.append(h / (np.sqrt((h**2).sum(0)) + 1e-10))
        return found

    total = 0.0
    for i, (a, b) in enumerate(zip(layers(x), layers(y), strict=True)):
        total += ((a - b) ** 2 * heads[f"lin{i}.model.1.weight"][0]).sum(0).mean()
    return total


def noise(width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("net", NETS)
def test_lpips_is_the_published_formula(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes, taken one picture at a time; a picture without reference has no number; equal pictures have 0."""
    monkeypatch.setattr("longalign.metrics.lpips._PIXELS_AT_ONCE", 1)
    options = files(tmp_path, net)
    tools = Tools(reference="x", device="cpu")
    metric = Lpips(tools, options)
    images = [noise(40, 36, 1), noise(40, 36, 2), noise(32, 33, 3), noise(40, 36, 4)]
    references = [noise(40, 36, 5), None, noise(32, 33, 6), images[3]]
    found = metric.measure(PictureBatch(images, [""] * 4, tools, references=references))
    for i in (0, 2):
        wanted = plain_lpips(options, np.asarray(images[i]), np.asarray(references[i]))
        assert wanted > 0.01
        assert found[i] == pytest.approx(wanted, rel=1e-5)
    assert math.isnan(found[1]) and found[3] == 0
    assert metric.what == f"{net} of {options.backbone}, heads {net}-heads.pth"


def test_a_picture_of_another_size_is_scaled(tmp_path: Path) -> None:
    """To the size of its reference, bicubic."""
    options = files(tmp_path, "alex")
    tools = Tools(reference="x", device="cpu")
    image, reference = noise(80, 80, 1), noise(40, 40, 2)
    small = image.resize((40, 40), Image.Resampling.BICUBIC)
    found = Lpips(tools, options).measure(PictureBatch([image], [""], tools, references=[reference]))
    assert found == [pytest.approx(plain_lpips(options, np.asarray(small), np.asarray(reference)), rel=1e-5)]


def test_heads_of_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are found without an import of the package, which wants torchvision."""
    package = tmp_path / "lpips"
    (package / "weights/v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(LongalignError, match="no linear heads for 'alex': `pip install --no-deps lpips`"):
        published_heads("alex")
    (package / "weights/v0.1/alex.pth").write_bytes(b"")
    assert published_heads("alex") == str(package / "weights/v0.1/alex.pth")
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(LongalignError, match=r"--set lpips\.heads=FILE"):
        published_heads("alex")


def test_errors(tmp_path: Path) -> None:
    tools = Tools(reference="x", device="cpu")
    good = files(tmp_path, "alex")
    other = files(tmp_path, "vgg")

    def refused(options: LpipsOptions, match: str) -> None:
        with pytest.raises(LongalignError, match=match):
            Lpips(tools, options)

    with pytest.raises(LongalignError, match="lpips: needs a reference set of pictures"):
        Lpips(Tools(), good)
    refused(
        LpipsOptions(), r"no backbone is given: download torchvision's alexnet.* --set lpips\.backbone=FILE"
    )
    refused(LpipsOptions(good.backbone, "squeeze"), "net 'squeeze' is unknown; one of alex, vgg")
    refused(LpipsOptions(str(tmp_path / "gone.pth"), "alex", good.heads), "no such checkpoint file")
    refused(
        LpipsOptions(other.backbone, "alex", good.heads),
        r"is no alexnet of torchvision: it has 'features\.12",
    )
    refused(
        LpipsOptions(good.backbone, "vgg", good.heads), r"is no vgg16 of torchvision: it lacks 'features\.12"
    )
    refused(LpipsOptions(good.backbone, "alex", other.heads), "holds no linear heads for this backbone")
    state = torch.load(str(good.backbone))
    state["features.3.weight"] = torch.zeros(6, 3, 3, 3)
    torch.save(state, tmp_path / "odd.pth")
    refused(
        LpipsOptions(str(tmp_path / "odd.pth"), "alex", good.heads),
        "a tensor has not the shape that alex wants",
    )
    metric = Lpips(tools, good)
    small = PictureBatch([noise(40, 40, 1)], [""], tools, references=[noise(40, 30, 1)])
    with pytest.raises(LongalignError, match="40 × 30 px is too small: alex needs 31 px on each side"):
        metric.measure(small)
    least = PictureBatch([noise(31, 31, 1)], [""], tools, references=[noise(31, 31, 2)])
    assert metric.measure(least)[0] > 0 and METRICS["lpips"] is Lpips
