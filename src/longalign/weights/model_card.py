"""README.md of a folder of trained weights: the model card that hubs show.

It is written for LoRAs, soft tokens and preference models. Such a folder can be uploaded as it is::

    longalign train RECIPE --out runs/mine
    hf upload OWNER/NAME runs/mine/model

The front matter holds what is known: base model, library, tags. The licence is ``unknown`` unless it is given:
``write_card(folder, license="apache-2.0", overwrite=True)``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from longalign.errors import LongalignError
from longalign.runs import atomic_write_text
from longalign.weights.card_texts import CardText, lora_text, preference_text, token_text
from longalign.weights.card_texts import shortened as _shortened
from longalign.weights.card_texts import told as _told

CARD = "README.md"
UNKNOWN_LICENCE = "unknown"  # one of the hub's identifiers
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def write_card(
    folder: str | os.PathLike[str],
    *,
    base_name: str = "",
    made: str = "",
    recipe: Mapping[str, Any] | None = None,
    license: str = UNKNOWN_LICENCE,
    overwrite: bool = False,
) -> Path | None:
    """Write the model card of a folder. A card that is there already stays, since its user may have written it.

    Args:
        folder: a folder with a LoRA in diffusers' layout, with soft tokens, or with a preference model (a `CLIPModel`);
            any other is left as it is.
        base_name: the model, as `longalign.load_pipeline` names it, or the model that a preference model was trained
            from. Of a path on this machine only the last part is told. Empty: the name that the weights' own metadata
            holds, if any.
        made: how it was made, in a sentence.
        recipe: what it was trained by; paths in it are shortened likewise.
        license: an identifier of the hub, such as ``apache-2.0`` or ``openrail++``.
        overwrite: replace a card that is there.

    Returns:
        the path of the card; None if nothing was written.

    Raises:
        LongalignError: the weights are damaged, the licence is no identifier, or the disk refuses.
    """
    if not _IDENTIFIER.fullmatch(license):
        raise LongalignError(
            f"license {license!r}: give an identifier of the hub, in small letters, such as apache-2.0 or openrail++"
        )
    folder = Path(folder)
    path = folder / CARD
    if path.exists() and not overwrite:
        return None
    told = _told(base_name)
    text: CardText | None = None
    for kind in (lora_text, token_text, preference_text):
        text = text or kind(folder, told)
    if text is None:
        return None
    data = ModelCardData(
        base_model=text.base if _HUB_NAME.fullmatch(text.base) else None,  # what hubs accept
        base_model_relation=text.relation if _HUB_NAME.fullmatch(text.base) else None,
        library_name=text.library,
        pipeline_tag=text.pipeline_tag,
        license=license,
        tags=list(text.tags),
    )
    lines = [f"# {text.title}", ""] + ([made, ""] if made else []) + text.lines
    if recipe is not None:
        shown = yaml.safe_dump(_shortened(recipe), sort_keys=False, allow_unicode=True).rstrip()
        lines += ["", "## Recipe", "", "```yaml", shown, "```"]
    body = "\n".join(lines)
    atomic_write_text(path, str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")))
    return path
