"""`longalign doctor`: what can run here, found without the network."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from typer.testing import CliRunner

from longalign import doctor
from longalign.cli.main import app
from longalign.doctor import Check, Diagnosis, diagnose, parameters_in, size
from longalign.errors import LongalignError
from longalign.metrics import METRICS
from longalign.metrics.metric import Metric, PictureBatch, Tools

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def weights(file: Path, *sizes: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"w{i}": torch.zeros(n, 2) for i, n in enumerate(sizes)}, file)


@dataclass(frozen=True)
class ModelOptions:
    model: str = "./judge.pt"


class Needy(Metric):
    """Finds at its start that something is missing."""

    name = "needy"

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        raise LongalignError("needy: needs the package lpips: pip install --no-deps lpips")

    def measure(self, batch: PictureBatch) -> Sequence[float]:
        return []


class OfModel(Needy):
    """Says which model it loads, and is not loaded without it."""

    name = "of_model"
    Options = ModelOptions

    @classmethod
    def weights(cls, tools: Tools, options: Any) -> Sequence[str]:
        return (options.model, "someone/judge")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Diagnosis]:
    """In an empty folder, with SD1.5 in the hub's cache: a UNet of 2·(3 + 4) parameters and a VAE of 2·5."""
    folder = tmp_path_factory.mktemp("doctor")
    repository = folder / "hub" / f"models--{SD15.replace('/', '--')}"
    snapshot = repository / "snapshots" / "abc"
    weights(snapshot / "unet" / "model.safetensors", 3, 4)
    weights(snapshot / "unet" / "model.fp16.safetensors", 3, 4)
    weights(snapshot / "vae" / "model.safetensors", 5)
    weights(snapshot / "v1-5-pruned.safetensors", 99)
    (snapshot / "model_index.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (folder / "data" / "coco" / "train2017").mkdir(parents=True)

    def refused(*_: Any) -> None:
        raise AssertionError("the network was asked")

    METRICS["needy"], METRICS["of_model"], METRICS["broken"] = Needy, OfModel, "no_such_package.x:Y"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(socket.socket, "connect", refused)
        yield diagnose()
    for name in ("needy", "of_model", "broken"):
        METRICS.pop(name)


def check(checks: Sequence[Check], name: str) -> Check:
    return next(c for c in checks if c.name == name)


def test_recipes_say_what_they_lack(found: Diagnosis) -> None:
    """The sticker world's run at once. SD1.5 is in the cache, COCO's pictures are there and its captions are not."""
    ready = {c.name for c in found.recipes if c.ready}
    assert {"stickers-sft", "stickers-denscore", "stickers-softrepa"} <= ready
    assert not any(name.startswith(("sd", "clip", "softrepa")) for name in ready)
    assert check(found.recipes, "softrepa-sd15") == Check(
        "softrepa-sd15",
        check(found.recipes, "softrepa-sd15").what,
        missing=("data/coco/annotations/captions_train2017.json",),
        weights_bytes=4 * 2 * (3 + 4 + 5),
    )
    reward = check(found.recipes, "sd15-reward")
    assert {"models/denscore", "models/sd15-t5", "runs/sd15-sft/model"} <= set(reward.missing)
    assert "yuvalkirstain/PickScore_v1" in reward.downloads and reward.weights_bytes is None
    assert check(found.models, SD15).ready and check(found.models, "data/coco/train2017").ready
    assert "published Denscore" in check(found.models, "models/denscore").missing[0]
    assert check(found.models, "yuvalkirstain/PickScore_v1").downloads == (
        "hf download yuvalkirstain/PickScore_v1",
    )
    assert "stickers/sft" in check(found.models, "stickers: LoRAs").what


def test_a_model_that_is_trained_whole_counts_four_times(found: Diagnosis) -> None:
    """The sticker CLIP alone, with gradients and AdamW's two moments: 4 numbers of 4 bytes a parameter."""
    from longalign.worlds import world

    clip = parameters_in(world("stickers").preference_folders("stickers/clip")[0])
    assert clip is not None and check(found.recipes, "stickers-denscore").weights_bytes == 16 * clip


def test_metrics_say_what_they_lack(found: Diagnosis) -> None:
    assert check(found.metrics, "denscore").ready and check(found.metrics, "oracle").what == "world"
    assert check(found.metrics, "needy").missing == ("needs the package lpips: pip install --no-deps lpips",)
    of_model = check(found.metrics, "of_model")
    assert of_model.missing == ("./judge.pt is not here",) and of_model.downloads == ("someone/judge",)
    assert "no_such_package" in check(found.metrics, "broken").missing[0]


def test_the_machine(found: Diagnosis) -> None:
    cpu = found.devices[0]
    assert cpu.name.startswith("CPU, ") and 0 < cpu.free_bytes < cpu.total_bytes  # type: ignore[operator]
    assert all(0 < disk.free_bytes <= disk.total_bytes for disk in found.disks)  # type: ignore[operator]
    assert found.versions["torch"] == torch.__version__ and "python" in found.versions
    assert check(found.libraries, "pyarrow").ready
    assert [size(n) for n in (None, 0, 3 << 20, 5 << 29)] == ["—", "0.0 MiB", "3.0 MiB", "2.5 GiB"]


def test_parameters_are_read_from_headers(tmp_path: Path) -> None:
    """Shards are summed; the same weights in half precision count only where there are no others."""
    weights(tmp_path / "model-00001-of-00002.safetensors", 3)
    weights(tmp_path / "model-00002-of-00002.safetensors", 4)
    weights(tmp_path / "model.fp16-00001-of-00001.safetensors", 7)
    assert parameters_in(tmp_path) == 14
    assert parameters_in(tmp_path / "model-00002-of-00002.safetensors") == 8
    weights(tmp_path / "half" / "model.fp16.safetensors", 7)
    assert parameters_in(tmp_path / "half") == 14
    (tmp_path / "empty").mkdir()
    assert parameters_in(tmp_path / "empty") is None
    (tmp_path / "half" / "model.fp16.safetensors").write_bytes(b"no")
    with pytest.raises(LongalignError, match="damaged"):
        parameters_in(tmp_path / "half")


def test_the_command(found: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a page for people, and as JSON."""
    monkeypatch.setattr(doctor, "diagnose", lambda: found)
    shown = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "140"})
    assert shown.exit_code == 0
    for text in (
        "torch 2",
        "Memory",
        "Optional libraries",
        "Metrics",
        "Recipes",
        "stickers-sft",
        "models/denscore",
    ):
        assert text in shown.output
    told = CliRunner().invoke(app, ["doctor", "--json"])
    assert told.exit_code == 0
    rows = {row["name"]: row for row in json.loads(told.output)["recipes"]}
    assert rows["stickers-sft"]["ready"] is True and rows["sd15-sft"]["missing"]
