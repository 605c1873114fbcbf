"""Trackers beside `metrics.jsonl`: TensorBoard, Weights & Biases and Trackio, through accelerate's classes."""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longalign.errors import LongalignError
from longalign.runs import atomic_write_text, json_line

if TYPE_CHECKING:
    from PIL.Image import Image

PROJECT = "longalign"


class Tracker(ABC):
    """One of accelerate's trackers that also takes sample pictures. Only the main process has it."""

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker
        if hasattr(tracker, "start"):  # older versions of accelerate start in the constructor
            tracker.start()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        self.tracker.log(dict(values), step=step)

    @abstractmethod
    def pictures(self, samples: Sequence[tuple[str, Image]], step: int) -> None:
        """Captions and pictures of a step, under the names ``samples/00``, ``samples/01``, …"""

    def finish(self) -> None:
        self.tracker.finish()


class TensorBoard(Tracker):
    """Files in the folder ``tensorboard`` of the run folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        from accelerate.tracking import TensorBoardTracker

        # A resumed run takes steps again: what is there of them is hidden.
        again = {"purge_step": step + 1} if step else {}
        super().__init__(TensorBoardTracker("tensorboard", logging_dir=folder, **again))

    def pictures(self, samples: Sequence[tuple[str, Image]], step: int) -> None:
        import numpy as np

        for number, (caption, image) in enumerate(samples):
            name = f"samples/{number:02d}"
            pixels = np.asarray(image.convert("RGB"))[None]  # (1, H, W, 3)
            self.tracker.log_images({name: pixels}, step=step, dataformats="NHWC")
            self.tracker.log({f"{name}/caption": caption}, step=step)


class Hosted(Tracker):
    """A service with runs in a project: W&B or Trackio. A resumed run goes on in the same one."""

    def __init__(self, tracker: Any, package: str) -> None:
        super().__init__(tracker)
        self.package = import_module(package)

    @classmethod
    def wandb(cls, folder: Path, config: Mapping[str, Any], step: int) -> Hosted:
        from accelerate.tracking import WandBTracker

        tracker = WandBTracker(
            PROJECT,
            name=folder.name,
            id=_identity(folder),
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )
        return cls(tracker, "wandb")

    @classmethod
    def trackio(cls, folder: Path, config: Mapping[str, Any], step: int) -> Hosted:
        from accelerate.tracking import TrackioTracker

        # Trackio knows runs by their names, and run folders of the same name may be anywhere.
        name = f"{folder.name}-{_identity(folder)}"
        return cls(TrackioTracker(PROJECT, name=name, resume="allow", config=dict(config)), "trackio")

    def pictures(self, samples: Sequence[tuple[str, Image]], step: int) -> None:
        images = [self.package.Image(image, caption=caption) for caption, image in samples]
        self.log({f"samples/{number:02d}": image for number, image in enumerate(images)}, step)


_MAKERS = {"tensorboard": TensorBoard, "wandb": Hosted.wandb, "trackio": Hosted.trackio}


def make_tracker(name: str, folder: Path, config: Mapping[str, Any], step: int = 0) -> Tracker | None:
    """The tracker of a run, started.

    Args:
        name: `auto` is TensorBoard where it is installed, else none; or `none`, `tensorboard`, `wandb`, `trackio`.
        folder: the run folder.
        config: the recipe, to be shown with the run.
        step: steps done already; what the tracker has of later ones is of a course that was given up.

    Raises:
        LongalignError: it is not installed, or does not start.
    """
    import accelerate.utils as utils

    if name == "auto":
        name = "tensorboard" if utils.is_tensorboard_available() else "none"
    if name == "none":
        return None
    available = getattr(utils, f"is_{name}_available", None)  # older versions of accelerate know no Trackio
    if available is None or not available():
        raise LongalignError(f"train.tracker {name}: not installed; pip install {name}, or take none")
    try:
        return _MAKERS[name](folder, config, step)
    except Exception as error:  # no account, no network, a broken installation: each in words of its own
        raise LongalignError(f"train.tracker {name}: {error}; or take none") from error


def _identity(folder: Path) -> str:
    """The id by which a service recognises this run, kept in ``tracker.json``."""
    path = folder / "tracker.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        made = secrets.token_hex(4)
        atomic_write_text(path, json_line({"id": made}))
        return made
