"""GenEval: does a picture show the things of its prompt, so many, in these colours and places (Ghosh et al. 2023)?

The prompt's record says what must be there (``include``) and what must not (``exclude``). Any detector of transformers
finds things, and zero-shot classification by a CLIP names their colours. The published code uses Mask2Former and sets
the background of a thing to grey before it asks for the colour. Here boxes alone are known, so the background stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from longalign.errors import LongalignError
from longalign.metrics.detector import Box, Detection, Detector
from longalign.metrics.intervals import resample
from longalign.metrics.metric import MISSING, Metric, MetricColumn, Number, PictureBatch, Tools
from longalign.metrics.vlm import named_model

if TYPE_CHECKING:
    from PIL.Image import Image

    from longalign.metrics.prompt_bootstrap import PromptBootstrap

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_TEXTS = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
# GenEval's names of COCO's classes, and what detectors call them.
_OTHER_NAMES = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "tvmonitor": "tv",
    "television": "tv",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "doughnut": "donut",
    "hair dryer": "hair drier",
    "mobile phone": "cell phone",
}
_STRAIGHT = 0.5  # share of the distance that must lie in a direction
_NO_DISTANCE_PX = 1e-3
Things = Mapping[str, Sequence[Detection]]


def class_name(label: str) -> str:
    """GenEval's name of a detector's class.

    Args:
        label: as the detector has it.
    """
    plain = label.strip().lower().replace("_", " ")
    return _OTHER_NAMES.get(plain, plain)


def things(detections: Iterable[Detection], threshold: float, most: int = 16) -> dict[str, list[Detection]]:
    """Detections by class under GenEval's names, the surest first.

    Args:
        detections: of one picture.
        threshold: only what scores higher: 0.3, and 0.9 where a prompt counts.
        most: of a class.
    """
    found: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda d: -d.score):
        if detection.score > threshold:
            found.setdefault(class_name(detection.name), []).append(detection)
    return {name: of_class[:most] for name, of_class in found.items()}


# d = c_a − c_b;   d'_k = sign(d_k) max(0, |d_k| − τ (s_a,k + s_b,k)) / |d|
def relations(a: Box, b: Box, threshold: float = 0.1) -> set[str]:
    """Where box a is, seen from box b: none, one or two of left of, right of, above, below.

    The distance of the centres counts in a direction as far as it exceeds a tenth of both boxes' sizes, and if that is
    more than half of the whole distance.

    Args:
        a, b: left, top, right, bottom.
        threshold: the tenth.
    """
    boxes = np.array([a, b], np.float64).reshape(2, 2, 2)  # (box, corner, axis)
    offset = boxes[0].mean(0) - boxes[1].mean(0)  # (2,)
    sizes = np.abs(boxes[:, 1] - boxes[:, 0]).sum(0)  # (2,)
    clear = np.maximum(np.abs(offset) - threshold * sizes, 0) * np.sign(offset)
    if np.all(np.abs(clear) < _NO_DISTANCE_PX):
        return set()
    x, y = clear / np.linalg.norm(offset)
    found = {
        "left of": x < -_STRAIGHT,
        "right of": x > _STRAIGHT,
        "above": y < -_STRAIGHT,
        "below": y > _STRAIGHT,
    }
    return {name for name, holds in found.items() if holds}


def faults(
    record: Mapping[str, Any],
    found: Things,
    colours: Callable[[Sequence[Detection], str], Sequence[str]],
    position_threshold: float = 0.1,
) -> list[str]:
    """What is wrong with a picture; it is right where the list is empty.

    Of each class only the ``count`` surest things are looked at for colour and place.

    Args:
        record: of the prompt: ``include`` and ``exclude``, lists of ``class`` and ``count``, of ``color`` and of
            ``position`` (a relation, and the number of the ``include`` that it refers to).
        found: as of `things`.
        colours: things and their class → the colour of each.
        position_threshold: as of `relations`.

    Raises:
        LongalignError: the record is none of GenEval's.
    """
    wrong: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    try:
        for wanted in record.get("include", ()):
            name, count = wanted["class"], wanted["count"]
            mine = list(found.get(name, ()))[:count]
            fault = ""
            if len(mine) < count:
                fault = f"expected {count} {name}, found {len(mine)}"
            elif "color" in wanted and (seen := list(colours(mine, name))).count(wanted["color"]) < count:
                fault = f"expected {count} {wanted['color']} {name}, found {', '.join(seen)}"
            if not fault and "position" in wanted:
                relation, to = wanted["position"]
                target = groups[to]
                if target is None:
                    fault = f"nothing that {name} could be {relation}"
                elif not all(
                    relation in relations(a.box, b.box, position_threshold) for a in mine for b in target
                ):
                    fault = f"expected {name} {relation} {record['include'][to]['class']}"
            groups.append(None if fault else mine)
            wrong += [fault] if fault else []
        for unwanted in record.get("exclude", ()):
            if (n := len(found.get(unwanted["class"], ()))) >= unwanted["count"]:
                wrong.append(f"expected fewer than {unwanted['count']} {unwanted['class']}, found {n}")
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise LongalignError(f"geneval: {dict(record)!r} is no record of GenEval ({error!r})") from None
    return wrong


@dataclass(frozen=True)
class GenevalOptions:
    """Options of `Geneval`.

    Attributes:
        model: folder or hub name of an object-detection model of transformers that knows COCO's classes.
        clip: preference model (any CLIP) that names colours.
        threshold: what scores higher is there.
        counting_threshold: the same where a prompt counts.
        most_objects: of a class.
        position_threshold: share of the boxes' sizes that is no distance.
        batch_size: pictures that the detector reads at once.
    """

    model: str | None = None
    clip: str | None = None
    threshold: float = 0.3
    counting_threshold: float = 0.9
    most_objects: int = 16
    position_threshold: float = 0.1
    batch_size: int = 8


class Geneval(Metric):
    """Share of right pictures of each of GenEval's six tasks, and the mean over tasks.

    Args:
        tools: what the evaluation has loaded.
        options: a `GenevalOptions`.

    Raises:
        LongalignError: detector or CLIP is not given or cannot be loaded.
    """

    name = "geneval"
    columns = (
        MetricColumn("geneval", "GenEval", ".1%", "higher"),
        *(
            MetricColumn(f"geneval_{tag}", f"GenEval {tag.replace('_', ' ')}", ".1%", "higher")
            for tag in TAGS
        ),
    )
    Options = GenevalOptions

    def __init__(self, tools: Tools, options: Any = None) -> None:
        super().__init__(tools, options)
        o = self.options
        detector = named_model(self.name, "model", o.model, "object detector", "facebook/detr-resnet-50")
        clip = named_model(self.name, "clip", o.clip, "CLIP for colours", "openai/clip-vit-large-patch14")
        try:
            self.detector = Detector.from_pretrained(detector, device=tools.device, dtype=tools.dtype)
            self.memory = tools.preference(clip)
        except LongalignError as error:
            raise LongalignError(f"{self.name}: {error}") from error
        self._known = {class_name(label) for label in self.detector.names.values()}

    @classmethod
    def weights(cls, tools: Tools, options: Any) -> Sequence[str]:
        """The detector and the CLIP.

        Args:
            tools: what the evaluation has loaded.
            options: a `GenevalOptions`.
        """
        return tuple(name for name in (options.model, options.clip) if name is not None)

    def measure(self, batch: PictureBatch) -> Sequence[Mapping[str, Any]]:
        """One value a picture: 1 or 0 under ``geneval`` and under its task, and as details its ``faults``.

        Args:
            batch: decoded pictures with their prompts and records.

        Raises:
            LongalignError: a prompt has no record of GenEval, or its record names a class that the detector does not
                know.
        """
        self._check(batch)
        o, values = self.options, []
        lowest = min(o.threshold, o.counting_threshold)
        for start in range(0, len(batch), o.batch_size):
            images = batch.images[start : start + o.batch_size]
            records = batch.records[start : start + o.batch_size]
            for image, record, detections in zip(images, records, self.detector(images, lowest), strict=True):
                tag = str(record["tag"])
                found = things(
                    detections, o.counting_threshold if tag == "counting" else o.threshold, o.most_objects
                )
                wrong = faults(record, found, self._colours_in(image), o.position_threshold)
                right = float(not wrong)
                seen = {name: [list(d.box) for d in of_class] for name, of_class in found.items()}
                values.append({"geneval": right, f"geneval_{tag}": right, "faults": wrong, "found": seen})
        return values

    def _check(self, batch: PictureBatch) -> None:
        unknown: dict[str, None] = {}
        for prompt, record in zip(batch.prompts, batch.records, strict=True):
            if record.get("tag") not in TAGS or not isinstance(record.get("include"), list):
                raise LongalignError(
                    f"geneval: the prompt {prompt[:60]!r} has no record of GenEval (tag and include): give its "
                    "evaluation_metadata.jsonl by --prompts"
                )
            wanted = [*record["include"], *record.get("exclude", ())]
            names = [str(w.get("class")) for w in wanted if isinstance(w, Mapping)]
            unknown |= dict.fromkeys(name for name in names if name not in self._known)
        if unknown:
            raise LongalignError(
                f"geneval: the detector {self.options.model} does not know {', '.join(map(repr, unknown))}; choose one "
                "that was trained on COCO and names its classes"
            )

    def _colours_in(self, image: Image) -> Callable[[Sequence[Detection], str], list[str]]:
        def colours(found: Sequence[Detection], name: str) -> list[str]:
            prepare = self.memory.model.preprocess.picture
            crops = self.memory.images([prepare(image.crop(_inside(d.box, image))) for d in found])  # (N, D)
            return [COLOURS[k] for k in (crops @ self._colour_texts(name).T).argmax(1).tolist()]

        return colours

    def _colour_texts(self, name: str) -> Tensor:
        """(10, D) unit means over the wordings of each colour."""
        texts = [text.format(colour=colour, name=name) for colour in COLOURS for text in _TEXTS]
        embedded = self.memory.texts(texts, truncate=True)
        return normalize(embedded.reshape(len(COLOURS), len(_TEXTS), -1).mean(1), dim=-1)

    def cells(self, numbers: Mapping[str, np.ndarray], bootstrap: PromptBootstrap) -> dict[str, Number]:
        """Shares of the tasks, and their mean.

        Args:
            numbers: of the values of `measure`.
            bootstrap: draws of prompts.
        """
        found = super().cells(numbers, bootstrap)
        tasks = [
            numbers[f"geneval_{tag}"]
            for tag in TAGS
            if np.isfinite(numbers.get(f"geneval_{tag}", np.nan)).any()
        ]
        if not tasks:
            return found | {"geneval": Number(float("nan"), MISSING)}
        sums = np.stack([bootstrap.per_prompt(x) for x in tasks], 1)  # (P, T)
        counts = np.stack([bootstrap.per_prompt(np.isfinite(x)) for x in tasks], 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = np.concatenate(
                [
                    (w @ sums) / (w @ counts)
                    for w in resample(bootstrap.count, bootstrap.samples, bootstrap.seed)
                ]
            )  # (draws, T), NaN where a draw has no prompt of a task
        # A draw without a task's prompts tells nothing of the mean over all tasks: it is left out.
        value = float((sums.sum(0) / counts.sum(0)).mean())
        n = int(counts.sum())
        return found | {"geneval": bootstrap.number(value, draws.mean(1), n, self.columns[0].format)}

    @property
    def reads(self) -> str:
        """The record in place of the prompt."""
        return "the prompt's record of things, colours and places"

    @property
    def what(self) -> str:
        """Names detector, CLIP and thresholds."""
        o = self.options
        return (
            f"geneval by {o.model}, colours by {o.clip}, thresholds {o.threshold:g} and {o.counting_threshold:g} "
            "(counting)"
        )

    def share_read(self, prompts: Sequence[str]) -> str:
        """The record says all that a prompt of GenEval says.

        Args:
            prompts: of all pictures of all sets.
        """
        return "the whole record"


def _inside(box: Box, image: Image) -> tuple[int, int, int, int]:
    """A box in whole pixels of the picture, at least one wide and high."""
    left, top = (min(max(round(a), 0), size - 1) for a, size in zip(box[:2], image.size, strict=True))
    right, bottom = (
        min(max(round(a), low + 1), size)
        for a, low, size in zip(box[2:], (left, top), image.size, strict=True)
    )
    return left, top, right, bottom
