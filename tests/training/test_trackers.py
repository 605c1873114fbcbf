"""Trackers, with packages of the same interface in place of the real ones."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import accelerate.utils
import numpy as np
import pytest
from line_objective import line_recipe

from longalign.errors import LongalignError
from longalign.training import fit
from longalign.training.processes import make_accelerator
from longalign.training.trackers import make_tracker


class Service(ModuleType):
    """What W&B and Trackio have in common."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **settings: Any) -> Any:
        self.begun.append(settings)
        return SimpleNamespace(
            log=lambda values, step=None: self.logged.append((step, values)),
            finish=lambda: setattr(self, "finished", self.finished + 1),
        )

    def Image(self, image: Any, caption: str = "") -> Any:
        return SimpleNamespace(size=image.size, caption=caption)


@pytest.fixture(params=["wandb", "trackio"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service(request.param)
    monkeypatch.setitem(sys.modules, request.param, made)
    monkeypatch.setattr(accelerate.utils, f"is_{request.param}_available", lambda: True, raising=False)
    return made


def test_services_get_figures_and_pictures_and_go_on(tmp_path: Path, service: Service) -> None:
    """Steps 1 to 3 are taken, then 4: two calls, one run of the service."""
    given = {"train__tracker": service.__name__, "train__log_every": 1, "line__samples": 1}
    fit(line_recipe(train__steps=3, **given), tmp_path / "mine")
    fit(line_recipe(train__steps=4, **given), tmp_path / "mine")
    first, second = service.begun
    assert first["project"] == "longalign" and first["resume"] == "allow" and first["config"]["seed"] == 5
    assert "mine" in first["name"] and service.finished == 2
    known = "id" if service.__name__ == "wandb" else "name"
    assert first[known] == second[known]
    training = [(step, values) for step, values in service.logged if "loss" in values]
    assert [step for step, _ in training] == [1, 2, 3, 4] and {"lr", "grad_norm", "rows"} <= training[0][
        1
    ].keys()
    assert [step for step, values in service.logged if "evaluate/loss" in values] == [3, 4]
    [picture, _] = [values["samples/00"] for _, values in service.logged if "samples/00" in values]
    assert (picture.size, picture.caption) == ((8, 8), "caption 0")


def test_another_folder_of_that_name_is_another_run(tmp_path: Path, service: Service) -> None:
    make_accelerator("no")
    for place in ("a", "b"):
        (tmp_path / place / "mine").mkdir(parents=True)
        make_tracker(service.__name__, tmp_path / place / "mine", {})
    known = "id" if service.__name__ == "wandb" else "name"
    assert service.begun[0][known] != service.begun[1][known]


class Writer:
    """`SummaryWriter`, as far as it is used."""

    made: list[Writer] = []  # noqa: RUF012

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.scalars: list[tuple[str, int]] = []
        self.images: list[tuple[str, int, Any]] = []
        self.texts: list[str] = []
        self.made.append(self)

    def add_scalar(self, name: str, value: float, global_step: int) -> None:
        self.scalars.append((name, global_step))

    def add_text(self, name: str, text: str, global_step: int) -> None:
        self.texts.append(text)

    def add_images(self, name: str, images: Any, global_step: int, dataformats: str) -> None:
        assert dataformats == "NHWC"
        self.images.append((name, global_step, images))

    def flush(self) -> None: ...

    def close(self) -> None: ...


def test_tensorboard_is_taken_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, without a word in the recipe; a resumed run hides what it takes again."""
    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr("torch.utils.tensorboard", fake, raising=False)
    monkeypatch.setattr(accelerate.utils, "is_tensorboard_available", lambda: True)
    monkeypatch.setattr(Writer, "made", [])
    fit(line_recipe(train__steps=2, train__log_every=1, line__samples=1), tmp_path / "run")
    fit(line_recipe(train__steps=3, train__log_every=1, line__samples=1), tmp_path / "run")
    first, second = Writer.made
    assert first.folder == str(tmp_path / "run" / "tensorboard")
    assert (first.purge_step, second.purge_step) == (None, 3)
    assert [s for name, s in first.scalars if name == "loss"] == [1, 2] and (
        "evaluate/loss",
        2,
    ) in first.scalars
    [(name, step, pixels)] = first.images
    assert (name, step, pixels.shape, pixels.dtype) == ("samples/00", 2, (1, 8, 8, 3), np.uint8)
    assert first.texts == ["caption 0"]


def test_none_and_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "wandb", "trackio"):
        monkeypatch.setattr(accelerate.utils, f"is_{name}_available", lambda: False, raising=False)
    assert make_tracker("auto", tmp_path, {}) is None and make_tracker("none", tmp_path, {}) is None
    for name in ("tensorboard", "wandb", "trackio"):
        with pytest.raises(
            LongalignError, match=rf"train\.tracker {name}: not installed; pip install {name}"
        ):
            make_tracker(name, tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_does_not_answer_is_said(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**settings: Any) -> Any:
        raise OSError("no account")

    monkeypatch.setattr(service, "init", refuse)
    make_accelerator("no")
    with pytest.raises(LongalignError, match="no account; or take none"):
        make_tracker(service.__name__, tmp_path, {})
