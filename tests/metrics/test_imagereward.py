"""ImageReward: the published file's names, and the whole network against a plain implementation of BLIP.

The weights are random, in the published layout (the names are those of BLIP's `vit.py` and `med.py`): vision of width
128 and 2 heads, text of width 192 and 3 heads, 2 layers each, pictures of 32 px in patches of 8. Rewards agree to
1e-5 of their spread.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, softmax
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from longalign.errors import LongalignError
from longalign.metrics import METRICS
from longalign.metrics.imagereward import ImageReward, ImageRewardOptions, RewardModel, convert
from longalign.metrics.metric import PictureBatch, Tools

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "fox", "sits", "on", "the", "hill", "."]
VISION, TEXT, LAYERS, PATCH, SIDE = 128, 192, 2, 8, 32
State = dict[str, Tensor]


def published() -> State:
    """A state dict in ImageReward.pt's layout."""
    rng = torch.Generator().manual_seed(0)
    state: State = {}

    def add(name: str, *shape: int, scale: float = 0.15, around: float = 0.0) -> None:
        state[name] = around + scale * torch.randn(*shape, generator=rng)

    def lin(name: str, out: int, into: int) -> None:
        add(f"{name}.weight", out, into)
        add(f"{name}.bias", out)

    def norm(name: str, width: int) -> None:
        add(f"{name}.weight", width, around=1.0)
        add(f"{name}.bias", width)

    vision, text = "blip.visual_encoder", "blip.text_encoder"
    add(f"{vision}.cls_token", 1, 1, VISION)
    add(f"{vision}.pos_embed", 1, 1 + (SIDE // PATCH) ** 2, VISION)
    add(f"{vision}.patch_embed.proj.weight", VISION, 3, PATCH, PATCH)
    add(f"{vision}.patch_embed.proj.bias", VISION)
    for i in range(LAYERS):
        block = f"{vision}.blocks.{i}"
        norm(f"{block}.norm1", VISION)
        lin(f"{block}.attn.qkv", 3 * VISION, VISION)
        lin(f"{block}.attn.proj", VISION, VISION)
        norm(f"{block}.norm2", VISION)
        lin(f"{block}.mlp.fc1", 2 * VISION, VISION)
        lin(f"{block}.mlp.fc2", VISION, 2 * VISION)
    norm(f"{vision}.norm", VISION)
    state[f"{text}.embeddings.position_ids"] = torch.arange(40)[None]
    add(f"{text}.embeddings.word_embeddings.weight", len(WORDS), TEXT)
    add(f"{text}.embeddings.position_embeddings.weight", 40, TEXT)
    norm(f"{text}.embeddings.LayerNorm", TEXT)
    for i in range(LAYERS):
        layer = f"{text}.encoder.layer.{i}"
        for kind, width in (("attention", TEXT), ("crossattention", VISION)):
            lin(f"{layer}.{kind}.self.query", TEXT, TEXT)
            lin(f"{layer}.{kind}.self.key", TEXT, width)
            lin(f"{layer}.{kind}.self.value", TEXT, width)
            lin(f"{layer}.{kind}.output.dense", TEXT, TEXT)
            norm(f"{layer}.{kind}.output.LayerNorm", TEXT)
        lin(f"{layer}.intermediate.dense", 2 * TEXT, TEXT)
        lin(f"{layer}.output.dense", TEXT, 2 * TEXT)
        norm(f"{layer}.output.LayerNorm", TEXT)
    lin("blip.vision_proj", 16, VISION)  # of contrastive pre-training; the reward has no use for it
    widths = (TEXT, 64, 32, 16, 8, 1)
    for place, wide, narrow in zip((0, 2, 4, 6, 7), widths[:-1], widths[1:], strict=True):
        lin(f"mlp.layers.{place}", narrow, wide)
    return state


def plain_reward(state: State, pictures: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """BLIP and the head, written down from their papers, without a class."""

    def lin(name: str, x: Tensor) -> Tensor:
        return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        weights = softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + bias, -1)
        return (weights @ v).transpose(1, 2).flatten(2)

    name = "blip.visual_encoder"
    patches = conv2d(pictures, state[f"{name}.patch_embed.proj.weight"], stride=PATCH).flatten(2).mT
    patches = patches + state[f"{name}.patch_embed.proj.bias"]
    x = torch.cat([state[f"{name}.cls_token"].expand(len(pictures), 1, -1), patches], 1)
    x = x + state[f"{name}.pos_embed"]
    for i in range(LAYERS):
        block = f"{name}.blocks.{i}"
        q, k, v = lin(f"{block}.attn.qkv", norm(f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + lin(f"{block}.attn.proj", attend(q, k, v, VISION // 64))
        inner = gelu(lin(f"{block}.mlp.fc1", norm(f"{block}.norm2", x, 1e-6)))
        x = x + lin(f"{block}.mlp.fc2", inner)
    seen = norm(f"{name}.norm", x, 1e-6)

    name = "blip.text_encoder"
    h = state[f"{name}.embeddings.word_embeddings.weight"][ids]
    h = h + state[f"{name}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    h = norm(f"{name}.embeddings.LayerNorm", h, 1e-12)
    hidden = (1 - mask[:, None, None].float()) * -1e9
    for i in range(LAYERS):
        layer = f"{name}.encoder.layer.{i}"
        for kind, other, bias in (("attention", None, hidden), ("crossattention", seen, 0.0)):
            source = h if other is None else other
            part = f"{layer}.{kind}"
            q, k, v = (
                lin(f"{part}.self.{n}", s) for n, s in (("query", h), ("key", source), ("value", source))
            )
            h = norm(
                f"{part}.output.LayerNorm",
                h + lin(f"{part}.output.dense", attend(q, k, v, TEXT // 64, bias)),
                1e-12,
            )
        inner = gelu(lin(f"{layer}.intermediate.dense", h))
        h = norm(f"{layer}.output.LayerNorm", h + lin(f"{layer}.output.dense", inner), 1e-12)
    y = h[:, 0]
    for place in (0, 2, 4, 6, 7):
        y = lin(f"mlp.layers.{place}", y)
    return (y[:, 0] - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageReward.pt and a folder of BERT's words."""
    folder = tmp_path_factory.mktemp("reward")
    torch.save(published(), folder / "ImageReward.pt")
    (folder / "words").mkdir()
    (folder / "words" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def options(files: Path) -> ImageRewardOptions:
    return ImageRewardOptions(str(files / "ImageReward.pt"), str(files / "words"))


def test_the_key_map_leaves_nothing_over_and_misses_nothing() -> None:
    """Every published tensor of the two towers has one place in transformers' models, and every place has a tensor.

    Not carried over: position_ids, which only count, and the two tensors of ``vision_proj``.
    """
    state = published()
    vision, text, head = convert(state)
    assert len(vision) + len(text) + len(head) == len(state) - 3
    model = RewardModel(state, "x.pt")
    places = {
        **{f"vision.{k}": v for k, v in model.vision.state_dict().items()},
        **{f"text.{k}": v for k, v in model.text.state_dict().items()},
    }
    given = {**{f"vision.{k}": v for k, v in vision.items()}, **{f"text.{k}": v for k, v in text.items()}}
    assert places.keys() == given.keys() and all(torch.equal(places[k], given[k]) for k in places)
    assert model.image_px == SIDE and model.text.config.num_attention_heads == 3


def test_rewards_are_those_of_a_plain_blip(files: Path) -> None:
    """Prompts of different lengths, so that padding is masked, one of them cut to 35 tokens: [CLS], 33 words, [SEP]."""
    tools = Tools(device="cpu")
    metric = ImageReward(tools, options(files))
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (40, w, 3), np.uint8)) for w in (40, 56, 40)]
    prompts = ["A red fox sits on the hill.", "fox " * 50, "Red hill"]
    found = metric.measure(PictureBatch(pictures, prompts, tools))
    ids = torch.zeros(3, 35, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        words = prompt.lower().replace(".", " .").split()[:33]
        tokens = [2, *map(WORDS.index, words), 3]
        ids[row, : len(tokens)] = torch.tensor(tokens)
    size = {"shortest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    clips = CLIPImageProcessorPil(size=size[0], crop_size=size[1])
    pixels = torch.cat([clips(p, return_tensors="pt")["pixel_values"] for p in pictures])
    wanted = plain_reward(published(), pixels, ids, (ids != 0).long())
    assert wanted.std() > 0.1
    torch.testing.assert_close(torch.tensor(found), wanted, rtol=1e-4, atol=1e-5 * float(wanted.std()))


def test_what_it_reads(files: Path) -> None:
    """7 + 1 and 33 of 50 tokens."""
    metric = ImageReward(Tools(device="cpu"), options(files))
    assert metric.share_read(["A red fox sits on the hill.", "fox " * 50]) == f"{41 / 58:.1%} of the tokens"
    assert metric.reads == "the first 35 tokens" and metric.what.endswith("ImageReward.pt")
    assert METRICS["imagereward"] is ImageReward
    assert ImageReward.weights(Tools(), ImageRewardOptions()) == ()


def test_errors(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    tools = Tools(device="cpu")

    def refused(match: str, model: str | None = str(files / "ImageReward.pt"), words: str = "") -> None:
        with pytest.raises(LongalignError, match=match):
            ImageReward(tools, ImageRewardOptions(model, words or str(files / "words")))

    refused(r"no model is given: download ImageReward\.pt .*--set imagereward\.model=FILE", None)
    refused(r"gone\.pt: no such checkpoint file", str(tmp_path / "gone.pt"))
    refused(r"bert-base-uncased.*--set imagereward\.tokenizer=FOLDER", words="google-bert/bert-base-uncased")
    refused(r"no vocab\.txt or tokenizer\.json in this folder", words=str(tmp_path))
    (tmp_path / "more").mkdir()
    (tmp_path / "more/vocab.txt").write_text("\n".join([*WORDS, "more"]) + "\n")
    refused("has 14 tokens, but the model knows 13", words=str(tmp_path / "more"))

    def broken(change: State, match: str, without: str = "") -> None:
        state = {k: v for k, v in {**published(), **change}.items() if k != without}
        with pytest.raises(LongalignError, match=match):
            RewardModel(state, "x.pt")

    broken({"blip.visual_encoder.head.weight": torch.zeros(1)}, r"x\.pt: is no ImageReward: .*head\.weight")
    broken({"text.weight": torch.zeros(1)}, r"'text\.weight' is in no ImageReward")
    broken({}, r"patch_embedding\.weight' is missing", "blip.visual_encoder.patch_embed.proj.weight")
    broken({}, r"picture encoder lack 'encoder\.layers\.1\.mlp", "blip.visual_encoder.blocks.1.mlp.fc2.bias")
    broken(
        {"blip.text_encoder.pooler.dense.bias": torch.zeros(1)}, r"text encoder have 'pooler\.dense\.bias'"
    )
    broken({}, r"x\.pt: is no linear head", "mlp.layers.7.bias")


def test_a_reward_that_is_not_finite(files: Path) -> None:
    tools = Tools(device="cpu")
    metric = ImageReward(tools, options(files))
    metric.model.head[0].bias[0] = math.nan
    with pytest.raises(LongalignError, match="a reward is not finite: try the model in float32"):
        metric.measure(PictureBatch([Image.new("RGB", (32, 32))], ["A fox."], tools))
