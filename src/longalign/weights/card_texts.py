"""What the model cards of LoRAs, soft tokens and preference models say (`longalign.weights.model_card`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import yaml

from longalign.backbones import backbone_named
from longalign.runs import read_json_object
from longalign.soft_tokens import FILE_NAME as TOKENS
from longalign.soft_tokens import SoftTokens
from longalign.weights.encoding_note import recorded_encoding
from longalign.weights.lora_file import FILE_NAME as LORA
from longalign.weights.lora_file import TEXT_ENCODERS, LoraFile
from longalign.worlds import owner

# Files of `longalign.preference`, which stands above this package
_DECOMPOSITION, _HEAD, _CALIBRATION = (
    "decomposition.safetensors",
    "late_head.safetensors",
    "calibration.json",
)


@dataclass(frozen=True)
class CardText:
    """A card without its front matter.

    Attributes:
        title: the first heading.
        base: name of the base model, or empty.
        relation: how it comes from its base, in the hub's words: ``adapter`` or ``finetune``.
        library, pipeline_tag, tags: as the hub spells them.
        lines: the text below the title.
    """

    title: str
    base: str
    relation: str
    library: str
    pipeline_tag: str
    tags: Sequence[str]
    lines: list[str]


def lora_text(folder: Path, base: str) -> CardText | None:
    """The card of a LoRA folder; None for any other folder.

    Args:
        folder: on this machine.
        base: name of the model; empty: that in the LoRA's fingerprint.

    Raises:
        LongalignError: the LoRA is damaged.
    """
    if not (folder / LORA).is_file():
        return None
    file = LoraFile.read(folder)
    base = base or (file.base.name if file.base is not None else "")
    changed = [file.component, *(name for name in TEXT_ENCODERS if (folder / name / LORA).is_file())]
    model = base or "BASE"
    encoding = recorded_encoding([folder])
    lines = [
        f"It changes {len(file.layers)} layers of rank {file.rank} in the {changed[0]}"
        + (f", and layers of {' and '.join(changed[1:])}." if changed[1:] else "."),
        "",
        "## Encoding of prompts",
        "",
    ]
    if encoding:
        lines += [
            "The LoRA was trained on texts that were encoded so. longalign takes this by default:",
            "",
            "```yaml",
            yaml.safe_dump(encoding, sort_keys=False).rstrip(),
            "```",
        ]
    else:
        lines += [
            "Nothing is known of how texts were encoded in training; the pipeline's own encoding is likely."
        ]
    lines += [
        "",
        "## Use",
        "",
        "With longalign:",
        "",
        "```python",
        "import longalign",
        "",
        f'pipe = longalign.load_pipeline("{model}", loras=["THIS_FOLDER"])',
        *_DRAW,
        "```",
        "",
        f"or `longalign generate PROMPT --model {model} --lora THIS_FOLDER`. With diffusers:",
        "",
        "```python",
        *_opened(base),
        f'pipe.load_lora_weights("THIS_FOLDER", adapter_name="{changed[0]}")',
        *(f'pipe.load_lora_weights("THIS_FOLDER/{name}", adapter_name="{name}")' for name in changed[1:]),
        *([f"pipe.set_adapters({json.dumps(changed)})"] if changed[1:] else []),
        "```",
    ]
    if str(encoding.get("strategy", "plain")) != "plain":
        lines += [
            "",
            "diffusers alone reads the start of a prompt, up to its window: the encoding needs `longalign.encode`.",
        ]
    title = f"LoRA for {base or 'a text-to-image model'}"
    return CardText(title, base, "adapter", "diffusers", "text-to-image", ["lora", "text-to-image"], lines)


_DRAW = (
    'conditioning = longalign.encode(pipe, "A prompt of any length.")',
    "image = pipe(**conditioning.pipeline_kwargs()).images[0]",
)


def _opened(base: str) -> list[str]:
    """Code that opens the base with diffusers; an embedded model, which diffusers does not find, with longalign."""
    if base and owner(base) is not None:
        return ["import longalign", "", f'pipe = longalign.load_pipeline("{base}")']
    return [
        "from diffusers import DiffusionPipeline",
        "",
        f'pipe = DiffusionPipeline.from_pretrained("{base or "BASE"}")',
    ]


def token_text(folder: Path, base: str) -> CardText | None:
    """The card of a folder of soft tokens; None for any other folder.

    Args:
        folder: on this machine.
        base: name of the model; empty: that in the tokens' configuration.

    Raises:
        LongalignError: the tokens are damaged.
    """
    if not (folder / TOKENS).is_file():
        return None
    tokens = SoftTokens.from_pretrained(folder)
    config = tokens.config
    base = base or told(config.base)
    backbone = backbone_named(config.backbone)
    count = sum(p.numel() for p in tokens.parameters())
    places = (
        f"before the text stream of each of the first {config.layers} blocks"
        if config.places.joint
        else f"before the text of the {' and '.join(config.stages)} blocks"
    )
    times = f", with {config.buckets} sets for parts of the time axis" if config.buckets is not None else ""
    lines = [
        f"{config.count} trained text tokens of width {config.token_width or config.width} for {backbone.title}, "
        f"{places}{times}: {count:,} parameters (SoftREPA). The model's own weights stay as they are.",
        "",
        "## Use",
        "",
        "```python",
        *_opened(base),
        *([] if "import longalign" in _opened(base) else ["import longalign", ""]),
        'tokens = longalign.SoftTokens.from_pretrained("THIS_FOLDER")',
        f"tokens.attach(pipe.{backbone.component}, scale=1.0)",
        *_DRAW,
        "```",
        "",
        f"or `longalign generate PROMPT --model {base or 'BASE'} --soft-tokens THIS_FOLDER`. In ComfyUI: the node pack "
        "in longalign's repository.",
    ]
    tags = ["soft-tokens", "softrepa", config.backbone, "text-to-image"]
    title = f"Soft tokens for {base or backbone.title}"
    return CardText(title, base, "adapter", "longalign", "text-to-image", tags, lines)


def preference_text(folder: Path, base: str) -> CardText | None:
    """The card of a preference model's folder (a `CLIPModel`); None for any other folder.

    Args:
        folder: on this machine.
        base: name of the model that it was trained from.

    Raises:
        LongalignError: its ``config.json`` or its calibration is damaged.
    """
    config = folder / "config.json"
    if not config.is_file() or not any(folder.glob("*.safetensors")):
        return None
    if read_json_object(config).get("model_type") != "clip":
        return None
    has = {name: (folder / name).is_file() for name in (_DECOMPOSITION, _HEAD, _CALIBRATION)}
    lines = [
        "It scores a picture against a text of any length, sentence by sentence (LongAlign, arXiv 2410.11817). The "
        "files are those of a `CLIPModel`.",
        "",
        "| part | |",
        "|---|---|",
        f"| V, what all texts have in common (scores `aligned` and `irrelevant`) | {_yes(has[_DECOMPOSITION])} |",
        f"| late head, which looks for each sentence in the picture's patches | {_yes(has[_HEAD])} |",
        f"| calibration, which calls sentences true, doubtful or false | {_yes(has[_CALIBRATION])} |",
    ]
    if has[_CALIBRATION]:
        lines += ["", *_calibrated(read_json_object(folder / _CALIBRATION))]
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "import longalign",
        "",
        'model = longalign.PreferenceModel.from_pretrained("THIS_FOLDER")',
        'scores = model.score("picture.png", "A fox sits on a log. Behind it stands a red barn.")',
        "scores.overall, [(segment.text, segment.best) for segment in scores.segments[0]]",
        "```",
        "",
        'or `longalign score picture.png --prompt "…" --model THIS_FOLDER`.',
    ]
    title = f"Preference model{f' from {base}' if base else ''}"
    tags = ["preference-model", "clip", "text-to-image"]
    return CardText(title, base, "finetune", "transformers", "zero-shot-image-classification", tags, lines)


def _yes(there: bool) -> str:
    return "yes" if there else "no"


def _calibrated(found: Mapping[str, Any]) -> list[str]:
    """What the calibration promises, and what was measured."""
    measured = found.get("measured") or {}
    text = (
        f"The calibration is of the {found.get('kind')} score and promises at most {found.get('error', 0.05):.0%} "
        "wrong verdicts."
    )
    if {"sentences", "wrong_true", "wrong_false", "doubtful"} <= set(measured):
        text += (
            f" Measured on {int(measured['sentences']):,} held-out sentences: {measured['wrong_true']:.1%} of those "
            f"called true and {measured['wrong_false']:.1%} of those called false were wrong; "
            f"{measured['doubtful']:.1%} were doubtful."
        )
    return [text]


def told(name: str) -> str:
    """A name without the folders of this machine.

    Args:
        name: a hub name, an embedded name or a path.
    """
    try:
        is_path = _is_absolute(name) or Path(name).exists()
    except (OSError, ValueError):  # text that is longer than a path may be
        return name
    if not name or not is_path:
        return name
    return PureWindowsPath(name).name if "\\" in name else Path(name).resolve().name


def shortened(value: Any) -> Any:
    """A recipe without the folders of this machine, and without the folder of the run.

    Args:
        value: the recipe, or a part of it.
    """
    if isinstance(value, Mapping):
        return {key: shortened(inner) for key, inner in value.items() if key != "out"}
    if isinstance(value, list | tuple):
        return [shortened(inner) for inner in value]
    return told(value) if isinstance(value, str) else value


def _is_absolute(name: str) -> bool:
    return PurePath(name).is_absolute() or PureWindowsPath(name).is_absolute() or name.startswith("~")
