"""An objective of another package, trained from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from line_objective import line_recipe
from safetensors.torch import load_file

import longalign
from longalign.errors import LongalignError
from longalign.objectives import OBJECTIVES

TOY = '''
"""y = w·x by least squares, with what an objective must have and nothing else."""

import torch
from pydantic import BaseModel
from safetensors.torch import save_file

from longalign.objectives import Objective, Task


class Settings(BaseModel):
    start: float = 0.0


class Data(BaseModel):
    rows: int = 4


class Toy(Objective):
    Settings, DataSettings = Settings, Data

    def __init__(self, start):
        self.line = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(self.line.weight, start)

    @classmethod
    def build(cls, model, settings, data, context):
        return Task(cls(settings.start), [1.0] * data.rows)

    def modules(self):
        return {"line": self.line}

    def collate(self, rows):
        return torch.tensor(rows)[:, None]

    def backward(self, batch, accelerator):
        loss = (self.line(batch) - 4).square().mean()
        accelerator.backward(loss)
        return {"loss": loss.detach()}

    def save(self, folder):
        save_file(self.line.state_dict(), folder / "line.safetensors")
'''


def install(folder: Path) -> None:
    """A package with an entry point, as `pip install` leaves it."""
    (folder / "toy_objective.py").write_text(TOY)
    info = folder / "toy_objective-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-objective\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[longalign.plugins]\nobjective.toy = toy_objective:Toy\n")


def longalign_train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(longalign.__file__).parents[1])
    path = os.pathsep.join([str(folder / "site"), source])
    return subprocess.run(
        [sys.executable, "-m", "longalign", "train", *arguments],
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_an_objective_of_another_package_is_trained(tmp_path: Path) -> None:
    """From w = 1 the loss is (1 − 4)² = 9. AdamW moves w by the learning rate ½ in the first step: (1.5 − 4)² = 6.25.

    Without weight decay; the rows are all x = 1.
    """
    (tmp_path / "site").mkdir()
    install(tmp_path / "site")
    recipe = {
        "objective": "toy",
        "model": "none",
        "toy": {"start": 1.0},
        "train": {
            "steps": 2,
            "batch_size": 2,
            "lr": 0.5,
            "weight_decay": 0,
            "log_every": 1,
            "tracker": "none",
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = longalign_train(tmp_path, "recipe.yaml", "--out", "run")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == pytest.approx([9.0, 6.25], abs=1e-4)
    weight = load_file(tmp_path / "run" / "model" / "line.safetensors")["weight"]
    assert float(weight) == pytest.approx(2.0, abs=0.01)
    wrong = longalign_train(tmp_path, "recipe.yaml", "objective=toi")
    assert wrong.returncode != 0
    said = " ".join(wrong.stderr.split())
    assert "objective 'toi' is unknown; did you mean 'toy'? There are consistency, contrastive" in said
    assert "supervised, toy" in said


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (dict, "objective 'line': <class 'dict'> is no subclass of longalign.objectives.Objective"),
        ("line_objective:Points", "is no subclass of longalign.objectives.Objective"),
    ],
)
def test_what_is_no_objective_is_refused(entry: object, says: str) -> None:
    before, OBJECTIVES["line"] = OBJECTIVES["line"], entry
    try:
        with pytest.raises(LongalignError, match=says):
            line_recipe()
    finally:
        OBJECTIVES["line"] = before
