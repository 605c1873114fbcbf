"""Captioned pictures on disk, in the layouts that people have."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from longalign.data.entries import CaptionedPicture, Failure, Source

COLOURS = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255)}


def png(colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(folder: Path) -> Path:
    """a.png, b.png and c.png of one colour each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, colour in COLOURS.items():
        (folder / f"{name}.png").write_bytes(png(colour))
    return folder


def imagefolder_jsonl(path: Path) -> Path:
    rows = [{"file_name": f"{n}.png", "text": f"Text {n}."} for n in COLOURS]
    (pictures(path) / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


class Some(Source):
    """Rows by number; those in ``bad`` cannot be read, and those in ``empty`` have a caption of blanks."""

    def __init__(
        self, count: int, bad: frozenset[int] = frozenset(), empty: frozenset[int] = frozenset()
    ) -> None:
        self.count, self.bad, self.empty = count, bad, empty

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        data = b"no picture" if index in self.bad else png((index, 0, 0))
        return CaptionedPicture(data, " " if index in self.empty else f"text {index}", f"row {index}")
