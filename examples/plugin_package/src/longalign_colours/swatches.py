"""`source.swatches`: captioned pictures that are made when they are asked for.

longalign score --data swatches --model stickers
longalign cache swatches --out cached
"""

from PIL import Image

from longalign.data.entries import CaptionedPicture, Source

_COLOURS = ("red", "green", "blue", "yellow", "purple")


class Swatches(Source):
    """One picture of 96 px for each colour."""

    def __len__(self) -> int:
        return len(_COLOURS)

    def __getitem__(self, index: int) -> CaptionedPicture:
        colour = _COLOURS[index]
        picture = Image.new("RGB", (96, 96), colour)
        return CaptionedPicture(picture, f"A square of one colour. It is {colour}.", f"swatch {colour}")
