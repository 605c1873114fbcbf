"""`longalign export`: files for A1111, Forge, ComfyUI and diffusers. And what a LoRA says of its training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from predictions import prediction
from safetensors.torch import load_file
from tiny import tiny_sd3, tiny_sd15, tiny_sdxl

from longalign import LongalignError, encode, load_pipeline
from longalign.backbones import denoising_module
from longalign.weights import lora, text_lora
from longalign.weights.convert import export_lora, import_checkpoint
from longalign.weights.encoding_note import recorded_encoding
from longalign.weights.lora_parts import read_parts
from longalign.weights.merge import merge_into, merge_loras
from longalign.weights.stack import put_on


def trained(make: Callable[[], Any], folder: Path, *, text: bool) -> Path:
    """A LoRA folder as training writes it, alpha 3 of rank 2, with random numbers."""
    pipe = make()
    parts = [denoising_module(pipe), *(text_lora.clips_of(pipe).values() if text else [])]
    torch.manual_seed(4)
    for part in parts:
        for parameter in lora.attach(part, rank=2, alpha=3.0):
            torch.nn.init.normal_(parameter, std=0.1)
    lora.save(denoising_module(pipe), folder, strategy="clip-cat:context=referent", length=120)
    if text:
        text_lora.save_text(text_lora.clips_of(pipe), folder)
    return folder


@pytest.mark.parametrize(("make", "text"), [(tiny_sd15, True), (tiny_sdxl, True), (tiny_sd15, False)])
@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_round_trip(make: Callable[[], Any], text: bool, form: str, tmp_path: Path) -> None:
    """Export, then read as the file of another tool: the same changes and the same prediction."""
    folder = trained(make, tmp_path / "lora", text=text)
    file = tmp_path / "style.safetensors"
    done = export_lora(folder, file, form=form)
    assert done.kind == form and done.files == [file]
    ours, again = make(), make()
    put_on(ours, [str(folder)], check_base=False)
    put_on(again, [str(file)], check_base=False)
    for a, b in zip(prediction(ours), prediction(again), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    parts, back = read_parts(folder), read_parts(file, make())
    assert parts.keys() == back.keys()
    for name, part in parts.items():
        assert part.layers.keys() == back[name].layers.keys()


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_diffusers_loads_it(form: str, tmp_path: Path) -> None:
    folder = trained(tiny_sd15, tmp_path / "lora", text=False)
    export_lora(folder, tmp_path / "style.safetensors", form=form)
    ours, theirs = tiny_sd15(), tiny_sd15()
    put_on(ours, [str(folder)], check_base=False)
    theirs.load_lora_weights(str(tmp_path / "style.safetensors"))
    torch.testing.assert_close(prediction(ours)[0], prediction(theirs)[0], rtol=0, atol=1e-5)


def test_the_names_of_kohya(tmp_path: Path) -> None:
    """As A1111 looks for them, with alpha: 3 of rank 2."""
    export_lora(trained(tiny_sd15, tmp_path / "lora", text=True), tmp_path / "x.safetensors", form="kohya")
    found = load_file(tmp_path / "x.safetensors")
    unet = next(key for key in found if key.endswith("attn1_to_q.alpha")).removesuffix(".alpha")
    assert unet.startswith("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_")
    text = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    for name in (unet, text):
        assert found[f"{name}.alpha"] == 3 and found[f"{name}.lora_down.weight"].shape[0] == 2


def test_sd3_goes_to_diffusers_only(tmp_path: Path) -> None:
    folder = trained(tiny_sd3, tmp_path / "lora", text=False)
    with pytest.raises(LongalignError, match="LoRA of a transformer: use --format diffusers"):
        export_lora(folder, tmp_path / "x.safetensors", form="kohya")
    export_lora(folder, tmp_path / "x.safetensors", form="diffusers")
    ours, theirs = tiny_sd3(), tiny_sd3()
    put_on(ours, [str(folder)], check_base=False)
    theirs.load_lora_weights(str(tmp_path / "x.safetensors"))
    torch.testing.assert_close(prediction(ours)[0], prediction(theirs)[0], rtol=0, atol=1e-5)


def test_names_that_the_command_line_knows(tmp_path: Path) -> None:
    """A run folder, an embedded name, and one with a weight: half the change."""
    folder = trained(tiny_sd15, tmp_path / "run" / "model", text=False)
    whole = export_lora(tmp_path / "run", tmp_path / "a.safetensors")
    half = export_lora(f"{folder}:0.5", tmp_path / "b.safetensors")
    a, b = load_file(whole.files[0]), load_file(half.files[0])
    up = next(key for key in a if key.endswith("lora_B.weight"))
    torch.testing.assert_close(b[up], a[up] / 2)
    assert export_lora("stickers/sft", tmp_path / "sft.safetensors").facts["rank"] > 0
    with pytest.raises(LongalignError, match=r"format 'kohia' is unknown; did you mean 'kohya'"):
        export_lora("stickers/sft", tmp_path / "c.safetensors", form="kohia")
    with pytest.raises(LongalignError, match=r"is a \.safetensors file: give --out such a name"):
        export_lora("stickers/sft", tmp_path / "c.pt", form="kohya")


def test_import_of_a_kohya_file(tmp_path: Path) -> None:
    """It becomes a folder of ours, with the fingerprint of the named base, that draws the same."""
    stickers = load_pipeline("stickers", device="cpu", dtype="float32")
    torch.manual_seed(0)
    for part in (stickers.unet, stickers.text_encoder):
        for parameter in lora.attach(part, rank=2):
            torch.nn.init.normal_(parameter, std=0.05)
    lora.save(stickers.unet, tmp_path / "made")
    text_lora.save_text(text_lora.clips_of(stickers), tmp_path / "made")
    file = export_lora(tmp_path / "made", tmp_path / "style.safetensors", form="kohya").files[0]
    with pytest.raises(LongalignError, match="read with its model: name it by --base"):
        import_checkpoint(file, tmp_path / "no")
    done = import_checkpoint(file, tmp_path / "imported", base="stickers")
    assert done.kind == "foreign-lora" and set(done.facts["layers"]) == {"unet", "text_encoder"}
    bare = load_pipeline("stickers", device="cpu", dtype="float32", loras=[tmp_path / "imported"])
    for a, b in zip(prediction(bare), prediction(stickers), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    assert recorded_encoding([tmp_path / "imported"]) == {}  # nothing is known of its training


# what a LoRA says of its training


def test_a_folder_says_how_texts_were_encoded(tmp_path: Path) -> None:
    folder = trained(tiny_sd15, tmp_path / "lora", text=False)
    noted = {"strategy": "clip-cat:context=referent", "segments": "sentence", "length": 120}
    assert json.loads((folder / "longalign.json").read_text()) == noted
    assert recorded_encoding([str(folder)]) == noted == recorded_encoding([f"{folder}:0.5"])
    assert recorded_encoding(["stickers/sft"]) == {"strategy": "clip-cat"}  # from before it was written
    assert recorded_encoding([]) == {}


def test_merging_keeps_it(tmp_path: Path) -> None:
    merge_loras(["stickers/sft", "stickers/reward"], tmp_path / "both")
    assert recorded_encoding([tmp_path / "both"])["strategy"] == "clip-cat"
    merge_into(["stickers/sft"], "stickers", tmp_path / "model")
    pipe = load_pipeline(str(tmp_path / "model"), device="cpu", dtype="float32")
    prompt = "The background is navy."  # by segments, as it was trained
    assert torch.equal(
        encode(pipe, prompt).embeds, encode(pipe, prompt, strategy="clip-cat", length=77).embeds
    )
    assert not torch.equal(encode(pipe, prompt).embeds, encode(pipe, prompt, strategy="plain").embeds)


def test_encode_takes_it(tmp_path: Path) -> None:
    """A short prompt on a pipeline with such a LoRA: by segments, as long as the LoRA says; else the pipeline's own."""
    prompt = "The background is navy."
    bare = load_pipeline("stickers", device="cpu", dtype="float32")
    assert encode(bare, prompt).embeds.shape[1] == bare.tokenizer.model_max_length
    pipe = load_pipeline("stickers", device="cpu", dtype="float32", loras=["stickers/sft"])
    by_segments = encode(pipe, prompt, strategy="clip-cat")
    assert torch.equal(encode(pipe, prompt).embeds, by_segments.embeds)
    assert encode(pipe, prompt, strategy="plain").embeds.shape[1] == bare.tokenizer.model_max_length


def test_released_loras(tmp_path: Path) -> None:
    """An imported longSD list: the released rule, pad* of the last 60 positions, 240 tokens."""
    export_lora("stickers/sft", tmp_path / "list.pt", form="longsd", base="stickers")
    import_checkpoint(tmp_path / "list.pt", tmp_path / "longsd", base="stickers")
    assert recorded_encoding([tmp_path / "longsd"]) == {
        "strategy": "clip-cat:pad_star=released",
        "segments": "released",
        "length": 240,
    }
