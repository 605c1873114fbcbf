"""What a folder keeps of how it was measured: its passes, the options of their metrics, and which pictures these were.

Finished blocks are used again. So they must be of the same pictures, and their values of the same options: what differs
is measured again in a pass of its own, or refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from longalign.data.entries import CaptionedPicture
from longalign.data.prompt_rows import PromptRow
from longalign.errors import LongalignError
from longalign.evaluation.measuring import Pass
from longalign.evaluation.memory import plan_passes
from longalign.evaluation.parts import FolderParts
from longalign.evaluation.pictures import Renderings
from longalign.evaluation.sets import PictureSet
from longalign.metrics import METRICS
from longalign.metrics.metric import SetMetric
from longalign.runs import atomic_write_text, read_json_object

PLAN = "plan.json"
INPUTS = "inputs.json"
_NO_MATTER = ("batch_size",)  # options that change the speed alone
Options = Mapping[str, Mapping[str, Any]]


def read_plan(parts: FolderParts) -> list[Pass]:
    """The passes of a folder; none where nothing is planned yet.

    Args:
        parts: finished blocks.
    """
    file = parts.folder / PLAN
    if not file.is_file():
        return []
    return [Pass(**told) for told in json.loads(file.read_text(encoding="utf-8"))]


def _write_plan(parts: FolderParts, passes: Sequence[Pass]) -> None:
    atomic_write_text(parts.folder / PLAN, json.dumps([asdict(p) for p in passes], indent=1) + "\n")


def _next_number(parts: FolderParts | None, passes: Sequence[Pass]) -> int:
    """Number of a new pass, which no pass of the plan has and no folder of blocks."""
    folders = [] if parts is None else [f.name for f in parts.folder.glob("pass-*")]
    return 1 + max(
        (int(name.partition("-")[2]) for name in [*folders, *(p.name for p in passes)]), default=-1
    )


def told_options(options: Any) -> dict[str, Any]:
    """The options of a metric as the plan keeps them.

    Args:
        options: a dataclass.
    """
    found = {k: v for k, v in asdict(options).items() if k not in _NO_MATTER}
    return dict(json.loads(json.dumps(found, default=str)))


def planned(
    parts: FolderParts | None,
    options: Options,
    weights: Callable[[str], Sequence[str]],
    *,
    with_features: bool,
    device: str,
) -> list[Pass]:
    """Which metrics are computed together. A folder keeps its plan: other passes would give other last bits.

    Args:
        parts: finished blocks; None: they are kept in memory.
        options: of the metrics that are wanted, of `told_options`.
        weights: name of a metric → the models that it loads.
        with_features: whether the features of all pictures are wanted.
        device: on which the models will lie.
    """
    passes = [] if parts is None else read_plan(parts)
    known = {name for of_pass in passes for name in of_pass.metrics}
    new = [name for name in options if name not in known]
    wants = with_features and not any(p.with_features for p in passes)
    if not new and not wants:
        return passes
    added = plan_passes(
        new,
        {name: weights(name) for name in new},
        first=_next_number(parts, passes),
        with_features=wants,
        device=device,
    )
    passes += [replace(p, options={name: dict(options[name]) for name in p.metrics}) for p in added]
    if parts is not None:
        _write_plan(parts, passes)
    return passes


def forget_outdated(parts: FolderParts, options: Options) -> None:
    """Takes the metrics out of the plan that have to be measured again, and passes that have nothing left.

    A metric has to be if its options differ, or if a finished block has no value of it: it could not be loaded then,
    or had to be given up. Metrics of whole sets are computed from features each time.

    Args:
        parts: finished blocks.
        options: of the metrics that are wanted, of `told_options`.
    """
    passes = read_plan(parts)
    valid = []
    for p in passes:
        wanted = [m for m in p.metrics if m in options and not issubclass(METRICS[m], SetMetric)]
        again = {m for m in wanted if p.options.get(m, options[m]) != options[m]}
        for line in _first_lines(parts, p.name):
            again |= {m for m in wanted if m not in line}
        kept = [m for m in p.metrics if m not in again]
        if kept or p.with_features:
            valid.append(replace(p, metrics=kept, options={m: p.options[m] for m in kept if m in p.options}))
    if valid != passes:
        _write_plan(parts, valid)


def _first_lines(parts: FolderParts, name: str) -> Iterator[Mapping[str, Any]]:
    """Of each finished block what was found of its first readable picture."""
    for file in sorted((parts.folder / name).glob("[0-9]*.jsonl")):
        line = next((line for line in parts.read(name, int(file.stem)) if "failed" not in line), None)
        if line is not None:
            yield line


def inputs_of(
    rows: Sequence[PromptRow], sets: Sequence[PictureSet], reference: PictureSet | None
) -> dict[str, str]:
    """Fingerprints of what is measured: prompts, and names and sizes of picture files.

    Args:
        rows: the prompts.
        sets: of pictures that are there already.
        reference: pictures to compare with.
    """
    found = {"the prompts": _digest((row.id, row.prompt) for row in rows)} if rows else {}
    found |= {f"the pictures of {s.label}": _of_set(s) for s in sets}
    if reference is not None and not isinstance(reference.pictures, Renderings):
        found["the reference pictures"] = _of_set(reference)
    return found


def read_inputs(parts: FolderParts) -> dict[str, str]:
    """The fingerprints that a folder keeps; none where nothing was measured yet.

    Args:
        parts: finished blocks.
    """
    file = parts.folder / INPUTS
    return read_json_object(file) if file.is_file() else {}


def check_inputs(parts: FolderParts, inputs: Mapping[str, str]) -> None:
    """Compares the inputs with those of the folder's finished blocks, and notes them where they are new.

    Args:
        parts: finished blocks.
        inputs: of `inputs_of`.

    Raises:
        LongalignError: something has changed since then.
    """
    earlier = read_inputs(parts)
    if changed := [what for what, digest in inputs.items() if earlier.get(what, digest) != digest]:
        raise LongalignError(
            f"{parts.folder.parent}: was begun with others; {' and '.join(changed)} changed. Choose another --out, or "
            "--overwrite"
        )
    if earlier != {**earlier, **inputs}:
        atomic_write_text(
            parts.folder / INPUTS, json.dumps({**earlier, **inputs}, indent=1, ensure_ascii=False) + "\n"
        )


def _of_set(pictures: PictureSet) -> str:
    return _digest(
        (key, p.name, p.text, _size(p)) for key, p in zip(pictures.keys, pictures.pictures, strict=True)
    )


def _size(picture: CaptionedPicture) -> int:
    """Bytes of its file; 0 where it has none."""
    if isinstance(picture.image, bytes):
        return len(picture.image)
    return picture.image.stat().st_size if isinstance(picture.image, Path) and picture.image.is_file() else 0


def _digest(rows: Iterable[object]) -> str:
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
    return found.hexdigest()[:32]
