"""What an encoding needs of a pipeline: tokenizers and text encoders, with or without the rest of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import AutoTokenizer, T5EncoderModel

from longalign.encoding.adapter import TextAdapter
from longalign.errors import LongalignError

Family = Literal["sd15", "sdxl", "sd3"]
_CLIP_SLOTS = {"sd15": 1, "sdxl": 2, "sd3": 2}


@dataclass(frozen=True, eq=False)
class TextParts:
    """The text side of a model: ``TextParts("sd15", (tokenizer,), (text_encoder,))``.

    Attributes:
        family: how the parts are joined. ``sd15`` is any model with one CLIP (SD 1.x, 2.x).
        tokenizers, text_encoders: one CLIP, two CLIPs (SDXL; the refiner has the second only), or two CLIPs
            and a T5 (SD3; the T5 may be None).
        names: of the text encoders, for messages: ``text_encoder``, ``text_encoder_2``, …
        zero_negative: a negative prompt that is None becomes zeros (SDXL's ``force_zeros_for_empty_prompt``).
            Otherwise it is the encoded empty prompt.
        joint_width: width of SD3's joint text states, needed only when it has no T5.
        device: where parts run whose own device says nothing because accelerate moves them about.

    Raises:
        LongalignError: a part is missing, or is not what the family has.
    """

    family: Family
    tokenizers: tuple[Any, ...]
    text_encoders: tuple[Any, ...]
    names: tuple[str, ...] = ()
    zero_negative: bool = False
    joint_width: int | None = None
    device: torch.device | None = None

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise LongalignError(
                f"unknown family {self.family!r}: choose one of {', '.join(get_args(Family))}"
            )
        if not self.text_encoders or len(self.tokenizers) != len(self.text_encoders):
            raise LongalignError(
                f"{len(self.tokenizers)} tokenizers do not go with {len(self.text_encoders)} text encoders"
            )
        if not self.names:
            names = ("text_encoder", "text_encoder_2", "text_encoder_3")[: len(self.text_encoders)]
            object.__setattr__(self, "names", names)
        for name, tokenizer, encoder in zip(self.names, self.tokenizers, self.text_encoders, strict=True):
            if name == "text_encoder_3" and encoder is None:
                if self.joint_width is None:
                    raise LongalignError(
                        "SD3 without its T5 needs joint_width (the transformer's joint_attention_dim)"
                    )
                continue
            missing = name if encoder is None else name.replace("text_encoder", "tokenizer")
            if encoder is None or tokenizer is None:
                raise LongalignError(
                    f"the model has no {missing}: load it, or the folder is missing that part"
                )
            model_type = getattr(encoder.config, "model_type", "")
            if name != "text_encoder_3" and model_type != "clip_text_model":
                raise LongalignError(
                    f"{name} is a {type(encoder).__name__}, not a CLIP text model: longalign encodes for "
                    "Stable Diffusion 1.x, 2.x, XL and 3"
                )
        clips = len(self.text_encoders) - ("text_encoder_3" in self.names)
        refiner = self.family == "sdxl" and self.names == ("text_encoder_2",)
        if clips != _CLIP_SLOTS[self.family] and not refiner:
            raise LongalignError(
                f"family {self.family!r} has {_CLIP_SLOTS[self.family]} CLIP encoders, not {clips}"
            )

    @classmethod
    def of(cls, pipe_or_parts: Any) -> TextParts:
        """The text side of a diffusers pipeline, told by its components, whatever its class."""
        if isinstance(pipe_or_parts, TextParts):
            return pipe_or_parts
        components = getattr(pipe_or_parts, "components", None)
        if not isinstance(components, dict):
            raise LongalignError(
                f"cannot encode with a {type(pipe_or_parts).__name__}: give a diffusers pipeline or TextParts"
            )
        names = [name for name in ("text_encoder", "text_encoder_2", "text_encoder_3") if name in components]
        if not names:
            raise LongalignError(f"{type(pipe_or_parts).__name__} has no text_encoder")
        family: Family = (
            "sd3" if "text_encoder_3" in names else "sdxl" if "text_encoder_2" in names else "sd15"
        )
        tokenizer_of = {name: components.get(name.replace("text_encoder", "tokenizer")) for name in names}
        if family == "sdxl" and components["text_encoder"] is None and tokenizer_of["text_encoder"] is None:
            names.remove("text_encoder")  # the refiner has never had the first
        transformer = components.get("transformer")
        return cls(
            family,
            tuple(tokenizer_of[name] for name in names),
            tuple(components[name] for name in names),
            tuple(names),
            zero_negative=family == "sdxl"
            and bool(pipe_or_parts.config.get("force_zeros_for_empty_prompt", True)),
            joint_width=getattr(getattr(transformer, "config", None), "joint_attention_dim", None),
            device=pipe_or_parts._execution_device,
        )


@dataclass(frozen=True, eq=False)
class T5Branch:
    """T5 encoder and adapter beside the CLIP of SD1.5 or SDXL (LongAlign, §5.1).

    The adapter takes T5's width to the UNet's: 1024 → 896 → 768 for T5-large and SD1.5.
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

        Raises:
            LongalignError: one of them is missing.
        """
        folder = Path(folder)
        for part in ("t5_tokenizer", "t5", "adapter"):
            if not (folder / part).is_dir():
                raise LongalignError(f"{folder} has no subfolder {part!r}, which the T5 branch needs")
        tokenizer = AutoTokenizer.from_pretrained(folder / "t5_tokenizer")
        encoder = T5EncoderModel.from_pretrained(folder / "t5", dtype=dtype).eval()
        adapter = TextAdapter.from_pretrained(folder / "adapter", torch_dtype=dtype).eval()
        return cls(tokenizer, encoder.to(device), adapter.to(device))


def run_device(module: Any, fallback: torch.device | None) -> torch.device:
    """Where a module's inputs have to be: its own device, unless accelerate brings the weights to run it."""
    hooks = [m._hf_hook for m in module.modules() if hasattr(m, "_hf_hook")]
    devices = [hook.execution_device for hook in hooks if getattr(hook, "execution_device", None) is not None]
    if devices:
        return torch.device(devices[0])
    return fallback if module.device.type == "meta" and fallback is not None else module.device
