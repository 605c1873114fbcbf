"""The nodes: what ComfyUI asks of them, and nothing else. The work is in the files beside this one and in longalign."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longalign.errors import LongalignError
from longalign.preference import PreferenceModel
from longalign.soft_tokens import SoftTokens

from .marks import marked, verdicts_of
from .segments import MODES, PAD_STARS, POOLED, STRATEGIES, ComfyText, Conditioning, Settings
from .soft_tokens import with_soft_tokens

CATEGORY = "longalign"
_PREFERENCE = "LONGALIGN_PREFERENCE"  # ComfyUI connects outputs to inputs of the same name


class EncodeSegments:
    """A prompt and its negative prompt → two CONDITIONINGs of one length, sentence by sentence."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as ComfyUI reads them."""
        text = {"multiline": True, "dynamicPrompts": True}
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "SD 1.x, 2.x, XL or 3, with the LoRAs that are on it."}),
                "prompt": (
                    "STRING",
                    {**text, "tooltip": "Of any length. (words:1.2) as everywhere in ComfyUI."},
                ),
                "negative": ("STRING", {**text, "default": "", "tooltip": "The negative prompt."}),
            },
            "optional": {
                "strategy": (
                    STRATEGIES,
                    {
                        "default": "auto",
                        "tooltip": "auto: ComfyUI's own encoding where both prompts fit the window, else segments.",
                    },
                ),
                "length": (
                    "INT",
                    {
                        "default": 240,
                        "min": 1,
                        "max": 4096,
                        "tooltip": "Padded to a multiple of so many tokens. LoRAs of LongAlign: 240.",
                    },
                ),
                "segments": (MODES, {"default": "sentence", "tooltip": "released: the rule of longSD."}),
                "pooled": (POOLED, {"default": "whole", "tooltip": "The pooled vector of SDXL and SD3."}),
                "pad_star": (PAD_STARS, {"default": "paper", "tooltip": "released: that of longSD."}),
                "language": ("STRING", {"default": "en", "tooltip": "For finding sentences: en, de, ja, …"}),
            },
        }

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "STRING")
    RETURN_NAMES = ("positive", "negative", "report")
    OUTPUT_TOOLTIPS = (
        "Of the prompt.",
        "Of the negative prompt, of the same length.",
        "How the texts were cut.",
    )
    FUNCTION = "encode"
    CATEGORY = CATEGORY
    DESCRIPTION = "Encodes a prompt of any length, each sentence by itself (LongAlign)."

    def encode(
        self,
        clip: Any,
        prompt: str,
        negative: str = "",
        strategy: str = "auto",
        length: int = 240,
        segments: str = "sentence",
        pooled: str = "whole",
        pad_star: str = "paper",
        language: str = "en",
    ) -> tuple[Conditioning, Conditioning, str]:
        """Runs the node."""
        settings = Settings(strategy, length, segments, pooled, pad_star, language)
        return ComfyText(clip, settings).encode(prompt, negative)


class LoadPreference:
    """A preference model by name."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as ComfyUI reads them."""
        return {
            "required": {
                "model": (
                    "STRING",
                    {
                        "default": "openai/clip-vit-large-patch14",
                        "tooltip": "A CLIPModel folder or hub name, an open_clip file, or 'stickers' for a trial.",
                    },
                ),
            },
            "optional": {
                "tokenizer": (
                    "STRING",
                    {"default": "", "tooltip": "Where the model has none: a folder or hub name."},
                ),
                "late": (
                    ("trained", "zero-shot", "none"),
                    {
                        "default": "trained",
                        "tooltip": "How sentences are looked for in the picture's patches.",
                    },
                ),
            },
        }

    RETURN_TYPES = (_PREFERENCE,)
    RETURN_NAMES = ("preference",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = "Loads Denscore, PickScore, HPSv2 or any CLIP, for scores by sentence."

    def load(self, model: str, tokenizer: str = "", late: str = "trained") -> tuple[PreferenceModel]:
        """Runs the node."""
        if not model.strip():
            raise LongalignError("name a preference model: a folder, a hub name, or 'stickers'")
        return (
            PreferenceModel.from_pretrained(model.strip(), tokenizer=tokenizer.strip() or None, late=late),  # type: ignore[arg-type]  # ComfyUI checks the choice
        )


class ScoreSentences:
    """Which sentences of the prompt are not in the picture?"""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as ComfyUI reads them."""
        return {
            "required": {
                "preference": (_PREFERENCE, {"tooltip": "From the node that loads one."}),
                "image": ("IMAGE", {"tooltip": "One or several."}),
                "prompt": (
                    "STRING",
                    {"multiline": True, "tooltip": "Of any length; the same for all images."},
                ),
            }
        }

    RETURN_TYPES = ("IMAGE", "STRING", "FLOAT", "FLOAT")
    RETURN_NAMES = ("marked", "report", "score", "worst")
    OUTPUT_TOOLTIPS = (
        "The pictures with their sentences below, the wrong ones marked.",
        "Each sentence with its score.",
        "Mean over sentences and pictures, × 100.",
        "The lowest sentence of all pictures, × 100.",
    )
    FUNCTION = "score"
    CATEGORY = CATEGORY
    DESCRIPTION = "Scores each sentence of the prompt against the picture."

    def score(self, preference: Any, image: Tensor, prompt: str) -> tuple[Tensor, str, float, float]:
        """Runs the node."""
        if not isinstance(preference, PreferenceModel):
            raise LongalignError("connect the output of 'LongAlign: load preference model'")
        if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[-1] not in (3, 4):
            raise LongalignError(
                "an IMAGE is a tensor (pictures, height, width, 3), not "
                + (str(tuple(image.shape)) if isinstance(image, Tensor) else type(image).__name__)
            )
        if not prompt.strip():
            raise LongalignError("the prompt is empty: type the text that the picture is to show")
        pictures = [_picture(one) for one in image]
        scores = preference.score(pictures, prompt)
        pages = [marked(p, of_one) for p, of_one in zip(pictures, scores.segments, strict=True)]
        lines = []
        for i, of_one in enumerate(scores.segments):
            lines.append(f"picture {i + 1}: {scores.overall[i]:.1f}")
            lines += [
                f"  {segment.best:6.1f} {verdict:<8} {segment.text}"
                for segment, verdict in zip(of_one, verdicts_of(of_one), strict=True)
            ]
        worst = min(segment.best for segment in scores.worst())
        return (
            torch.stack([_tensor(page) for page in pages]),
            "\n".join(lines),
            float(scores.overall.mean()),
            worst,
        )


class LoadSoftTokens:
    """SoftREPA's soft tokens on a MODEL."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The inputs, as ComfyUI reads them."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "SD 1.x, 2.x, XL or 3."}),
                "tokens": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "soft_tokens.safetensors, its folder, or a run folder of longalign train.",
                    },
                ),
                "scale": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}),
            }
        }

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Adds trained soft text tokens (SoftREPA). Between scale 0 and 1 the model runs twice a step."
    )

    def load(self, model: Any, tokens: str, scale: float = 1.0) -> tuple[Any]:
        """Runs the node."""
        if not tokens.strip():
            raise LongalignError("name a file of soft tokens, such as soft_tokens.safetensors")
        return (with_soft_tokens(model, SoftTokens.from_pretrained(tokens.strip()), scale),)


def _picture(pixels: Tensor) -> Image.Image:
    """(H, W, 3 or 4) in [0, 1] → a picture; ComfyUI saves with the same rounding."""
    values = (pixels[..., :3].detach().cpu().float().clamp(0, 1) * 255).numpy()
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _tensor(picture: Image.Image) -> Tensor:
    """A picture → (H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "LongalignEncode": EncodeSegments,
    "LongalignLoadPreference": LoadPreference,
    "LongalignScore": ScoreSentences,
    "LongalignSoftTokens": LoadSoftTokens,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LongalignEncode": "LongAlign: encode by sentence",
    "LongalignLoadPreference": "LongAlign: load preference model",
    "LongalignScore": "LongAlign: score by sentence",
    "LongalignSoftTokens": "LongAlign: soft tokens",
}
