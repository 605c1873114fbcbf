"""Pictures of three shapes, for buckets of side 32 and step 8: square, wide and high in turn."""

from __future__ import annotations

from captioned_files import Some, png
from picture_objectives import SIDE_PX, TEXTS

from longalign.data.buckets import Assignment, Buckets
from longalign.data.captioned import CaptionedPictures
from longalign.data.entries import CaptionedPicture, Failure

# Height × width: 64 × 64 to 32 × 32 at ½; 45 × 60 to 24 × 40 at ⅔, where it is 30 high, so 3 are cut off at the top;
# 80 × 48 to 40 × 24 at ½.
SIZES = ((64, 64), (45, 60), (80, 48))
BUCKETS = Buckets(SIDE_PX, 8)


class Framed(Some):
    """Row i has the shape i mod 3, a colour of its own, and a caption of one of two padded lengths."""

    def __getitem__(self, index: int) -> CaptionedPicture | Failure:
        size = SIZES[index % 3][::-1]
        return CaptionedPicture(
            png((40 * index % 256, 90, 200), size), f"{index}. {TEXTS[index % 4]}", f"row {index}"
        )


def framed(count: int) -> CaptionedPictures:
    source = Framed(count)
    return CaptionedPictures(source, SIDE_PX, "framed", Assignment.of(source, BUCKETS))
