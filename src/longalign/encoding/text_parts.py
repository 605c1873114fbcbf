"""`TextParts`, the tokenizers and text encoders of a pipeline, and `T5Branch`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, T5EncoderModel

from longalign.backbones import BACKBONES, backbone_named, find_backbone
from longalign.backbones.base import Backbone, tokenizer_name
from longalign.encoding.adapter import TextAdapter
from longalign.errors import LongalignError
from longalign.worlds import resolve_model

_SLOTS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True, eq=False)
class TextParts:
    """The text side of a model: ``TextParts(family, (tokenizer,), (text_encoder,))``.

    Attributes:
        family: name of the backbone in `longalign.backbones.BACKBONES`, which says how the parts are joined.
        tokenizers, text_encoders: one CLIP, two CLIPs (SDXL; the refiner has the second only), or two CLIPs
            and a T5 (SD3; the T5 may be None).
        names: names of the text encoders: ``text_encoder``, ``text_encoder_2``, …
        zero_negative: a negative prompt that is None becomes zeros (SDXL's ``force_zeros_for_empty_prompt``).
            Otherwise it is the encoded empty prompt.
        joint_width: width of SD3's joint text states, needed only when it has no T5.
        device: the device for parts that accelerate moves, whose own device is not the one on which they run.

    Raises:
        LongalignError: a part is missing, or the family has other parts.
    """

    family: str
    tokenizers: tuple[Any, ...]
    text_encoders: tuple[Any, ...]
    names: tuple[str, ...] = ()
    zero_negative: bool = False
    joint_width: int | None = None
    device: torch.device | None = None

    def __post_init__(self) -> None:
        if self.family not in BACKBONES:
            raise LongalignError(f"unknown family {self.family!r}: choose one of {', '.join(BACKBONES)}")
        backbone = self.backbone
        if not self.text_encoders or len(self.tokenizers) != len(self.text_encoders):
            raise LongalignError(
                f"{len(self.tokenizers)} tokenizers do not go with {len(self.text_encoders)} text encoders"
            )
        if not self.names:
            object.__setattr__(self, "names", backbone.text_encoders[: len(self.text_encoders)])
        for name, tokenizer, encoder in zip(self.names, self.tokenizers, self.text_encoders, strict=True):
            if name == backbone.t5 and encoder is None and backbone.t5_optional:
                if self.joint_width is None:
                    raise LongalignError(
                        f"{backbone.title} without its T5 needs joint_width (the transformer's joint_attention_dim)"
                    )
                continue
            missing = name if encoder is None else tokenizer_name(name)
            if encoder is None or tokenizer is None:
                raise LongalignError(
                    f"the model has no {missing}: load it, or the folder is missing that part"
                )
            model_type = getattr(encoder.config, "model_type", "")
            if name != backbone.t5 and model_type != "clip_text_model":
                titles = ", ".join(backbone_named(family).title for family in BACKBONES)
                raise LongalignError(
                    f"{name} is a {type(encoder).__name__}, not a CLIP text model: longalign encodes for {titles}"
                )
        clips = [name for name in self.names if name != backbone.t5]
        if not backbone.accepts_clips(clips):
            raise LongalignError(
                f"family {self.family!r} has {len(backbone.clips)} CLIP encoders, not {len(clips)}"
            )

    @property
    def backbone(self) -> Backbone:
        """The object that knows how the parts are joined."""
        return backbone_named(self.family)

    @classmethod
    def of(cls, pipe_or_parts: Any) -> TextParts:
        """The text side of a diffusers pipeline of any class, by its components."""
        if isinstance(pipe_or_parts, TextParts):
            return pipe_or_parts
        components = getattr(pipe_or_parts, "components", None)
        if not isinstance(components, dict):
            raise LongalignError(
                f"cannot encode with a {type(pipe_or_parts).__name__}: give a diffusers pipeline or TextParts"
            )
        backbone = find_backbone(pipe_or_parts) or _of_encoders(components)
        names = [] if backbone is None else backbone.text_names(components)
        if backbone is None or not names:
            raise LongalignError(f"{type(pipe_or_parts).__name__} has no text_encoder")
        return cls(
            backbone.family,
            tuple(components.get(tokenizer_name(name)) for name in names),
            tuple(components[name] for name in names),
            tuple(names),
            zero_negative=backbone.zero_negative(pipe_or_parts),
            joint_width=backbone.joint_width(components),
            device=pipe_or_parts._execution_device,
        )


def _of_encoders(components: Mapping[str, Any]) -> Backbone | None:
    """The first backbone with as many text encoders as a pipeline whose denoising module is unknown."""
    count = sum(name in components for name in _SLOTS)
    return next((b for b in map(backbone_named, BACKBONES) if len(b.text_encoders) == count), None)


@dataclass(frozen=True, eq=False)
class T5Branch:
    """T5 encoder and adapter beside the CLIP of SD1.5 or SDXL (LongAlign, §5.1).

    Attributes:
        tokenizer: T5's, a fast one.
        encoder: the `T5EncoderModel`.
        adapter: maps T5's width to the UNet's: 1024 → 896 → 768 for T5-large and SD1.5.
    """

    tokenizer: Any
    encoder: Any
    adapter: TextAdapter

    def __post_init__(self) -> None:
        width = self.encoder.config.d_model
        if width != self.adapter.config.in_dim:
            raise LongalignError(
                f"the adapter takes states of width {self.adapter.config.in_dim}, but this T5 gives {width}"
            )

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> T5Branch:
        """Reads the subfolders ``t5_tokenizer``, ``t5`` and ``adapter``.

        Args:
            folder: a model folder, or an embedded model such as ``stickers``.

        Raises:
            LongalignError: one of them is missing.
        """
        folder = Path(resolve_model(folder))
        for part in ("t5_tokenizer", "t5", "adapter"):
            if not (folder / part).is_dir():
                raise LongalignError(f"{folder} has no subfolder {part!r}, which the T5 branch needs")
        tokenizer = AutoTokenizer.from_pretrained(folder / "t5_tokenizer")
        # None is float32 here, as it is for the adapter: transformers' own choice is the file's precision.
        encoder = T5EncoderModel.from_pretrained(folder / "t5", dtype=dtype or torch.float32).eval()
        adapter = TextAdapter.from_pretrained(folder / "adapter", torch_dtype=dtype).eval()
        return cls(tokenizer, encoder.to(device), adapter.to(device))


def run_device(module: Any, fallback: torch.device | None) -> torch.device:
    """The device for a module's inputs: the module's own, unless accelerate moves the weights to another one."""
    hooks = [m._hf_hook for m in module.modules() if hasattr(m, "_hf_hook")]
    devices = [hook.execution_device for hook in hooks if getattr(hook, "execution_device", None) is not None]
    if devices:
        return torch.device(devices[0])
    return fallback if module.device.type == "meta" and fallback is not None else module.device
