"""README.md of a LoRA folder: the model card that hubs show.

Its front matter holds what is known: base model, library, tags. The licence is left to the user.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from longalign.runs import atomic_write_text
from longalign.weights.encoding_note import recorded_encoding
from longalign.weights.lora_file import FILE_NAME, TEXT_ENCODERS, LoraFile
from longalign.worlds import owner

CARD = "README.md"


def write_card(
    folder: str | os.PathLike[str],
    *,
    base_name: str = "",
    made: str,
    recipe: Mapping[str, Any] | None = None,
) -> Path | None:
    """Write the model card of a LoRA folder. A card that is there already stays, since its user may have written it.

    Args:
        folder: a folder with a LoRA in diffusers' layout; any other is left as it is.
        base_name: the model, as `longalign.load_pipeline` names it. Of a path on this machine only the last part is
            told. Empty: the name in the LoRA's fingerprint, if any.
        made: how it was made, in a sentence.
        recipe: what it was trained by; paths in it are shortened likewise.

    Returns:
        the path of the card; None if nothing was written.

    Raises:
        LongalignError: the LoRA is damaged, or the disk refuses.
    """
    folder = Path(folder)
    path = folder / CARD
    if path.exists() or not (folder / FILE_NAME).is_file():
        return None
    file = LoraFile.read(folder)
    base = _told(base_name) or (file.base.name if file.base is not None else "")
    data = ModelCardData(
        base_model=base if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) else None,  # what hubs accept
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["lora", "text-to-image"],
    )
    text = "\n".join(_body(folder, file, base, made, recipe))
    atomic_write_text(path, str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")))
    return path


def _body(folder: Path, file: LoraFile, base: str, made: str, recipe: Mapping[str, Any] | None) -> list[str]:
    changed = [
        file.component,
        *(name for name in TEXT_ENCODERS if (folder / name / FILE_NAME).is_file()),
    ]
    model = base or "BASE"
    encoding = recorded_encoding([folder])
    opened = [
        "from diffusers import DiffusionPipeline",
        "",
        f'pipe = DiffusionPipeline.from_pretrained("{model}")',
    ]
    if base and owner(base) is not None:  # embedded, which diffusers does not find
        opened = ["import longalign", "", f'pipe = longalign.load_pipeline("{model}")']
    lines = [
        f"# LoRA for {base or 'a text-to-image model'}",
        "",
        made,
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
        'conditioning = longalign.encode(pipe, "A prompt of any length.")',
        "image = pipe(**conditioning.pipeline_kwargs()).images[0]",
        "```",
        "",
        f"or `longalign generate PROMPT --model {model} --lora THIS_FOLDER`. With diffusers:",
        "",
        "```python",
        *opened,
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
    if recipe is not None:
        shown = yaml.safe_dump(_shortened(recipe), sort_keys=False, allow_unicode=True).rstrip()
        lines += ["", "## Recipe", "", "```yaml", shown, "```"]
    return lines


def _told(name: str) -> str:
    """A name without the folders of this machine."""
    try:
        is_path = _is_absolute(name) or Path(name).exists()
    except (OSError, ValueError):  # text that is longer than a path may be
        return name
    if not name or not is_path:
        return name
    return PureWindowsPath(name).name if "\\" in name else Path(name).resolve().name


def _shortened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shortened(inner) for key, inner in value.items() if key != "out"}
    if isinstance(value, list | tuple):
        return [_shortened(inner) for inner in value]
    return _told(value) if isinstance(value, str) else value


def _is_absolute(name: str) -> bool:
    return PurePath(name).is_absolute() or PureWindowsPath(name).is_absolute() or name.startswith("~")
