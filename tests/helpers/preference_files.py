"""Preference pairs as a JSONL file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

ROW = {
    "image_a": "pictures/a.png",
    "image_b": "pictures/b.png",
    "preferred": 1,
    "prompt": "A fox.",
    "caption_a": "A fox sits. It is red.",
    "caption_b": "A pig.",
}


def picture(value: int, size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.new("RGB", size, (value, 0, 255))


def write(folder: Path, *rows: Any) -> Path:
    (folder / "pictures").mkdir(exist_ok=True)
    picture(10).save(folder / "pictures/a.png")
    picture(20, (3, 5)).save(folder / "pictures/b.png")
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path
