"""A pipeline some of whose parts were trained, as a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longalign.worlds import resolve_model


def save_whole(pipe: Any, model_name: str, trained: Mapping[str, Any], folder: Path) -> None:
    """The model with its trained parts in place of its own, and all that lies beside it.

    Args:
        pipe: the pipeline, which is saved itself where ``model_name`` is no folder.
        trained: subfolder → part.
    """
    base = Path(resolve_model(model_name))
    if base.is_dir():  # settings, T5 branch and CLIP, too
        replaced = {*trained, "curves"}

        def left_out(where: str, names: list[str]) -> set[str]:
            return replaced & set(names) if Path(where) == base else set()

        shutil.copytree(base, folder, ignore=left_out, dirs_exist_ok=True)
    else:
        pipe.save_pretrained(folder)
    for name, part in trained.items():
        part.save_pretrained(folder / name)
