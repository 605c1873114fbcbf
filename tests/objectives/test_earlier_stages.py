"""LoRAs of earlier stages: every objective puts them on in the same way and checks their order."""

from __future__ import annotations

import pytest
import torch

from longalign.errors import LongalignError
from longalign.objectives import BuildContext, Objective
from longalign.training.recipe import Recipe, objective_class
from longalign.weights import lora
from longalign.weights.stack import load_pipeline


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two stages of the embedded model; the second was trained on the first."""
    folder = tmp_path_factory.mktemp("stages")
    unet = load_pipeline("stickers", device="cpu").unet
    torch.manual_seed(0)
    for number in range(2):
        for parameter in lora.attach(unet, 2, name=f"stage_{number}", layers=["conv_in"]):
            torch.nn.init.normal_(parameter, std=0.1)
        lora.save(unet, folder / str(number), [f"stage_{number}"], base_name="stickers")
    return str(folder / "0"), str(folder / "1")


def built(objective: str, start_from: list[str]) -> Objective:
    recipe = Recipe.from_mapping(
        {
            "objective": objective,
            "model": "stickers",
            objective: {"start_from": start_from},
            "data": {"count": 4},
            "train": {"steps": 1, "batch_size": 2, "lr": 1e-3},
        }
    )
    kind = objective_class(objective)
    return kind.build("stickers", recipe.settings, recipe.data, BuildContext(torch.device("cpu"))).objective


@pytest.mark.parametrize("objective", ["supervised", "reward", "contrastive"])
def test_earlier_stages_are_on_in_order_and_frozen(objective: str, stages: tuple[str, str]) -> None:
    """Both stages, then the objective's own LoRA, if it trains one; only its own parameters are trainable."""
    task = built(objective, list(stages))
    names = ["stage_0", "stage_1", *([objective] if objective != "contrastive" else [])]
    assert lora.attached(task.denoiser.module) == names  # type: ignore[attr-defined]
    trained = [n for m in task.modules().values() for n, p in m.named_parameters() if p.requires_grad]
    assert trained and not [n for n in trained if "stage_" in n]


@pytest.mark.parametrize("objective", ["supervised", "reward", "contrastive"])
def test_stages_in_a_wrong_order_are_refused(objective: str, stages: tuple[str, str]) -> None:
    """The second stage alone or first lacks the first one; a stage given twice would count twice."""
    first, second = stages
    for wrong in ([second], [second, first]):
        with pytest.raises(LongalignError, match=r"was trained on top of 1 other LoRA \(stage_0\)"):
            built(objective, wrong)
    with pytest.raises(LongalignError, match="which would be added twice"):
        built(objective, [first, first])
