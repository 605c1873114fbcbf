"""Feature extractors by name, for FID, CMMD and diversity. Each says what it is, since no distance means anything
without its extractor: FID of Inception, of CLIP and of DINOv2 features are three different numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longalign.errors import LongalignError
from longalign.hub import BROKEN_FILES, find_on_hub, reason_of
from longalign.preference import PreferenceModel, Preprocess
from longalign.runtime import inference, pick_device, pick_dtype, quiet
from longalign.worlds import WORLDS, owner, resolve_model

# model_type of a configuration → the class in transformers, and what of its output is the feature
_VISION = {
    "clip_vision_model": ("CLIPVisionModelWithProjection", "image_embeds"),
    "dinov2": ("Dinov2Model", "pooler_output"),
}
_PROGRAMS = (".pt", ".pth", ".ts", ".ckpt", ".bin", ".pkl", ".onnx")


@dataclass(frozen=True)
class Features:
    """A named function from pictures to features.

    Attributes:
        name: as it was asked for.
        what: what it is, in words, as it goes into every result.
        encode: (B, 3, H, W) pixels in [0, 1] → (B, D).
        model: the preference model whose C_X the features are; None for other extractors.
    """

    name: str
    what: str
    encode: Callable[[Tensor], Tensor]
    model: PreferenceModel | None = None

    def image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pixels in [0, 1], of any size → (B, D) in at least float32, without gradient."""
        with torch.no_grad():
            found = self.encode(pixels)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], *, device: str = "auto", dtype: str = "auto"
    ) -> Features:
        """An extractor.

        Args:
            name: a preference model (``stickers/clip``, a `CLIPModel` folder or hub name): its unit C_X; a CLIP image
                tower alone (`clip_vision_model`), such as CMMD's openai/clip-vit-large-patch14-336; or a DINOv2.
            device, dtype: as in `longalign.diffusion.pipelines`.

        Raises:
            LongalignError: no such model, another kind, weights that are not safetensors. FID's Inception is published
                as pickles and TorchScript, both of which are programs and not read here.
        """
        name = os.fspath(name)
        if name.endswith(_PROGRAMS):
            raise LongalignError(
                f"{name}: such a file may run code and is not read; name a model folder with safetensors (a CLIPModel, "
                "a CLIP image tower or a DINOv2)"
            )
        kind = "clip" if _embedded(name) else _kind(name)
        if kind == "clip":
            model = PreferenceModel.from_pretrained(name, device=device, dtype=dtype)
            return cls(
                name,
                f"{name}: unit C_X of a CLIP, {model.width} numbers, {_px(model.preprocess)}",
                model.image,
                model,
            )
        if kind not in _VISION:
            raise LongalignError(
                f"{name}: is a {kind!r} model; an extractor must be clip, {', '.join(_VISION)}"
            )
        return _vision(cls, name, kind, device, dtype)


def _vision(make: type[Features], name: str, kind: str, device: str, dtype: str) -> Features:
    import transformers

    class_name, output = _VISION[kind]
    where = resolve_model(name)
    device = pick_device(device)
    try:
        with quiet():
            tower: Any = getattr(transformers, class_name).from_pretrained(
                where, dtype=pick_dtype(dtype, device), use_safetensors=True
            )
    except BROKEN_FILES as error:
        raise _cannot(name, error) from error
    tower = tower.to(device).eval().requires_grad_(False)
    preprocess = _preprocess(where, int(tower.config.image_size))

    def encode(pixels: Tensor) -> Tensor:
        prepared = preprocess(pixels.to(device)).to(tower.dtype)
        with inference(tower):
            return tower(pixel_values=prepared)[output]

    return make(name, f"{name}: {output} of a {kind}, {_px(preprocess)}", encode)


def _embedded(name: str) -> bool:
    """Is it an embedded preference model, or a pipeline folder with a CLIP in it? A wrong name is refused here."""
    of_world = owner(name)
    if of_world is not None and "/" in name:
        of_world.preference_folders(name)
    return of_world is not None or (Path(name) / "model_index.json").is_file()


def _kind(name: str) -> str:
    """`model_type` of a folder or hub name."""
    from transformers import AutoConfig

    local = Path(name).is_dir() or find_on_hub(name, "config.json", "extractor", WORLDS)
    try:
        with quiet():
            return str(AutoConfig.from_pretrained(name, local_files_only=local).model_type)
    except BROKEN_FILES as error:
        raise _cannot(name, error) from error


def _cannot(name: str, error: Exception) -> LongalignError:
    return LongalignError(f"extractor {name!r} cannot be loaded: {reason_of(error)}")


def _preprocess(where: str, image_size: int) -> Preprocess:
    """As the model's ``preprocessor_config.json`` says; without one, CLIP's at the model's size."""
    from transformers import CLIPImageProcessor

    try:
        with quiet():
            config, _ = CLIPImageProcessor.get_image_processor_dict(where)
    except (OSError, ValueError):
        return Preprocess(image_size)
    return Preprocess.from_config(config, where)


def _px(preprocess: Preprocess) -> str:
    return f"{preprocess.fit} to {preprocess.size_px} px"
