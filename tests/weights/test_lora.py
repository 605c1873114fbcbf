"""LoRA on tiny models and on the embedded one: stacking, merging, files, and refusing another base."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from file_limit import file_limit
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import WIDTH, _unet
from tiny_loras import close, pipeline, prediction, randomise, sd3_transformer

from longalign.encoding.adapter import TextAdapter
from longalign.errors import LongalignError
from longalign.stickers import folder as stickers_folder
from longalign.weights import lora
from longalign.weights.factors import change
from longalign.weights.fingerprint import difference, fingerprint
from longalign.weights.lora import pair_of, wrapped
from longalign.weights.lora_file import FILE_NAME, LoraFile


def embedded() -> Any:
    return UNet2DConditionModel.from_pretrained(
        stickers_folder(), subfolder="unet", torch_dtype=torch.float32
    )


def trained(seed: int = 0, **settings: Any) -> Any:
    """A tiny UNet with a LoRA that changes its prediction."""
    unet = _unet(WIDTH)
    randomise(lora.attach(unet, **{"rank": 4, **settings}), seed)
    return unet


def test_every_linear_and_convolution_of_the_three_classes() -> None:
    """In the tiny UNet: 2 down, 2 up levels and the middle; what is outside the classes stays as it is.

    ResnetBlock2D: down 1+1, up 2+2, middle 2 = 8, each with conv1, time_emb_proj, conv2 (24), and conv_shortcut
    where widths differ: down_blocks.1 and all four of up (5). Transformers: down 1, up 2, middle 1 = 4, each with 2
    × (q, k, v, out) and GEGLU.proj (36). Together 65.
    """
    unet = _unet(WIDTH)
    names = list(lora.target_layers(unet))
    assert len(names) == 65 and sum(".conv_shortcut" in n for n in names) == 5
    lora.attach(unet, 4)
    assert [n for n, m in unet.named_modules() if isinstance(m, LoraLayer)] == names  # in the same order
    assert list(lora.target_layers(unet)) == names  # wrapped or not
    assert type(unet.conv_in) is torch.nn.Conv2d
    wrapped = unet.get_submodule("down_blocks.1.resnets.0.conv1")
    assert wrapped.lora_A["default"].kernel_size == (3, 3) and wrapped.lora_A["default"].padding == (1, 1)
    assert wrapped.lora_B["default"].kernel_size == (1, 1)


def test_sd3_has_them_in_attention_and_feed_forward() -> None:
    """Two blocks. Block 0: q, k, v, out for picture and text (8), two feed-forwards of two (4). The last block
    returns no text, so it has neither text's output projection nor its feed-forward: 7 + 2.
    """
    transformer = sd3_transformer()
    names = list(lora.target_layers(transformer))
    assert len(names) == 12 + 9 and all(".attn." in n or ".ff" in n for n in names)


def test_new_it_changes_nothing_and_alone_is_trainable() -> None:
    unet = _unet(WIDTH)
    before = prediction(unet)
    own = lora.attach(unet, 4)
    assert torch.equal(prediction(unet), before)
    trainable = [n for n, p in unet.named_parameters() if p.requires_grad]
    assert len(trainable) == len(own) == 2 * 65 and all(".lora_" in n for n in trainable)


def test_the_scale_is_alpha_over_rank() -> None:
    """Twice alpha is twice the change of a linear layer: y = W x + (alpha / r) B A x."""
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))

    def change(alpha: float | None) -> torch.Tensor:
        layer = trained(alpha=alpha).get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
        return (layer(x) - layer.base_layer(x)).detach()

    assert close(change(8), 2 * change(None), 1e-5) and change(None).abs().max() > 0.01


def test_float32_on_a_half_precision_base() -> None:
    """Its weights are float32 and get float32 gradients; the model still computes in bfloat16."""
    unet = _unet(WIDTH).to(torch.bfloat16)
    own = lora.attach(unet, 4)
    assert {p.dtype for p in own} == {torch.float32} and unet.conv_in.weight.dtype == torch.bfloat16
    x, text = torch.randn(1, 4, 6, 6).bfloat16(), torch.randn(1, 3, WIDTH).bfloat16()
    predicted = unet(x, torch.tensor([5]), text).sample
    assert predicted.dtype == torch.bfloat16
    predicted.float().square().sum().backward()
    ups = own[::2]  # `down` gets none yet, since `up` is zero
    assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.any() for p in ups)


def test_stages_stack_and_merge() -> None:
    """W + s₁B₁A₁ + s₂B₂A₂: side by side, one merged, both merged."""
    unet = trained(alpha=8, name="sft")
    first = prediction(unet)
    own = lora.attach(unet, 2, name="rft")
    assert lora.attached(unet) == ["sft", "rft"] and torch.equal(prediction(unet), first)
    assert {n for n, p in unet.named_parameters() if p.requires_grad} == {
        n for n, _ in unet.named_parameters() if ".rft." in n
    }
    randomise(own, 5)
    both = prediction(unet)
    assert not close(both, first, 1e-2)
    lora.merge(unet, ["sft"])
    assert lora.attached(unet) == ["rft"] and close(prediction(unet), both, 1e-5)
    assert all(p.requires_grad for p in own)  # training goes on
    lora.merge(unet)
    assert lora.attached(unet) == [] and close(prediction(unet), both, 1e-5)
    assert unet.state_dict().keys() == _unet(WIDTH).state_dict().keys()
    randomise(lora.attach(unet, 4), 6)  # and again
    assert not close(prediction(unet), both, 1e-2)


def test_merging_into_bfloat16_rounds_once() -> None:
    unet = trained().to(torch.bfloat16)
    layer = unet.get_submodule("mid_block.resnets.0.conv1")
    exact = layer.base_layer.weight.float() + change(pair_of(layer, "default"))
    lora.merge(unet)
    assert torch.equal(unet.get_submodule("mid_block.resnets.0.conv1").weight, exact.bfloat16())


@pytest.mark.parametrize("alpha", [None, 12.0])
def test_a_plain_pipeline_loads_it(tmp_path: Path, alpha: float | None, capfd: Any) -> None:
    """Same prediction there, also with alpha ≠ rank, and nothing to complain about."""
    unet = trained(alpha=alpha)
    lora.save(unet, tmp_path)
    plain = pipeline(_unet(WIDTH))
    before = prediction(plain.unet)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain.load_lora_weights(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert close(prediction(plain.unet), prediction(unet), 1e-7)
    assert not close(before, prediction(unet), 1e-2)


def test_pipelines_of_sdxl_and_sd3_load_it(tmp_path: Path) -> None:
    """Layer by layer: their forward passes need more inputs."""
    time = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}

    def sdxl() -> UNet2DConditionModel:
        return _unet(WIDTH, projection_class_embeddings_input_dim=72, **time)

    for kind, make, part in (
        (StableDiffusionXLPipeline, sdxl, "unet"),
        (StableDiffusion3Pipeline, sd3_transformer, "transformer"),
    ):
        model, plain = make(), pipeline(make(), kind)
        randomise(lora.attach(model, 4))
        plain.load_lora_weights(lora.save(model, tmp_path / part).parent)
        for key, layer in wrapped(model):
            theirs = getattr(plain, part).get_submodule(key)
            pairs = pair_of(layer, "default"), pair_of(theirs, theirs.active_adapters[0])
            assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))


def test_several_saved_are_one_of_the_sum_of_ranks(tmp_path: Path) -> None:
    """[s₁B₁ s₂B₂] [A₁; A₂]; the second is on the attention only and zero elsewhere."""
    unet = trained(alpha=8, name="sft")
    some = [n for n in lora.target_layers(unet) if "attn" in n]
    randomise(lora.attach(unet, 2, name="rft", layers=some), 3)
    lora.save(unet, tmp_path)
    assert LoraFile.read(tmp_path).rank == 6
    plain = pipeline(_unet(WIDTH))
    plain.load_lora_weights(tmp_path)
    assert close(prediction(plain.unet), prediction(unet))


def test_the_embedded_unet_in_a_plain_pipeline(tmp_path: Path) -> None:
    unet, plain = embedded(), pipeline(embedded())
    randomise(lora.attach(unet, 4, alpha=6), size=0.05)
    lora.save(unet, tmp_path, base_name="stickers")
    before = prediction(plain.unet)
    plain.load_lora_weights(tmp_path)
    assert close(prediction(plain.unet), prediction(unet), 1e-5)
    assert not close(prediction(plain.unet), before, 1e-2)


def test_saved_and_loaded_with_its_adapter(tmp_path: Path) -> None:
    unet, adapter = trained(alpha=8), TextAdapter(12, 14, 16).eval()
    (tmp_path / "tiny").mkdir()
    lora.save(unet, tmp_path, adapter=adapter, base_name=str(tmp_path / "tiny"))
    again = _unet(WIDTH)
    file = lora.load(again, tmp_path, name="sft")
    assert torch.equal(prediction(again), prediction(unet))
    assert file.base is not None and file.base.name == "tiny" and file.scale == 2
    assert not any(p.requires_grad for p in again.parameters())
    states = torch.randn(1, 3, 12)
    found = lora.load_text_adapter(tmp_path)
    assert found is not None and torch.equal(found(states), adapter(states))
    assert torch.equal(TextAdapter.from_pretrained(tmp_path / "adapter")(states), adapter(states))
    assert str(tmp_path) not in (tmp_path / "adapter" / "config.json").read_text()
    assert lora.load_text_adapter(tmp_path / "adapter") is None


def test_training_goes_on_with_a_loaded_one(tmp_path: Path) -> None:
    lora.save(trained(), tmp_path)
    unet = _unet(WIDTH)
    lora.load(unet, tmp_path, trainable=True)
    assert {n for n, p in unet.named_parameters() if p.requires_grad} == {
        n for n, _ in unet.named_parameters() if ".lora_" in n
    }


def test_saving_in_half_precision(tmp_path: Path) -> None:
    unet = trained()
    path = lora.save(unet, tmp_path, dtype=torch.float16)
    assert {t.dtype for t in load_file(path).values()} == {torch.float16}
    lora.load(again := _unet(WIDTH), tmp_path)
    assert close(prediction(again), prediction(unet), 1e-2)


def test_another_base_is_refused_and_both_are_named(tmp_path: Path) -> None:
    """Of the same shapes: nothing else would notice."""
    lora.save(trained(), tmp_path, base_name="tiny-a")
    other = _unet(WIDTH)
    with torch.no_grad():
        other.mid_block.resnets[0].conv1.weight.mul_(1.05)
    with pytest.raises(
        LongalignError,
        match=r"belongs to the base tiny-a \([0-9a-f]{12}\), and this model is tiny-b \([0-9a-f]{12}\): 1 of \d+ "
        r"tensors differ by more than rounding, most mid_block\.resnets\.0\.conv1\.weight",
    ):
        lora.load(other, tmp_path, base_name="tiny-b")
    assert lora.attached(other) == []
    lora.load(other, tmp_path, check_base=False)
    with pytest.raises(LongalignError, match="of another architecture"):
        lora.load(_unet(WIDTH + 8), tmp_path)
    with pytest.raises(LongalignError, match="is a LoRA of a unet, and this is a SD3Transformer2DModel"):
        lora.load(sd3_transformer(), tmp_path)


def test_after_merging_the_base_is_another(tmp_path: Path) -> None:
    """A second stage belongs to the merged model: not to the plain one, but to one that was merged elsewhere."""
    lora.save(unet := trained(), tmp_path / "sft")
    lora.merge(unet)
    randomise(lora.attach(unet, 4), 7)
    lora.save(unet, tmp_path / "rft")
    plain = _unet(WIDTH)
    with pytest.raises(LongalignError, match=r"65 of \d+ tensors differ by more than rounding"):
        lora.load(plain, tmp_path / "rft")
    lora.load(plain, tmp_path / "sft")
    lora.merge(plain)
    lora.load(plain, tmp_path / "rft")
    assert close(prediction(plain), prediction(unet), 1e-5)


def test_the_fingerprint_survives_rounding_and_wrapping() -> None:
    """The embedded UNet in half precision is the same base; changed by 3 %, or in one layer by 5 %, it is not."""
    unet = embedded()
    with torch.no_grad():  # its weights come from float16, which rounding to float16 would leave as they are
        for w in unet.parameters():
            w.mul_(1.0001)
    of = fingerprint(unet)
    rounded = {dtype: copy.deepcopy(unet).to(dtype) for dtype in (torch.float16, torch.bfloat16)}
    assert all(difference(of, model) is None for model in rounded.values())
    assert difference(fingerprint(rounded[torch.bfloat16]), rounded[torch.float16]) is None
    assert len({of.sha256, *(fingerprint(model).sha256 for model in rounded.values())}) == 3
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for w in (bf16 := rounded[torch.bfloat16]).parameters():
            w.add_(0.03 * w * torch.randn(w.shape, generator=generator))
        rounded[torch.float16].mid_block.attentions[0].proj_in.weight.mul_(1.05)
    assert "tensors differ" in str(difference(of, bf16))
    assert "1 of" in str(difference(of, rounded[torch.float16]))
    lora.attach(unet, 2)
    assert fingerprint(unet) == of
    with pytest.raises(LongalignError, match="on the meta device has no weights"):
        fingerprint(UNet2DConditionModel.from_config(unet.config).to("meta"))


def test_one_of_a_stack_asks_for_the_others(tmp_path: Path) -> None:
    unet = trained(name="sft")
    randomise(lora.attach(unet, 2, name="rft"), 3)
    lora.save(unet, tmp_path / "rft", ["rft"])
    lora.save(unet, tmp_path / "sft", ["sft"])
    with pytest.raises(LongalignError, match="was trained with the LoRA 'sft' on the model: load that first"):
        lora.load(again := _unet(WIDTH), tmp_path / "rft")
    lora.load(again, tmp_path / "sft", name="sft", check_base=False)  # it, too, had the other beside it
    lora.load(again, tmp_path / "rft", name="rft")
    assert close(prediction(again), prediction(unet), 1e-7)


def test_names_and_sizes_that_do_not_do() -> None:
    unet = trained()
    with pytest.raises(LongalignError, match="there is a LoRA 'default' on this model already"):
        lora.attach(unet, 4)
    with pytest.raises(LongalignError, match="there is no LoRA other on this model; there are default"):
        lora.merge(unet, ["other"])
    with pytest.raises(LongalignError, match="there is none"):
        lora.save(_unet(WIDTH), "never")
    with pytest.raises(LongalignError, match="rank ≥ 1"):
        lora.attach(_unet(WIDTH), 0)
    with pytest.raises(LongalignError, match="Linear is not the model of a known backbone"):
        lora.attach(torch.nn.Linear(2, 2), 4)


def saved(folder: Path) -> tuple[Path, dict[str, torch.Tensor], dict[str, str]]:
    path = lora.save(trained(), folder)
    with safe_open(path, "pt") as file:
        return path, load_file(path), file.metadata()


def test_a_file_that_names_no_base_is_loaded_with_a_warning(tmp_path: Path) -> None:
    """Made by others: neither our note nor alpha, which then is the rank."""
    path, tensors, _ = saved(tmp_path)
    save_file(tensors, path)
    unet = _unet(WIDTH)
    with pytest.warns(UserWarning, match="does not name its base model"):
        lora.load(unet, tmp_path)
    assert close(prediction(unet), prediction(trained()), 1e-7)


def test_files_that_are_no_lora(tmp_path: Path) -> None:
    path, tensors, metadata = saved(tmp_path)
    layer = "mid_block.resnets.0.conv1"
    unet = _unet(WIDTH)

    def refused(match: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
        save_file(tensors, path, metadata)
        with warnings.catch_warnings(), pytest.raises(LongalignError, match=match):
            warnings.simplefilter("ignore")
            lora.load(unet, tmp_path)
        assert lora.attached(unet) == []

    up, down = (f"unet.{layer}.lora_{x}.weight" for x in "BA")
    refused(f"{layer} has a down matrix and no up", {k: v for k, v in tensors.items() if k != up})
    refused("neither the up nor the down", {k: v for k, v in tensors.items() if k != down})
    refused(rf"{layer}: up \(16, 4, 1, 1\) and down \(3, 16, 3, 3\) do not fit together",
            {**tensors, down: torch.zeros(3, 16, 3, 3)})  # fmt: skip
    refused(rf"{layer} has rank 3, others 4",
            {**tensors, down: torch.zeros(3, 16, 3, 3), up: torch.zeros(16, 3, 1, 1)})  # fmt: skip
    refused(rf"{layer}: up .* and down \(4, 16, 1, 1\) do not fit its weight \(16, 16, 3, 3\)",
            {**tensors, down: torch.zeros(4, 16, 1, 1)})  # fmt: skip
    refused("the model has no layer 'elsewhere'",
            {**tensors, "unet.elsewhere.lora_A.weight": torch.zeros(4, 2),
             "unet.elsewhere.lora_B.weight": torch.zeros(2, 4)})  # fmt: skip
    refused("is not a LoRA in the layout of diffusers and peft", {"lora_unet_x.alpha": torch.zeros(1)})
    refused("the metadata cannot be read", tensors, {"longalign": "{"})
    refused("holds no readable fingerprint of its base", tensors, {"longalign": '{"base": {"sha256": ""}}'})
    pattern = json.dumps({"unet.lora_alpha": 4, "unet.rank_pattern": {"x": 2}})
    refused("rank_pattern is not supported", tensors, {**metadata, "lora_adapter_metadata": pattern})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LongalignError, match=f"{FILE_NAME}: is damaged, or is not a safetensors file"):
        lora.load(unet, tmp_path)
    path.unlink()
    with pytest.raises(LongalignError, match="so it is no LoRA folder"):
        lora.load(unet, tmp_path)


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path)
    before, unet = path.read_bytes(), trained(seed=9)
    with file_limit(10_000), pytest.raises(LongalignError, match="Cannot write"):
        lora.save(unet, tmp_path)
    assert path.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {
        FILE_NAME,
        "longalign.json",
    }
