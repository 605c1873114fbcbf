"""LoRA stages: their algebra, stacks on a pipeline, and merging into one or into a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import WIDTH, _unet
from tiny_loras import close, pipeline, prediction, randomise, sd3_transformer
from torch import nn
from typer.testing import CliRunner

from longalign.backbones import (
    denoising_module,
)
from longalign.cli.main import app
from longalign.encoding.adapter import TextAdapter
from longalign.errors import LongalignError
from longalign.weights import lora
from longalign.weights.factors import added, change, concatenated, truncated, without
from longalign.weights.lora_file import (
    FILE_NAME,
    LoraFile,
    Pair,
    resolve_lora,
)
from longalign.weights.merge import ALL, kind_of, merge_into, merge_loras
from longalign.weights.stack import (
    load_pipeline,
    put_on,
)

SHAPES = {"linear": ((12, 5), (5, 9)), "conv": ((12, 5, 1, 1), (5, 4, 3, 3))}


def pair(shape: str, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    return Pair(*(torch.randn(s, generator=generator) for s in SHAPES[shape]))


def stage(folder: Path, number: int, rank: int = 3, below: tuple[Path, ...] = (), **settings: object) -> Path:
    """A LoRA of the tiny UNet, saved alone; it was trained on top of those `below`."""
    unet = _unet(WIDTH)
    put_on(pipeline(unet), [str(f) for f in below])
    randomise(lora.attach(unet, rank, name="own", **settings), number)  # type: ignore[arg-type]
    lora.save(unet, folder, ["own"])
    return folder


def stacked(*folders: Path) -> torch.Tensor:
    unet = _unet(WIDTH)
    put_on(pipeline(unet), [str(f) for f in folders])
    return prediction(unet)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """SFT of alpha 2·rank on all layers, and RFT over it on the attention only."""
    tmp_path = tmp_path_factory.mktemp("two")
    some = [n for n in lora.target_layers(_unet(WIDTH)) if "attn" in n]
    sft = stage(tmp_path / "sft", 1, alpha=6)
    return sft, stage(tmp_path / "rft", 2, rank=2, below=(sft,), layers=some)


@pytest.mark.parametrize("shape", SHAPES)
def test_truncation_leaves_out_the_smallest_singular_values(shape: str) -> None:
    """Eckart–Young: |ΔW − ΔW_r|² = Σ_{i>r} σ_i², with the σ_i of ΔW itself, here by a full SVD; r = 5 is exact."""
    whole = pair(shape)
    sigma = torch.linalg.svdvals(change(whole).flatten(1).double())
    for rank in (1, 3, 5, 7):
        kept, found = truncated(whole, rank)
        assert torch.allclose(found, sigma[:5], rtol=1e-5)
        assert [t.shape for t in kept] == [
            (12, rank, *whole.up.shape[2:]),
            (rank, *whole.down.shape[1:]),
        ]
        error = (change(kept) - change(whole)).norm()
        assert error == pytest.approx(float((sigma[rank:] ** 2).sum() ** 0.5), abs=1e-5)
    assert sigma[5:].max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sum_is_a_concatenation(shape: str) -> None:
    """2·B₁A₁ + 0.5·B₂A₂, and a third LoRA that leaves the layer alone but has rank 3 elsewhere: 5 + 5 + 3."""
    a, b = pair(shape, 0), pair(shape, 1)
    both = concatenated([a, b, None], [2.0, 0.5, 1.0], [5, 5, 3])
    assert both.down.shape[0] == 13
    assert torch.allclose(change(both), 2 * change(a) + 0.5 * change(b), atol=1e-5)


def test_what_was_saved_as_one_comes_apart_again() -> None:
    """Rounded to float16 too, but not when it begins with another."""
    first, own = LoraFile({"x": pair("linear", 0)}, alpha=10.0), LoraFile({"x": pair("linear", 1)})
    one = LoraFile(added([first, own]))
    rest = without(one, [first])
    assert rest is not None and torch.equal(change(rest["x"]), change(own.layers["x"]))
    half = LoraFile({"x": Pair(*(t.half() for t in first.layers["x"]))}, alpha=10.0)
    assert without(one, [half]) is not None
    assert without(one, [own]) is None and without(one, []) is None
    both = without(one, [first, own])
    assert both is not None and both["x"].down.shape[0] == 0


def test_stacked_one_after_the_other(two: tuple[Path, Path]) -> None:
    """The prediction of the stack is that of training: base, SFT's change, RFT's change."""
    unet = _unet(WIDTH)
    lora.load(unet, two[0], name="stage_0")
    lora.load(unet, two[1], name="stage_1")
    assert close(stacked(*two), prediction(unet))
    assert not close(stacked(*two), stacked(two[0]), 1e-3)


def test_stages_out_of_place_are_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match=r"rft: was trained on top of 1 other LoRA \(stage_0\)"):
        stacked(two[1])
    whole = tmp_path / "whole"
    merge_loras([str(f) for f in two], whole)
    for names in ((two[0], whole), (two[0], two[0])):
        with pytest.raises(LongalignError, match=r"contains .*sft already, which would be added twice"):
            stacked(*names)
    unet = _unet(WIDTH)
    put_on(pipeline(unet), [str(two[1])], check_base=False)  # unless it is wanted all the same


def test_a_stage_of_another_base_is_refused(two: tuple[Path, Path]) -> None:
    other = _unet(WIDTH)
    with torch.no_grad():
        other.conv_in.weight += 0.1
    with pytest.raises(LongalignError, match="belongs to the base"):
        put_on(pipeline(other), [str(two[0])])
    with pytest.raises(LongalignError, match="has no UNet and no transformer"):
        denoising_module(nn.Linear(1, 1))


def test_a_stage_that_was_trained_after_merging(tmp_path: Path) -> None:
    """LongAlign's released stages: SFT was merged, and RFT's base is the merged UNet."""
    sft = stage(tmp_path / "sft", 1)
    unet = _unet(WIDTH)
    lora.load(unet, sft)
    lora.merge(unet)
    randomise(lora.attach(unet, 2), 2)
    lora.save(unet, tmp_path / "rft")
    assert close(stacked(sft, tmp_path / "rft"), prediction(unet))
    with pytest.raises(LongalignError, match="belongs to the base"):
        stacked(tmp_path / "rft")
    with pytest.raises(LongalignError, match=r"name the model \(--base\)"):
        merge_loras([str(sft), str(tmp_path / "rft")], tmp_path / "one")


def test_merged_they_give_the_stack(two: tuple[Path, Path], tmp_path: Path) -> None:
    made = merge_loras([str(f) for f in two], tmp_path / "one")
    file = LoraFile.read(tmp_path / "one")
    assert made.rank == file.rank == 5 and made.errors == {}
    assert file.base == LoraFile.read(two[0]).base and file.stacked_on == ()
    assert close(stacked(tmp_path / "one"), stacked(*two), 1e-6)
    plain = pipeline(_unet(WIDTH))
    plain.load_lora_weights(tmp_path / "one")
    assert close(prediction(plain.unet), stacked(*two), 1e-6)


def test_merged_to_a_rank_that_suffices_and_to_one_that_does_not(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    """The error of all layers together is √(Σ|ΔW − kept|² / Σ|ΔW|²), from the matrices themselves."""
    names = [str(f) for f in two]
    merge_loras(names, tmp_path / "same", rank=9)
    assert LoraFile.read(tmp_path / "same").rank == 5
    made = merge_loras(names, tmp_path / "small", rank=2)
    small, whole = LoraFile.read(tmp_path / "small").layers, added([LoraFile.read(f) for f in two])
    lost = {n: float((change(small[n]) - change(whole[n])).norm() ** 2) for n in whole}
    size = {n: float(change(whole[n]).norm() ** 2) for n in whole}
    assert made.errors[ALL] == pytest.approx((sum(lost.values()) / sum(size.values())) ** 0.5, rel=1e-3)
    convolutions = [n for n in whole if kind_of(n) == "convolution"]
    by_hand = sum(lost[n] for n in convolutions) / sum(size[n] for n in convolutions)
    assert made.errors["convolution"] == pytest.approx(by_hand**0.5, rel=1e-3)
    assert list(made.errors)[-1] == ALL and "other" not in made.errors
    assert 0.1 < made.errors[ALL] < 0.9


def test_kinds_of_layers_of_a_transformer() -> None:
    kinds = {kind_of(name) for name in lora.target_layers(sd3_transformer())}
    assert kinds == {"attention", "feed-forward"}


def test_the_last_adapter_goes_along(tmp_path: Path) -> None:
    unet, adapter = _unet(WIDTH), TextAdapter(12, 14, WIDTH)
    randomise(lora.attach(unet, 2))
    lora.save(unet, tmp_path / "sft", adapter=adapter)
    rft = stage(tmp_path / "rft", 2, below=(tmp_path / "sft",))
    merge_loras([str(tmp_path / "sft"), str(rft)], tmp_path / "one")
    found = lora.load_text_adapter(tmp_path / "one")
    assert found is not None and torch.equal(found.norm1.weight, adapter.norm1.weight)


def test_what_cannot_be_merged(two: tuple[Path, Path], tmp_path: Path) -> None:
    other = sd3_transformer()
    randomise(lora.attach(other, 2))
    lora.save(other, tmp_path / "sd3")
    names = [str(two[0]), str(tmp_path / "sd3")]
    with pytest.raises(LongalignError, match="UNet and of a transformer"):
        merge_loras(names, tmp_path / "one")
    with pytest.raises(LongalignError, match="not an empty folder"):
        merge_loras([str(two[0])], two[1])
    with pytest.raises(LongalignError, match="must be at least 1"):
        merge_loras([str(two[0])], tmp_path / "one", rank=0)
    assert not (tmp_path / "one").exists()


def test_the_model_of_a_run_folder(two: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(two[0], tmp_path / "run" / "model")
    assert resolve_lora(tmp_path / "run") == tmp_path / "run" / "model"
    assert resolve_lora(two[1]) == two[1]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the embedded model."""
    folder = tmp_path_factory.mktemp("tuned") / "sft"
    unet = load_pipeline("stickers", device="cpu").unet
    own = lora.attach(unet, 2, layers=["mid_block.attentions.0.proj_in", "conv_in"])
    randomise(own, 3)
    lora.save(unet, folder, base_name="stickers")
    return folder


def test_a_pipeline_with_loras_in_one_line(tuned: Path) -> None:
    """In the weights by default, on them in bfloat16 and where it is asked for; the same predictions."""
    fused = load_pipeline("stickers", device="cpu", loras=[tuned])
    beside = load_pipeline("stickers", device="cpu", loras=[tuned], fuse=False)
    assert lora.attached(fused.unet) == [] and lora.attached(beside.unet) == ["stage_0"]
    assert close(prediction(fused.unet), prediction(beside.unet), 1e-5)
    assert not close(prediction(fused.unet), prediction(load_pipeline("stickers", device="cpu").unet), 1e-3)
    coarse = load_pipeline("stickers", device="cpu", dtype="bfloat16", loras=[tuned])
    assert lora.attached(coarse.unet) == ["stage_0"]


def test_merged_into_a_model(tuned: Path, tmp_path: Path) -> None:
    """A whole folder, with what lies beside the pipeline: the same predictions as with the LoRA."""
    merge_into([str(tuned)], "stickers", tmp_path / "model")
    assert {"clip", "t5", "adapter", "longalign.json"} <= {f.name for f in (tmp_path / "model").iterdir()}
    again = load_pipeline(str(tmp_path / "model"), device="cpu")
    with_lora = load_pipeline("stickers", device="cpu", loras=[tuned])
    assert close(prediction(again.unet), prediction(with_lora.unet), 1e-6)
    with pytest.raises(LongalignError, match="belongs to the base"):  # it is in it now
        load_pipeline(str(tmp_path / "model"), device="cpu", loras=[tuned])


def test_the_command(two: tuple[Path, Path], tmp_path: Path) -> None:
    names = [str(f) for f in two]
    done = CliRunner().invoke(app, ["merge", *names, "--rank", "1", "--out", str(tmp_path / "a"), "--json"])
    made = json.loads(done.stdout)
    assert made["rank"] == 1 and 0 < made["relative_error"]["all"] < 1
    assert (tmp_path / "a" / FILE_NAME).is_file()
    done = CliRunner().invoke(app, ["merge", *names, "--rank", "2", "--out", str(tmp_path / "b")])
    assert "Error of rank 2" in done.stdout and "cross-attention" in done.stdout
    wrong = ["merge", *names, "--into", "stickers", "--rank", "2", "--out", str(tmp_path / "c")]
    assert "--rank and --base are for a LoRA" in str(CliRunner().invoke(app, wrong).exception)
