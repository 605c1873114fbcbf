"""Small copies of picture files for pages that show many pictures. The pictures themselves stay where they are."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from longalign.picture_formats import advice, picture_suffixes
from longalign.runs import atomic_write_bytes

THUMBNAIL_PX = 192  # the longest side
QUALITY = 85  # of JPEG
_AS_THEY_ARE = ("PNG", "JPEG", "WEBP", "GIF")  # every browser shows these
_ORIENTATION = 0x0112  # the EXIF tag
_MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)  # beyond this Pillow refuses on its own


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """What a page shows of a picture file. The links are relative to the folder of the report.

    Attributes:
        link: to the picture itself; empty where there is none.
        source: link to what the page shows: the thumbnail, or a small picture itself; empty where there is a problem.
        width, height: of what is shown, in pixels.
        problem: why nothing can be shown; empty where something is.
    """

    link: str
    source: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


class Thumbnails:
    """Thumbnails in a folder beside a report: ``Thumbnails(folder).of(file)``.

    They are JPEG files, at most `THUMBNAIL_PX` on a side, on white, named after the picture's path relative to
    `folder`. One that is newer than its picture is kept. Pictures that are no larger than a thumbnail are shown
    themselves. Methods may be called from several threads.

    Args:
        folder: of the report; thumbnails go into its folder ``thumbnails``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))
        picture_suffixes()  # registers plugins

    def of(self, file: Path) -> ShownPicture:
        """What to show of a picture file. A missing or broken one is no error: the result says what is wrong.

        Args:
            file: the picture; a relative path starts at the current folder.

        Raises:
            LongalignError: the thumbnail cannot be written.
        """
        try:
            relative = PurePath(os.path.relpath(os.path.abspath(file), self.folder)).as_posix()
        except ValueError:
            return ShownPicture("", problem="on another drive than the report")
        link = quote(os.fsencode(relative))
        name = hashlib.sha256(f"{THUMBNAIL_PX} {QUALITY} ".encode() + os.fsencode(relative)).hexdigest()[:20]
        source = f"thumbnails/{name[:2]}/{name[2:]}.jpg"
        thumbnail = self.folder / source
        try:
            kept = self._kept(thumbnail, file)
            if kept is not None:
                return ShownPicture(link, source, *kept)
            made = _made(file)
        except FileNotFoundError:
            return ShownPicture("", problem="no such file")
        except Exception as error:  # damaged files make decoders raise nearly anything
            return ShownPicture(link, problem=_reason(error, file))
        if isinstance(made, tuple):
            return ShownPicture(link, link, *made)
        buffer = io.BytesIO()
        made.save(buffer, "JPEG", quality=QUALITY)
        atomic_write_bytes(thumbnail, buffer.getvalue())
        return ShownPicture(link, source, *made.size)

    @staticmethod
    def _kept(thumbnail: Path, file: Path) -> tuple[int, int] | None:
        """The size of a whole thumbnail that is newer than its picture; None: it has to be made."""
        changed = os.stat(file).st_mtime_ns
        try:
            if os.stat(thumbnail).st_mtime_ns <= changed:
                return None
            with Image.open(thumbnail) as image:
                return image.size
        except OSError:
            return None


def _made(file: Path) -> Image.Image | tuple[int, int]:
    """The thumbnail; or the size of a picture that needs none. It is decoded in either case, so damage shows."""
    with Image.open(file) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise Image.DecompressionBombError
        small = max(image.size) <= THUMBNAIL_PX
        upright = image.getexif().get(_ORIENTATION, 1) == 1
        if small and upright and image.format in _AS_THEY_ARE and image.mode in ("L", "P", "RGB", "RGBA"):
            image.load()
            return image.size
        # A JPEG is decoded at a fraction of its size, and halving by boxes leaves the filter little to do.
        image.draft("RGB", (2 * THUMBNAIL_PX, 2 * THUMBNAIL_PX))
        shown = _rgb(image)
        shown.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC, reducing_gap=1.5)
        exif = image.getexif()
        if not upright:
            shown.getexif()[_ORIENTATION] = exif[_ORIENTATION]
            shown = ImageOps.exif_transpose(shown)
        return shown


def _rgb(image: Image.Image) -> Image.Image:
    """RGB on white; 16 bits become 8, and floating-point numbers are taken to be within their own range."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        low, high = (0.0, 65535.0) if image.mode != "F" else (float(values.min()), float(values.max()))
        levels = (values.clip(low, high) - low) / ((high - low) or 1.0)
        return Image.fromarray((255 * levels).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception, file: Path) -> str:
    """Why a picture cannot be shown, without its path."""
    if isinstance(error, UnidentifiedImageError):
        empty = os.path.getsize(file) == 0
        return "the file is empty" if empty else f"no picture that can be read here{advice(file.suffix)}"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: more than {_MOST_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return f"damaged: {error or type(error).__name__}"
