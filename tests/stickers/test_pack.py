"""`stickers pack` on runs of `longalign train`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from tiny import WIDTH, _unet
from tiny_loras import close, pipeline, prediction, randomise
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.encoding.adapter import TextAdapter
from longalign.errors import LongalignError
from longalign.soft_tokens import SoftTokenConfig, SoftTokens
from longalign.stickers.making.pack_run import pack_run
from longalign.weights import lora
from longalign.weights.factors import added, change
from longalign.weights.lora_file import LoraFile


def run_of(folder: Path, objective: str, start_from: tuple[Path, ...] = ()) -> Path:
    """A finished run as training leaves it: the stages below and its own saved as one."""
    unet = _unet(WIDTH)
    for number, below in enumerate(start_from):
        lora.load(unet, below, name=f"stage_{number}")
    randomise(lora.attach(unet, 3, name=objective), len(objective))
    lora.save(unet, folder / "model", adapter=TextAdapter(12, 14, WIDTH))
    recipe = {"command": "train", "objective": objective, "model": "stickers", "out": "/somewhere"}
    recipe[objective] = {"rank": 3, "start_from": [str(f) for f in start_from]}  # type: ignore[assignment]
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "metrics.jsonl").write_text("{}\n")
    return folder


def test_a_lora_with_recipe_and_curve(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "supervised")
    size_bytes = pack_run(run, tmp_path / "sft")
    names = {"pytorch_lora_weights.safetensors", "adapter", "recipe.yaml", "curve.jsonl", "longalign.json"}
    assert {f.name for f in (tmp_path / "sft").iterdir()} == names
    assert size_bytes == sum(f.stat().st_size for f in (tmp_path / "sft").rglob("*") if f.is_file())
    file, whole = LoraFile.read(tmp_path / "sft"), LoraFile.read(run / "model")
    assert file.base == whole.base and file.rank == 3
    for name, pair in whole.layers.items():
        assert file.layers[name].up.dtype == torch.float16
        assert torch.allclose(change(file.layers[name]), change(pair), rtol=5e-3, atol=1e-4)
    adapter = lora.load_text_adapter(tmp_path / "sft")
    assert adapter is not None and adapter.norm1.weight.dtype == torch.float16
    recipe = yaml.safe_load((tmp_path / "sft" / "recipe.yaml").read_text())
    assert "out" not in recipe and "command" not in recipe and recipe["supervised"]["rank"] == 3


def test_a_stage_that_was_saved_with_the_one_below(tmp_path: Path) -> None:
    """Only its own rank is packed, to be loaded over the packed stage below: together they are what was trained."""
    below = run_of(tmp_path / "below", "supervised")
    top = run_of(tmp_path / "top", "reward", (below / "model",))
    assert LoraFile.read(top / "model").rank == 6
    pack_run(below, tmp_path / "sft")
    pack_run(top, tmp_path / "rft", after=[str(tmp_path / "sft")])
    file = LoraFile.read(tmp_path / "rft")
    assert file.rank == 3 and file.stacked_on == ("stage_0",)
    whole, parts = LoraFile.read(top / "model").layers, added([LoraFile.read(tmp_path / "sft"), file])
    assert all(torch.allclose(change(parts[n]), change(whole[n]), rtol=1e-2, atol=3e-4) for n in whole)
    recipe = yaml.safe_load((tmp_path / "rft" / "recipe.yaml").read_text())
    assert recipe["reward"]["start_from"] == [str(tmp_path / "sft")]
    trained, packed = _unet(WIDTH), _unet(WIDTH)
    lora.load(trained, top / "model")
    lora.load(packed, tmp_path / "sft", name="stage_0")
    lora.load(packed, tmp_path / "rft", name="stage_1")
    assert close(prediction(trained), prediction(packed), 1e-2)
    assert pipeline(packed).unet is packed


def test_a_lower_rank_is_the_best_of_that_rank(tmp_path: Path) -> None:
    """What rank 1 of 3 leaves of a layer's change has the singular values σ₂ and σ₃, in fp16."""
    run = run_of(tmp_path / "run", "supervised")
    pack_run(run, tmp_path / "sft", rank=1)
    file, whole = LoraFile.read(tmp_path / "sft"), LoraFile.read(run / "model")
    assert file.rank == 1 and file.layers.keys() == whole.layers.keys()
    for name, pair in whole.layers.items():
        sigma = torch.linalg.svdvals(change(pair).flatten(1).double())
        left = (change(file.layers[name]).double() - change(pair).double()).norm()
        assert float(left) == pytest.approx(float(sigma[1:].norm()), rel=0.02, abs=1e-4)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    below, other = run_of(tmp_path / "below", "supervised"), run_of(tmp_path / "other", "consistency")
    top = run_of(tmp_path / "top", "reward", (below / "model",))
    with pytest.raises(LongalignError, match=r"on top of 1 LoRAs .*name as many by --after"):
        pack_run(top, tmp_path / "a")
    with pytest.raises(LongalignError, match="does not begin with"):
        pack_run(top, tmp_path / "a", after=[str(other)])
    with pytest.raises(LongalignError, match="on top of 0 LoRAs"):
        pack_run(below, tmp_path / "a", after=[str(other)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(LongalignError, match="holds no trained model"):
        pack_run(tmp_path / "empty", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_soft_tokens_with_recipe_and_curve(tmp_path: Path) -> None:
    """Half precision on disk, float32 in memory; what they were trained on gets its name of the package."""
    run = tmp_path / "run"
    trained = SoftTokens(SoftTokenConfig("sd15", 8, stages=("down",), base="/somewhere"))
    trained.save(run / "model")
    recipe = {
        "command": "train",
        "objective": "contrastive",
        "model": "stickers",
        "out": "x",
        "contrastive": {"start_from": ["runs/a"]},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(recipe))
    (run / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(LongalignError, match="on top of 1 LoRAs"):
        pack_run(run, tmp_path / "softrepa")
    size_bytes = pack_run(run, tmp_path / "softrepa", after=["stickers/sft"])
    names = {f.name: f.stat().st_size for f in (tmp_path / "softrepa").iterdir()}
    assert names.keys() == {"soft_tokens.safetensors", "recipe.yaml", "curve.jsonl"}
    assert size_bytes == sum(names.values())
    with safe_open(tmp_path / "softrepa" / "soft_tokens.safetensors", "pt") as file:
        assert all(file.get_tensor(name).dtype == torch.float16 for name in file.keys())  # noqa: SIM118
    packed = SoftTokens.from_pretrained(tmp_path / "softrepa")
    for name, value in trained.state_dict().items():
        assert torch.equal(packed.state_dict()[name], value.half().float())
    kept = yaml.safe_load((tmp_path / "softrepa" / "recipe.yaml").read_text())
    assert packed.config.base == kept.pop("model") == "stickers"
    assert kept == {"objective": "contrastive", "contrastive": {"start_from": ["stickers/sft"]}}


def test_the_command_knows_a_run(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "supervised")
    done = CliRunner().invoke(app, ["stickers", "pack", str(run), str(tmp_path / "sft")])
    assert done.exit_code == 0 and "MB" in done.stdout
    assert LoraFile.read(tmp_path / "sft").rank == 3
