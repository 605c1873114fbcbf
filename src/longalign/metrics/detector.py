"""Any object-detection model of transformers: which things a picture shows, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longalign.errors import LongalignError
from longalign.hub import BROKEN_FILES, find_on_hub, reason_of
from longalign.runtime import inference, pick_device, pick_dtype, quiet

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """A thing in a picture.

    Attributes:
        name: of its class.
        score: how sure the detector is, in [0, 1].
        box: left, top, right, bottom in pixels.
    """

    name: str
    score: float
    box: Box


class Detector:
    """An object-detection model.

    Args:
        model, processor: as `AutoModelForObjectDetection` and `AutoImageProcessor` give them.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.names: dict[int, str] = {int(k): str(v) for k, v in model.config.id2label.items()}

    @classmethod
    def from_pretrained(cls, name: str, *, device: str = "auto", dtype: str = "auto") -> Detector:
        """Load a detector.

        Args:
            name: a folder or hub name.
            device, dtype: as in `longalign.runtime`.

        Raises:
            LongalignError: no such model, or it is no detector.
        """
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        local = Path(name).is_dir() or find_on_hub(name, "config.json", "object-detection model")
        device = pick_device(device)
        try:
            with quiet():
                processor = AutoImageProcessor.from_pretrained(name, local_files_only=local)
                model = AutoModelForObjectDetection.from_pretrained(
                    name, dtype=pick_dtype(dtype, device), local_files_only=local
                )
        except BROKEN_FILES as error:
            raise LongalignError(f"detector {name!r} cannot be loaded: {reason_of(error)}") from error
        return cls(model.to(device).eval(), processor)

    def __call__(self, images: Sequence[Image], threshold: float) -> list[list[Detection]]:
        """What each picture shows.

        Args:
            images: B pictures.
            threshold: only what scores higher.
        """
        with inference(self.model):
            inputs = self.processor(images=list(images), return_tensors="pt").to(
                self.model.device, self.model.dtype
            )
            outputs = self.model(**inputs)
        found = self.processor.post_process_object_detection(
            outputs, threshold=threshold, target_sizes=[(image.height, image.width) for image in images]
        )
        return [
            [
                Detection(self.names[int(label)], float(score), (box[0], box[1], box[2], box[3]))
                for score, label, box in zip(
                    of["scores"].tolist(), of["labels"].tolist(), of["boxes"].tolist(), strict=True
                )
            ]
            for of in found
        ]
