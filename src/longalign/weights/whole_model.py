"""Saves a pipeline with trained parts as a whole model folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longalign.worlds import resolve_model


def save_whole(pipe: Any, model_name: str, trained: Mapping[str, Any], folder: Path) -> None:
    """Write a model folder with trained parts in place of the model's own. Other files of the model's folder are
    copied.

    Args:
        pipe: the pipeline; it is saved itself if ``model_name`` is not a folder.
        model_name: folder or name of the model.
        trained: subfolder → trained part.
        folder: folder to write.
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
