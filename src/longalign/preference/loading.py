"""Preference models by name, folder or file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from longalign.errors import LongalignError
from longalign.hub import BROKEN_FILES, find_on_hub, reason_of
from longalign.preference.calibration import FILE_NAME as CALIBRATION
from longalign.preference.calibration import Calibration
from longalign.preference.decomposition import FILE_NAME, Decomposition
from longalign.preference.late import FILE_NAME as HEAD
from longalign.preference.late import Late, LateHead, ZeroShot, kinds_of
from longalign.preference.open_clip import clip_of, read_checkpoint
from longalign.preference.preprocess import Preprocess
from longalign.runs import read_json_object
from longalign.runtime import pick_device, pick_dtype, quiet
from longalign.worlds import WORLDS, owner, resolve_model, world

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
_CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt")
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def read_model(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str = "auto",
    tokenizer: str | os.PathLike[str] | None = None,
    preprocess: Preprocess | None = None,
    late: str = "trained",
    calibration: str | os.PathLike[str] | None = None,
) -> tuple[Any, Any, Preprocess, Decomposition | None, Late | None, Calibration | None]:
    """What `PreferenceModel` is made of: CLIP, tokenizer, preprocessing, V, late head, calibration.

    Arguments are those of `PreferenceModel.from_pretrained`.
    """
    device = pick_device(device)
    kind = pick_dtype(dtype, device)
    where, tokenizers = _places(os.fspath(name))
    if where.endswith(_CHECKPOINTS):
        clip = clip_of(read_checkpoint(where), name=where)
        # What HPSv2.1 was trained on.
        preprocess = preprocess or Preprocess(clip.config.vision_config.image_size, "pad")
    else:
        clip = _clip(where, kind)
        preprocess = preprocess or _preprocess(where, clip.config.vision_config.image_size)
    clip = clip.to(device, kind).eval().requires_grad_(False)
    words = _tokenizer([os.fspath(tokenizer)] if tokenizer is not None else tokenizers, os.fspath(name))
    decomposition = _decomposition(where, clip.config.projection_dim)
    head, calibrated = _late(where, late, calibration)
    if head is not None:
        head = head.to(clip.device).eval().requires_grad_(False)
    return clip, words, preprocess, decomposition, head, calibrated


def _late(
    where: str, late: str, calibration: str | os.PathLike[str] | None
) -> tuple[Late | None, Calibration | None]:
    """How sentences are judged: the head, in float32, and the calibration that belongs to it."""
    folder = Path(where)
    has_head = folder.is_dir() and (folder / HEAD).is_file()
    own = folder / CALIBRATION
    found = Calibration.load(calibration) if calibration is not None else None
    if found is None and folder.is_dir() and own.is_file():
        found = Calibration.load(own)
        if late == "trained" and not has_head and found.kind == "zero-shot":
            late = "zero-shot"
    elif found is not None:
        late = {"zero-shot": "zero-shot", "late": "trained"}.get(found.kind, "none")
    head: Late | None = None
    if late == "zero-shot":
        head = ZeroShot()
    elif late == "trained" and has_head:
        head = LateHead.load(folder / HEAD)
    if calibration is None and found is not None and found.kind not in kinds_of(head):
        found = None  # it is of other scores than those that are wanted now
    return head, found


def _places(name: str) -> tuple[str, list[str]]:
    """Where the weights of a model are, and where its tokenizer may be.

    A pipeline folder has the whole CLIP in ``clip``, the tokenizer in ``tokenizer``. A world's name is its
    default preference model, ``stickers/…`` another of the embedded ones.
    """
    of_world = owner(name)
    if of_world is not None and (name == of_world.name or "/" in name):
        folder, words = of_world.preference_folders(name)
        return str(folder), [str(folder), str(words)]
    where = resolve_model(name)
    folder = Path(where)
    if (folder / "model_index.json").is_file():
        if not (folder / "clip").is_dir():
            raise LongalignError(f"{where}: a pipeline without a `clip` folder is no preference model")
        return str(folder / "clip"), [str(folder / "clip"), str(folder / "tokenizer")]
    if where.endswith(_CHECKPOINTS):
        return where, []
    if folder.is_file():
        raise LongalignError(
            f"{where}: is a file; a preference model is a CLIPModel folder, a hub name, or an open_clip checkpoint "
            f"({', '.join(_CHECKPOINTS)})"
        )
    trained = folder / "model"  # of a run folder of `longalign train`
    if (trained / CONFIG_FILE).is_file() and not (folder / CONFIG_FILE).is_file():
        return str(trained), [str(trained)]
    return where, [where]


def _clip(where: str, kind: torch.dtype) -> Any:
    from transformers import AutoConfig, CLIPModel

    folder = Path(where)
    local = True
    if not folder.is_dir():
        names = [name for told in WORLDS for name in (told, *world(told).preference_names())]
        local = find_on_hub(where, CONFIG_FILE, "preference model", names)
    elif not any(folder.glob("*.safetensors")):
        if pickled := sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern)):
            raise LongalignError(
                f"{where}: the weights are pickled ({pickled[0]}), which may run code and is not read; "
                "get them as safetensors"
            )
        raise LongalignError(f"{where}: no weights (*.safetensors) in this folder")
    try:
        with quiet():
            config = AutoConfig.from_pretrained(where, local_files_only=local)
            if config.model_type != "clip":
                raise LongalignError(
                    f"{where}: is a {config.model_type!r} model; a preference model must be 'clip'"
                )
            clip, found = CLIPModel.from_pretrained(
                where,
                config=config,
                dtype=kind,
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=local,
            )
    except LongalignError:
        raise
    except BROKEN_FILES as error:
        raise LongalignError(f"preference model {where!r} cannot be loaded: {reason_of(error)}") from error
    if missing := sorted(found["missing_keys"]):
        raise LongalignError(
            f"{where}: the weights are not those of a whole CLIP model: {len(missing)} tensors are missing, "
            f"such as {missing[0]!r}"
        )
    return clip


def _preprocess(where: str, image_size: int) -> Preprocess:
    file = Path(where) / PROCESSOR_FILE
    if file.is_file():
        return Preprocess.from_config(read_json_object(file), str(file))
    if not Path(where).is_dir():
        from transformers.utils import cached_file

        with quiet():
            cached = cached_file(where, PROCESSOR_FILE, _raise_exceptions_for_missing_entries=False)
        if cached is not None:
            return Preprocess.from_config(read_json_object(cached), f"{where}/{PROCESSOR_FILE}")
    return Preprocess(image_size)


def _tokenizer(places: list[str], name: str) -> Any:
    from transformers import AutoTokenizer

    reasons: list[str] = []
    for place in places:
        # Asked of an existing folder without one, transformers would make an empty tokenizer up.
        folder = Path(place)
        if folder.is_dir() and not any((folder / f).is_file() for f in ("tokenizer.json", "vocab.json")):
            continue
        try:
            local = folder.is_dir() or find_on_hub(place, "tokenizer_config.json", "tokenizer")
            with quiet():
                return AutoTokenizer.from_pretrained(place, local_files_only=local)
        except BROKEN_FILES as error:
            reasons.append(reason_of(error))
    raise LongalignError(
        f"no tokenizer in {', '.join(places) or name}: say where one is with tokenizer=… (a folder or hub name; "
        "PickScore and HPSv2 use CLIP ViT-H-14's)" + "".join(f"; {reason}" for reason in reasons)
    )


def _decomposition(where: str, width: int) -> Decomposition | None:
    file = Path(where) / FILE_NAME
    return Decomposition.load(file, width) if file.is_file() else None
