"""LoRA files of other tools act as `pipe.load_lora_weights` makes them act; what cannot be read is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from predictions import prediction
from safetensors.torch import save_file
from tiny import tiny_sd3, tiny_sd15, tiny_sdxl
from torch import Tensor

from longalign import LongalignError, load_pipeline
from longalign.backbones import backbone_of, denoising_module
from longalign.weights.lora_parts import read_parts
from longalign.weights.stack import put_on

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def kohya(
    pipe: Any, *, alpha: float, text: tuple[str, ...] = ("fc1", "fc2"), convolutions: bool = False
) -> dict[str, Tensor]:
    """The keys that kohya's scripts write, with ranks 2 and 3 and random numbers."""
    torch.manual_seed(1)
    found: dict[str, Tensor] = {}

    def add(prefix: str, name: str, layer: Any, rank: int) -> None:
        key = prefix + name.replace(".", "_")
        weight = layer.weight
        found[f"{key}.lora_down.weight"] = torch.randn(rank, *weight.shape[1:]) * 0.2
        found[f"{key}.lora_up.weight"] = torch.randn(len(weight), rank, *[1] * (weight.ndim - 2)) * 0.2
        found[f"{key}.alpha"] = torch.tensor(alpha)

    for name, layer in pipe.unet.named_modules():
        wanted = name.endswith(ATTENTION) or ".ff.net.0.proj" in name
        if convolutions and re.search(r"resnets\.\d\.conv1$", name):
            wanted = True
        if wanted:
            add("lora_unet_", name, layer, 3 if "attn1" in name else 2)
    if text:
        two = getattr(pipe, "text_encoder_2", None) is not None
        for number, encoder in enumerate([pipe.text_encoder, *([pipe.text_encoder_2] if two else [])], 1):
            for name, layer in encoder.named_modules():
                if name.endswith(text):
                    add(
                        f"lora_te{number if two else ''}_",
                        name if name.startswith("text_model.") else f"text_model.{name}",
                        layer,
                        2,
                    )
    return found


def sgm_blocks(keys: Mapping[str, Tensor], layers_per_block: int) -> dict[str, Tensor]:
    """The names of SDXL's UNet in kohya's files: its blocks are counted through.

    down_blocks.b.attentions.j → input_blocks.(1 + b (n + 1) + j).1, mid_block → middle_block.1,
    up_blocks.b.attentions.j → output_blocks.(b (n + 1) + j).1, for n layers a block.
    """

    def number(match: re.Match[str]) -> int:
        return int(match[1]) * (layers_per_block + 1) + int(match[2])

    renamed = {}
    for key, tensor in keys.items():
        key = re.sub(r"down_blocks_(\d)_attentions_(\d)", lambda m: f"input_blocks_{1 + number(m)}_1", key)
        key = re.sub(r"up_blocks_(\d)_attentions_(\d)", lambda m: f"output_blocks_{number(m)}_1", key)
        renamed[key.replace("mid_block_attentions_0", "middle_block_1")] = tensor
    return renamed


def peft_lora(pipe: Any, **config: Any) -> dict[str, Tensor]:
    """What peft and diffusers write of a trained LoRA."""
    module = denoising_module(pipe)
    torch.manual_seed(2)
    targets = config.pop("targets", list(ATTENTION))
    module.add_adapter(LoraConfig(target_modules=targets, init_lora_weights=False, **config), "mine")
    return get_peft_model_state_dict(module, adapter_name="mine")


def written(pipe: Any, folder: Path, **config: Any) -> Path:
    """A LoRA of rank 4 and alpha 2, by diffusers' own writer."""
    layers, component = peft_lora(pipe, r=4, lora_alpha=2, **config), backbone_of(pipe).component
    metadata = {f"{component}_lora_adapter_metadata": denoising_module(pipe).peft_config["mine"].to_dict()}
    pipe.save_lora_weights(folder, **{f"{component}_lora_layers": layers}, **metadata)
    return folder / "pytorch_lora_weights.safetensors"


def assert_same(make: Callable[[], Any], file: Path, name: str | None = None, scale: float = 1.0) -> None:
    """Our loading and diffusers' give the same prediction and the same text, and both differ from the bare model's."""
    theirs, ours, bare = make(), make(), prediction(make())
    theirs.load_lora_weights(str(file), adapter_name="x")
    theirs.set_adapters("x", scale)
    with pytest.warns(UserWarning, match="does not name its base") if name is None else _nothing():
        put_on(ours, [name or str(file)], check_base=name is None)
    for a, b in zip(prediction(ours), prediction(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert (prediction(ours)[0] - bare[0]).abs().max() > 1e-3


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize("convolutions", [False, True])
def test_kohya_sd15(tmp_path: Path, convolutions: bool) -> None:
    """UNet and text encoder, alpha 1 of rank 2 and 3; with LoCon's convolutions, too."""
    save_file(kohya(tiny_sd15(), alpha=1.0, convolutions=convolutions), tmp_path / "style.safetensors")
    assert_same(tiny_sd15, tmp_path / "style.safetensors")


def test_a_weight(tmp_path: Path) -> None:
    """``FILE:0.7``, on the command line and as a pair."""
    file = tmp_path / "style.safetensors"
    save_file(kohya(tiny_sd15(), alpha=1.0), file)
    assert_same(tiny_sd15, file, name=f"{file}:0.7", scale=0.7)
    assert_same(tiny_sd15, file, name=f"{file}:-0.5", scale=-0.5)


def test_kohya_sdxl_with_its_block_names(tmp_path: Path) -> None:
    keys = kohya(tiny_sdxl(), alpha=2.0, text=())
    save_file(keys, tmp_path / "diffusers-names.safetensors")
    assert_same(tiny_sdxl, tmp_path / "diffusers-names.safetensors")
    renamed = sgm_blocks(keys, tiny_sdxl().unet.config.layers_per_block)
    assert any("input_blocks" in key for key in renamed) and any("middle_block" in key for key in renamed)
    save_file(renamed, tmp_path / "style.safetensors")
    assert_same(tiny_sdxl, tmp_path / "style.safetensors")
    a, b = (read_parts(tmp_path / f"{n}.safetensors", tiny_sdxl()) for n in ("diffusers-names", "style"))
    assert a["unet"].layers.keys() == b["unet"].layers.keys()


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sdxl])
def test_text_encoders_by_hand(make: Callable[[], Any], tmp_path: Path) -> None:
    """W + 1/2 · up · down on both encoders. (diffusers 0.42 drops or spoils these layers with transformers 5.)"""
    keys = kohya(make(), alpha=1.0, text=("q_proj", "out_proj", "fc1"))
    save_file(keys, tmp_path / "style.safetensors")
    ours, by_hand = make(), make()
    put_on(ours, [str(tmp_path / "style.safetensors")], check_base=False)
    two = make is tiny_sdxl
    for number, encoder in enumerate([by_hand.text_encoder, *([by_hand.text_encoder_2] if two else [])], 1):
        prefix = f"lora_te{number if two else ''}_text_model_"
        for name, layer in encoder.named_modules():
            key = prefix + name.removeprefix("text_model.").replace(".", "_")
            if f"{key}.alpha" in keys:
                up, down = keys[f"{key}.lora_up.weight"], keys[f"{key}.lora_down.weight"]
                layer.weight.data += up @ down / 2
    torch.testing.assert_close(prediction(ours)[1], prediction(by_hand)[1], rtol=0, atol=1e-5)
    assert (prediction(ours)[1] - prediction(make())[1]).abs().max() > 1e-2


@pytest.mark.parametrize("make", [tiny_sd15, tiny_sd3])
def test_peft_with_alpha_by_diffusers_own_writer(make: Callable[[], Any], tmp_path: Path) -> None:
    assert_same(make, written(make(), tmp_path))


def test_rslora(tmp_path: Path) -> None:
    """alpha / √r: 2 / 2 and not 2 / 4."""
    assert_same(tiny_sd15, written(tiny_sd15(), tmp_path, use_rslora=True))


def test_dora(tmp_path: Path) -> None:
    file = written(tiny_sd15(), tmp_path, use_dora=True)
    assert_same(tiny_sd15, file, name=str(file))
    assert_same(tiny_sd15, tmp_path, name=str(tmp_path))  # its folder
    assert_same(tiny_sd15, file, name=f"{file}:0.5", scale=0.5)
    with pytest.raises(LongalignError, match=r"is a DoRA.*works on a model.*cannot be written as a LoRA"):
        read_parts(file, tiny_sd15())


@pytest.mark.parametrize("prefix", ["unet.", ""])
def test_old_diffusers(tmp_path: Path, prefix: str) -> None:
    """Attention processors, with and without the component's name."""
    pipe = tiny_sd15()
    torch.manual_seed(3)
    keys = {}
    for name, layer in pipe.unet.named_modules():
        if name.endswith(("to_q", "to_v")):
            block, _, kind = name.rpartition(".")
            keys[f"{prefix}{block}.processor.{kind}_lora.down.weight"] = (
                torch.randn(2, layer.in_features) * 0.2
            )
            keys[f"{prefix}{block}.processor.{kind}_lora.up.weight"] = (
                torch.randn(layer.out_features, 2) * 0.2
            )
    save_file(keys, tmp_path / "named.safetensors")
    if prefix:
        assert_same(tiny_sd15, tmp_path / "named.safetensors")
        return
    named = {f"unet.{key}": tensor for key, tensor in keys.items()}
    save_file(named, tmp_path / "with.safetensors")
    ours, theirs = tiny_sd15(), tiny_sd15()
    put_on(ours, [str(tmp_path / "named.safetensors")], check_base=False)
    theirs.load_lora_weights(str(tmp_path / "with.safetensors"))
    torch.testing.assert_close(prediction(ours)[0], prediction(theirs)[0], rtol=0, atol=1e-5)


def test_the_pipeline_is_left_as_it_was(tmp_path: Path) -> None:
    """Reading puts the file on the pipeline and takes it away; an earlier stage stays active."""
    file = tmp_path / "style.safetensors"
    save_file(kohya(tiny_sd15(), alpha=1.0), file)
    pipe = tiny_sd15()
    before = prediction(pipe)
    parts = read_parts(file, pipe)
    assert set(parts) == {"unet", "text_encoder"} and parts["unet"].rank == 3
    for a, b in zip(prediction(pipe), before, strict=True):
        assert torch.equal(a, b)
    put_on(pipe, [str(file)], check_base=False)
    on = prediction(pipe)
    read_parts(file, pipe)
    for a, b in zip(prediction(pipe), on, strict=True):
        assert torch.equal(a, b)


def test_two_stages_add_up(tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    save_file(kohya(tiny_sd15(), alpha=1.0, text=()), file)
    twice, strong = tiny_sd15(), tiny_sd15()
    put_on(twice, [f"{file}:0.5", f"{file}:0.25"], check_base=False)
    put_on(strong, [f"{file}:0.75"], check_base=False)
    torch.testing.assert_close(prediction(twice)[0], prediction(strong)[0], rtol=0, atol=1e-5)


def test_load_pipeline_takes_pairs(tmp_path: Path) -> None:
    """On the sticker model, as a file and a number; fused into the weights."""
    stickers = load_pipeline("stickers", device="cpu", dtype="float32")
    file = tmp_path / "style.safetensors"
    save_file(kohya(stickers, alpha=2.0), file)
    with pytest.warns(UserWarning, match="does not name its base"):
        fused = load_pipeline("stickers", device="cpu", dtype="float32", loras=[(file, 0.5)])
    stickers.load_lora_weights(str(file), adapter_name="x")
    stickers.set_adapters("x", 0.5)
    for a, b in zip(prediction(fused), prediction(stickers), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


# what is refused


def test_a_lora_of_another_base(tmp_path: Path) -> None:
    """SDXL's on SD1.5 by its names, and one of another width by its shapes. Both models are named."""
    save_file(kohya(tiny_sdxl(), alpha=1.0), tmp_path / "sdxl.safetensors")
    with pytest.raises(
        LongalignError, match=r"sdxl\.safetensors: is a LoRA for SDXL, and this model is Stable Diff"
    ):
        put_on(tiny_sd15(), [str(tmp_path / "sdxl.safetensors")], check_base=False)
    keys = kohya(tiny_sd15(), alpha=1.0, text=())
    wide = {k: torch.cat([t, t], dim=1) if k.endswith("lora_down.weight") else t for k, t in keys.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(
        LongalignError,
        match=r"wide\.safetensors: is a LoRA for a model with texts of width 64, and this model is Stable.* 32",
    ):
        put_on(tiny_sd15(), [str(tmp_path / "wide.safetensors")], check_base=False)


def test_layers_that_the_model_has_not(tmp_path: Path) -> None:
    keys = {
        re.sub(r"down_blocks_\d", "down_blocks_7", k): t for k, t in kohya(tiny_sd15(), alpha=1.0).items()
    }
    save_file(keys, tmp_path / "deep.safetensors")
    with pytest.raises(
        LongalignError, match=r"of its .* layers fit this model.*is it a LoRA for another model"
    ):
        put_on(tiny_sd15(), [str(tmp_path / "deep.safetensors")], check_base=False)


def test_sdxl_by_its_width_and_flux(tmp_path: Path) -> None:
    """A file of SDXL's UNet alone, under diffusers' names: 2048 is the width of SDXL's texts. Flux by its blocks."""
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    file = tmp_path / "x.safetensors"
    down, up = torch.zeros(2, 2048), torch.zeros(32, 2)
    save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, file)
    with pytest.raises(LongalignError, match=r"texts of width 2048 \(SDXL\), and mine is Stable Diffusion"):
        read_parts(file, tiny_sd15(), "mine")
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, file)
    with pytest.raises(LongalignError, match=r"is a LoRA for Flux.*and mine is Stable Diffusion"):
        read_parts(file, tiny_sd15(), "mine")


def test_kohyas_names_of_sd3(tmp_path: Path) -> None:
    """diffusers 0.42 has no converter for them: it would load nothing."""
    key = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    file = tmp_path / "x.safetensors"
    save_file(
        {f"{key}.lora_down.weight": torch.zeros(2, 4), f"{key}.lora_up.weight": torch.zeros(4, 2)}, file
    )
    with pytest.raises(LongalignError, match=r"kohya's names of SD3, which diffusers does not convert"):
        read_parts(file, tiny_sd3())


def test_nothing_is_left_out_in_silence(tmp_path: Path) -> None:
    """Embeddings beside a LoRA; a matrix without its other half (kohya and peft); kohya's scales of DoRA."""
    keys = kohya(tiny_sd15(), alpha=1.0, text=())
    file = tmp_path / "x.safetensors"
    save_file({**keys, "bundle_emb.word.string_to_param.*": torch.zeros(2, 2)}, file)
    with pytest.raises(LongalignError, match=r"'bundle_emb\.word.*is no part of a LoRA"):
        read_parts(file, tiny_sd15())
    up = next(key for key in keys if key.endswith(".lora_up.weight"))
    save_file({key: t for key, t in keys.items() if key != up}, file)
    with pytest.raises(LongalignError, match=r"lora_down\.weight' has no other half"):
        read_parts(file, tiny_sd15())
    alone = {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 32)
    }
    save_file(alone, file)
    with pytest.raises(LongalignError, match=r"lora_A\.weight' has no other half"):
        read_parts(file, tiny_sd15())
    down = up.replace("lora_up", "lora_down")
    scale = torch.ones(1, keys[down].shape[1])
    save_file({**keys, up.replace("lora_up.weight", "dora_scale"): scale}, file)
    with pytest.warns(UserWarning, match=r"lengths of 1 layers.*dora_scale.*left out, as diffusers does"):
        assert_same(tiny_sd15, file, name=str(file))


def test_numbers_that_are_none(tmp_path: Path) -> None:
    keys = kohya(tiny_sd15(), alpha=1.0)
    first = next(iter(keys))
    keys[first][0, 0] = float("nan")
    save_file(keys, tmp_path / "nan.safetensors")
    with pytest.raises(LongalignError, match=f"{first}' has numbers that are not finite"):
        put_on(tiny_sd15(), [str(tmp_path / "nan.safetensors")])


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora_unet_x.hada_w1_a", "LoHa"),
        ("lora_unet_x.lokr_w1", "LoKr"),
        ("lora_unet_x.lokr_w1_a", "LoKr"),
        ("lora_unet_x.diff", "full differences"),
        ("lora_unet_x.oft_blocks", "OFT"),
        ("lora_unet_x.a1.weight", "GLoRA"),
    ],
)
def test_lycoris_kinds_are_named(tmp_path: Path, key: str, kind: str) -> None:
    save_file({key: torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(
        LongalignError, match=rf"is a LyCORIS file of the kind {kind}.*merged model by --model"
    ):
        put_on(tiny_sd15(), [str(tmp_path / "x.safetensors")])
