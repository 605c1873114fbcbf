"""CLIPScore, PickScore, HPSv2 and the aesthetic score against transformers, torchmetrics and plain formulas.

All models are tiny and random. Scores are compared to 1e-4 of the cosine's scale: transformers pads texts to one
length where longalign sorts them by length, so the last bits differ.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metric_libraries import library
from PIL import Image
from tiny_clip import IMAGE_PX, WIDTH, open_clip_layout, tiny_clip_h, tiny_model, tokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from longalign.errors import LongalignError
from longalign.evaluation.settings import EvaluateConfig, metric_options
from longalign.metrics import METRICS
from longalign.metrics.aesthetic import Aesthetic, AestheticOptions
from longalign.metrics.clipscore import ClipScore
from longalign.metrics.first_tokens import ClipOptions
from longalign.metrics.hpsv2 import HpsV2
from longalign.metrics.metric import PictureBatch, Tools
from longalign.metrics.pickscore import PickScore
from longalign.worlds import world

LONG = " ".join(["A red fox is in the top left."] * 20)  # some 160 tokens
PROMPTS = ["A fox is in the centre.", LONG, "The background is navy."]
SIZES = [(40, 36), (32, 32), (36, 60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with its tokenizer."""
    folder = tmp_path_factory.mktemp("clip") / "model"
    tiny_model().save_pretrained(folder)
    return folder


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for w, h in SIZES]


def batch(tools: Tools) -> PictureBatch:
    return PictureBatch(pictures(), PROMPTS, tools)


def cpu() -> Tools:
    return Tools(device="cpu")


def processor(images: Any = None, text: Any = None, **_: Any) -> Any:
    """What a `CLIPProcessor` does; texts are not truncated yet."""
    if text is not None:
        return tokenizer()(text, return_tensors="pt", padding=True)
    config = tiny_model().preprocess.to_config()
    return CLIPImageProcessorPil(**config)(images, return_tensors="pt")


class ClipOfTransformers4(nn.Module):
    """torchmetrics 1.9 wants tensors of a CLIP, transformers 5 returns objects."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = tiny_model().clip
        self.config = self.clip.config

    def get_image_features(self, pixels: Tensor) -> Tensor:
        return self.clip.get_image_features(pixel_values=pixels).pooler_output

    def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.clip.get_text_features(input_ids=ids, attention_mask=mask).pooler_output


def cosines() -> Tensor:
    """By transformers alone: the processor's pixels, and ids cut to 77 with the end token kept."""
    clip = tiny_model().clip
    pixels = torch.cat([processor(images=image)["pixel_values"] for image in pictures()])
    words = tokenizer()(PROMPTS, return_tensors="pt", padding=True, truncation=True, max_length=77)
    with torch.no_grad():
        c_x = clip.get_image_features(pixel_values=pixels).pooler_output
        c_p = clip.get_text_features(**words).pooler_output
    return (normalize(c_x, dim=1) * normalize(c_p, dim=1)).sum(1)


def test_clipscore_is_the_plain_formula(folder: Path) -> None:
    """100 · max(cos, 0), on a prompt that is cut to 77 tokens, too."""
    tools = cpu()
    metric = ClipScore(tools, ClipOptions(str(folder)))
    wanted = 100 * cosines().clamp(min=0)
    assert wanted.std() > 0.5
    torch.testing.assert_close(torch.tensor(metric.measure(batch(tools))), wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        metric.score(torch.tensor([-0.5, 0.25])), torch.tensor([0.0, 25.0]), rtol=0, atol=0
    )


def test_clipscore_is_torchmetrics(folder: Path) -> None:
    """Pair by pair (torchmetrics returns means), on prompts that fit the window."""
    tools = cpu()
    found = ClipScore(tools, ClipOptions(str(folder))).measure(batch(tools))
    clip_score = library("torchmetrics.functional.multimodal").clip_score
    for i in (0, 2):
        pixels = torch.from_numpy(np.array(pictures()[i])).permute(2, 0, 1)
        theirs = clip_score(pixels, PROMPTS[i], lambda: (ClipOfTransformers4(), processor))
        assert found[i] == pytest.approx(float(theirs.detach()), abs=1e-4)


def test_pickscore_is_the_published_formula(folder: Path) -> None:
    """exp(logit_scale) · cos; the tiny CLIP starts at transformers' logit_scale, ln(1 / 0.07), so at 14.28."""
    tools = cpu()
    found = PickScore(tools, ClipOptions(str(folder))).measure(batch(tools))
    scale = float(tiny_model().clip.logit_scale.detach().exp())
    assert 10 < scale < 20
    torch.testing.assert_close(torch.tensor(found), scale * cosines(), rtol=0, atol=1e-4)


def test_hpsv2_reads_the_published_layout(tmp_path: Path) -> None:
    """open_clip's keys and 16 heads, padded to a square with black: 100 · cos of the same network in transformers."""
    clip = tiny_clip_h()
    torch.save({"epoch": 1, "state_dict": open_clip_layout(clip)}, tmp_path / "HPS.pt")
    tokenizer().save_pretrained(tmp_path / "words")
    tools = cpu()
    metric = HpsV2(tools, ClipOptions(str(tmp_path / "HPS.pt"), str(tmp_path / "words")))
    square = []
    for image in pictures():
        scale = IMAGE_PX / max(image.size)
        small = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
        )
        whole = Image.new("RGB", (IMAGE_PX, IMAGE_PX))
        whole.paste(small, ((IMAGE_PX - small.width) // 2, (IMAGE_PX - small.height) // 2))
        square.append(processor(images=whole)["pixel_values"])
    words = tokenizer()(PROMPTS, return_tensors="pt", padding=True, truncation=True, max_length=77)
    with torch.no_grad():
        c_x = clip.get_image_features(pixel_values=torch.cat(square)).pooler_output
        c_p = clip.get_text_features(**words).pooler_output
    wanted = 100 * (normalize(c_x, dim=1) * normalize(c_p, dim=1)).sum(1)
    torch.testing.assert_close(torch.tensor(metric.measure(batch(tools))), wanted, rtol=0, atol=1e-3)
    assert metric.what.endswith("HPS.pt") and metric.reads == "the first 77 tokens"


def test_what_the_metrics_read(folder: Path) -> None:
    """75 of the long prompt's tokens fit beside start and end."""
    metric = ClipScore(cpu(), ClipOptions(str(folder)))
    counts = [len(tokenizer()(p, add_special_tokens=False).input_ids) for p in PROMPTS]
    assert counts[1] > 100 and metric.reads == "the first 77 tokens" and metric.what == str(folder)
    share = (counts[0] + 75 + counts[2]) / sum(counts)
    assert metric.share_read([*PROMPTS, *PROMPTS]) == f"{share:.1%} of the tokens"


def test_models_of_the_sticker_world() -> None:
    """Prompts of the sticker world are scored by its own models; the features' model is loaded once for both."""
    tools = Tools(world=world("stickers"), device="cpu")
    for name, model in (("clipscore", "stickers/clip"), ("pickscore", "stickers/pickscore")):
        options = metric_options(name, EvaluateConfig(), tools)
        assert METRICS[name].weights(tools, options) == (model,)
        metric = METRICS[name](tools, options)
        values = metric.measure(PictureBatch(pictures(), PROMPTS, tools))
        assert len(values) == 3 and all(math.isfinite(v) for v in values)
    assert ClipScore.weights(tools, ClipOptions()) == ("openai/clip-vit-base-patch32",)


def test_missing_models_say_what_to_download(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        LongalignError, match=r"^clipscore: .*clip-vit-base-patch32.*--set clipscore\.model=FOLDER"
    ):
        ClipScore(cpu())
    with pytest.raises(
        LongalignError, match=r"^pickscore: .*PickScore_v1.*--set pickscore\.tokenizer=FOLDER"
    ):
        PickScore(cpu())
    with pytest.raises(
        LongalignError, match=r"^hpsv2: no model is given: download HPS_v2\.1_compressed\.pt"
    ) as e:
        HpsV2(cpu())
    assert "--set hpsv2.model=FILE" in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(LongalignError, match=r"^hpsv2: x\.pt: no such checkpoint file"):
        HpsV2(cpu(), ClipOptions("x.pt"))
    with pytest.raises(
        LongalignError, match=r"^aesthetic: no head is given: download .*--set aesthetic\.head=FILE"
    ):
        Aesthetic(cpu())


def test_an_embedding_that_is_not_finite(folder: Path) -> None:
    tools = cpu()
    metric = ClipScore(tools, ClipOptions(str(folder)))
    tools.preference(str(folder)).model.clip.visual_projection.weight[0] = math.inf
    with pytest.raises(
        LongalignError, match="clipscore: an embedding is not finite: try the model in float32"
    ):
        metric.measure(batch(tools))


def head_file(path: Path, widths: tuple[int, ...], prefix: str = "layers") -> Path:
    """LAION's file: linear layers at places 0, 2, 4, 6, 7, dropouts between."""
    rng = torch.Generator().manual_seed(1)
    state = {}
    for place, wide, narrow in zip((0, 2, 4, 6, 7), widths[:-1], widths[1:], strict=True):
        state[f"{prefix}.{place}.weight"] = torch.randn(narrow, wide, generator=rng)
        state[f"{prefix}.{place}.bias"] = torch.randn(narrow, generator=rng)
    torch.save(state, path)
    return path


def test_aesthetic_heads_of_both_layouts(folder: Path, tmp_path: Path) -> None:
    """The five layers in numpy, one matrix after the other; and the older single layer."""
    tools = cpu()
    c_x = tools.preference(str(folder)).model
    with torch.no_grad():
        pixels = torch.cat([processor(images=image)["pixel_values"] for image in pictures()])
        unit = normalize(c_x.clip.get_image_features(pixel_values=pixels).pooler_output, dim=1).numpy()
    five = head_file(tmp_path / "sac+logos+ava1-l14-linearMSE.pth", (WIDTH, 32, 12, 8, 4, 1))
    state = {k: v.numpy() for k, v in torch.load(five).items()}
    wanted = unit
    for place in (0, 2, 4, 6, 7):
        wanted = wanted @ state[f"layers.{place}.weight"].T + state[f"layers.{place}.bias"]
    metric = Aesthetic(tools, AestheticOptions(str(five), str(folder)))
    np.testing.assert_allclose(metric.measure(batch(tools)), wanted[:, 0], rtol=1e-4, atol=1e-4)
    assert metric.reads == "the picture alone" and metric.what.endswith(f"linearMSE.pth on {folder}")
    one = {"weight": torch.arange(WIDTH)[None] / 10, "bias": torch.tensor([5.0])}
    torch.save(one, tmp_path / "linear.pth")
    metric = Aesthetic(tools, AestheticOptions(str(tmp_path / "linear.pth"), str(folder)))
    wanted = unit @ (np.arange(WIDTH) / 10) + 5
    np.testing.assert_allclose(metric.measure(batch(tools)), wanted, rtol=1e-5, atol=1e-5)


def test_heads_that_are_none(folder: Path, tmp_path: Path) -> None:
    """A ReLU head has layers at other places; a head of another CLIP has another width."""
    tools = cpu()

    def refused(name: str, state: Any, match: str) -> None:
        torch.save(state, tmp_path / name)
        with pytest.raises(LongalignError, match=match):
            Aesthetic(tools, AestheticOptions(str(tmp_path / name), str(folder)))

    relu = {f"layers.{n}.{part}": torch.zeros(1, 1) for n in (0, 3, 6, 9, 11) for part in ("weight", "bias")}
    refused("relu.pth", relu, r"relu\.pth: is no linear head: .*'layers\.3\.weight'")
    refused("none.pth", {"epoch": 3}, r"none\.pth: holds no state dict")
    refused(
        "wide.pth", {"weight": torch.zeros(1, 7), "bias": torch.zeros(1)}, "reads embeddings of 7 numbers"
    )
    refused(
        "two.pth",
        {"weight": torch.zeros(2, WIDTH), "bias": torch.zeros(2)},
        "gives 2 numbers, a score is one",
    )
    refused(
        "bias.pth", {"weight": torch.zeros(1, WIDTH), "bias": torch.zeros(2)}, "does not fit its neighbours"
    )
    file = head_file(tmp_path / "odd.pth", (WIDTH, 32, 12, 8, 4, 1))
    state = torch.load(file)
    state["layers.2.weight"] = torch.zeros(12, 31)
    refused("odd.pth", state, r"layers\.2\.weight of shape \(12, 31\)")
    with pytest.raises(LongalignError, match=r"gone\.pth: no such checkpoint file"):
        Aesthetic(tools, AestheticOptions(str(tmp_path / "gone.pth"), str(folder)))
