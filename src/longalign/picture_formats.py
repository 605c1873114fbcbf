"""Which picture files can be read here: Pillow's formats, and those of plugins that are installed.

`pillow-heif` adds ``.heic`` (phones), `pillow-jxl-plugin` adds ``.jxl``. They are used where they are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path

from PIL import Image

# Formats of photographs and drawings. Pillow also reads icons, films and scientific data, which nobody captions.
_PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jxl", ".jp2", ".ppm", ".tga", ".qoi"),
)
_PLUGINS = {
    ".heic": ("pillow_heif", "pillow-heif"),
    ".heif": ("pillow_heif", "pillow-heif"),
    ".jxl": ("pillow_jxl", "pillow-jxl-plugin"),
}
# What lies beside pictures and is no picture that somebody may miss.
_NO_PICTURES = (
    *("", ".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".md", ".html", ".log"),
    *(".parquet", ".arrow", ".npy", ".npz", ".pt", ".safetensors", ".lock"),
)


@cache
def picture_suffixes() -> tuple[str, ...]:
    """The suffixes of picture files that can be read, lower case. Plugins are registered by the first call."""
    for module, _ in dict.fromkeys(_PLUGINS.values()):
        try:
            plugin = import_module(module)
        except ImportError:
            continue
        if hasattr(plugin, "register_heif_opener"):
            plugin.register_heif_opener()
    known = Image.registered_extensions()
    return tuple(suffix for suffix in _PICTURES if known.get(suffix) in Image.OPEN)


def is_picture(path: str | Path) -> bool:
    """Whether a file has the suffix of a picture that can be read."""
    return Path(path).suffix.lower() in picture_suffixes()


def left_out(files: Iterable[str | Path]) -> str | None:
    """One line about files that are no pictures which can be read here, by suffix; None where there are none.

    Captions, lists and other files that belong to data sets are not counted.
    """
    counts = Counter(Path(file).suffix.lower() for file in files)
    found = {
        suffix: n
        for suffix, n in sorted(counts.items())
        if suffix not in picture_suffixes() and suffix not in _NO_PICTURES
    }
    if not found:
        return None
    listed = ", ".join(f"{n:,} {suffix}{advice(suffix)}" for suffix, n in found.items())
    total = sum(found.values())
    return f"{total:,} file{'s' * (total != 1)} left out: {listed}"


def advice(suffix: str) -> str:
    """What to install for a suffix, in brackets; empty where that is not known."""
    suffix = suffix.lower()
    return f" (pip install {_PLUGINS[suffix][1]})" if suffix in _PLUGINS else ""
