"""What a picture has too many or too few of, counted by the oracle."""

from __future__ import annotations

from longalign.stickers.captions import Fact
from longalign.stickers.oracle import Reading
from longalign.stickers.world import Scene


def object_counts(reading: Reading, drawn: Scene) -> dict[str, int]:
    """What a picture has too many or too few of.

    An object is a cell of which the oracle calls it true that a sticker of some kind stands there, whatever its disc.
    So a disc alone is none, nor is a blur that might be a sticker, and a cell has one object at the most.

    Args:
        reading: of the picture.
        drawn: the scene that it should show, in which no kind occurs twice.

    Returns:
        surplus: objects in cells that the scene leaves empty; 0 to 9 − stickers.
        repeated: those among them whose kind the scene has in another cell: a sticker twice, or moved.
        copies: objects beyond the first of their kind, in any cell, also in place of another sticker.
        missing: kinds of the scene that are in no cell.
    """
    seen = [
        kind if kind and reading.judge(Fact(kind=kind, cell=cell)) == "true" else None
        for cell, kind in enumerate(reading.kinds())
    ]
    kinds = [kind for kind in seen if kind is not None]
    asked = {sticker.kind for sticker in drawn.stickers}
    surplus = [kind for cell, kind in enumerate(seen) if kind is not None and drawn.at(cell) is None]
    return {
        "surplus": len(surplus),
        "repeated": sum(kind in asked for kind in surplus),
        "copies": len(kinds) - len(set(kinds)),
        "missing": len(asked - set(kinds)),
    }
