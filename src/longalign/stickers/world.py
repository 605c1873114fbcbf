"""The sticker world: scenes on a 3 × 3 grid, and their pictures.

A scene is a background colour and up to nine stickers, each perhaps on a coloured disc. It renders to
96 × 96 pixels: nine cells of 32 px, each cell exactly 2 × 2 latents of the sticker VAE (factor 16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# name in captions → name in the Fluent Emoji Flat set
KINDS: dict[str, str] = {
    "fox": "fox",
    "frog": "frog",
    "pig": "pig-face",
    "panda": "panda",
    "penguin": "penguin",
    "fish": "tropical-fish",
    "turtle": "turtle",
    "crab": "crab",
    "butterfly": "butterfly",
    "apple": "red-apple",
    "banana": "banana",
    "carrot": "carrot",
    "grape": "grapes",
    "doughnut": "doughnut",
    "mushroom": "mushroom",
    "sunflower": "sunflower",
    "cactus": "cactus",
    "tree": "evergreen-tree",
    "star": "star",
    "heart": "red-heart",
    "car": "automobile",
    "rocket": "rocket",
    "house": "house",
    "ghost": "ghost",
}
DISCS: dict[str, tuple[int, int, int]] = {
    "red": (226, 58, 58),
    "yellow": (250, 205, 60),
    "green": (64, 168, 84),
    "blue": (62, 120, 222),
    "purple": (146, 84, 190),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (248, 248, 246),
    "grey": (160, 164, 168),
    "beige": (232, 214, 180),
    "pink": (246, 190, 206),
    "navy": (34, 44, 84),
}
POSITIONS: tuple[str, ...] = (
    "top left",
    "top centre",
    "top right",
    "middle left",
    "middle",
    "middle right",
    "bottom left",
    "bottom centre",
    "bottom right",
)
CELL_PX = 32
SCENE_PX = 3 * CELL_PX
SPRITE_PX = 24
DISC_PX = 31
RIM_PX = 1.25  # the white rim of a sticker; without it a heart is lost on a red disc
RIM_COLOUR = (255, 255, 255)
SPRITE_SOURCE_PX = 96
_SUPERSAMPLING = 4
MAX_OBJECTS = len(POSITIONS)

KIND_NAMES: tuple[str, ...] = tuple(KINDS)
DISC_NAMES: tuple[str, ...] = tuple(DISCS)
BACKGROUND_NAMES: tuple[str, ...] = tuple(BACKGROUNDS)

# Seeds of different splits never meet: the split is the first word of numpy's seed sequence.
SPLITS: dict[str, int] = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True, slots=True)
class Sticker:
    """One object: its kind, the cell it stands in (index into `POSITIONS`), its disc's colour or None."""

    kind: str
    cell: int
    disc: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """A background colour and at most nine stickers in different cells."""

    background: str
    stickers: tuple[Sticker, ...]

    def at(self, cell: int) -> Sticker | None:
        """The sticker in a cell, or None where the cell is empty."""
        return next((s for s in self.stickers if s.cell == cell), None)


def scene(
    index: int,
    *,
    objects: tuple[int, int] = (1, 5),
    split: str = "train",
    seed: int = 0,
    kinds: Sequence[str] = KIND_NAMES,
    discs: bool = True,
) -> Scene:
    """Scene number `index` of a split. Kinds do not repeat; every second sticker has a disc.

    Args:
        index: which scene; the same arguments always give the same scene.
        objects: least and greatest number of stickers.
        split: `train`, `validation` or `test`.
        seed: another seed gives another series of scenes of that split.
        kinds: to choose from.
        discs: whether there are any.
    """
    rng = np.random.default_rng([SPLITS[split], seed, index])
    count = int(rng.integers(objects[0], objects[1] + 1))
    cells = rng.permutation(MAX_OBJECTS)[:count]
    chosen = rng.permutation(len(kinds))[:count]
    colours = rng.integers(0, 2 * len(DISC_NAMES), count)
    return Scene(
        background=BACKGROUND_NAMES[rng.integers(len(BACKGROUND_NAMES))],
        stickers=tuple(
            Sticker(kinds[k], int(c), DISC_NAMES[d] if discs and d < len(DISC_NAMES) else None)
            for c, k, d in zip(cells, chosen, colours, strict=True)
        ),
    )


@lru_cache(maxsize=1)
def sprites() -> dict[str, Image.Image]:
    """The RGBA pictures of all kinds, 96 × 96 px each."""
    with (files("longalign.stickers") / "assets/sprites.png").open("rb") as file:
        sheet = Image.open(file).convert("RGBA")
    px = SPRITE_SOURCE_PX
    return {k: sheet.crop((i * px, 0, (i + 1) * px, px)) for i, k in enumerate(KIND_NAMES)}


@lru_cache(maxsize=256)
def _layers(kind: str, side_px: int) -> tuple[Image.Image, Image.Image]:
    """A sticker in a square of so many pixels: its picture (RGBA), and the mask of picture and rim."""
    sprite_px = side_px * SPRITE_PX // CELL_PX
    place = ((side_px - sprite_px) // 2,) * 2
    picture = Image.new("RGBA", (side_px, side_px))
    picture.paste(sprites()[kind].resize((sprite_px, sprite_px), Image.Resampling.LANCZOS), place)
    if side_px != _SUPERSAMPLING * CELL_PX:  # the filter below takes long on large pictures
        return picture, _layers(kind, _SUPERSAMPLING * CELL_PX)[1].resize(picture.size)
    rim_px = round(RIM_PX * _SUPERSAMPLING)
    return picture, picture.getchannel("A").filter(ImageFilter.MaxFilter(2 * rim_px + 1))


def draw_cell(
    background: str, kind: str | None = None, disc: str | None = None, cell_px: int = CELL_PX
) -> Image.Image:
    """One cell at any size: background, disc, sticker. Drawn four times as large and reduced."""
    side_px = _SUPERSAMPLING * cell_px
    picture = Image.new("RGB", (side_px, side_px), BACKGROUNDS[background])
    if disc is not None:
        margin = side_px * (CELL_PX - DISC_PX) / CELL_PX / 2
        box = (margin, margin, side_px - margin, side_px - margin)
        ImageDraw.Draw(picture).ellipse(box, fill=DISCS[disc])
    if kind is not None:
        sprite, with_rim = _layers(kind, side_px)
        picture.paste(RIM_COLOUR, (0, 0), with_rim)
        picture.paste(sprite, (0, 0), sprite)
    return picture.resize((cell_px, cell_px), Image.Resampling.BOX)


@lru_cache(maxsize=1)
def cell_table() -> np.ndarray:
    """Every possible cell: uint8 (backgrounds, kinds + 1, discs + 1, 32, 32, 3).

    The last kind is "nothing", the last disc is "no disc"; nothing on a disc does not occur in scenes.
    """
    shape = (len(BACKGROUNDS), len(KINDS) + 1, len(DISCS) + 1, CELL_PX, CELL_PX, 3)
    table = np.empty(shape, np.uint8)
    for b, background in enumerate(BACKGROUND_NAMES):
        for k, kind in enumerate((*KIND_NAMES, None)):
            for d, disc in enumerate((*DISC_NAMES, None)):
                table[b, k, d] = np.asarray(draw_cell(background, kind, disc))
    return table


def render_array(scene: Scene, cell_px: int = CELL_PX) -> np.ndarray:
    """The picture of a scene: uint8 (3·cell_px, 3·cell_px, 3)."""
    pixels = np.empty((3, cell_px, 3, cell_px, 3), np.uint8)  # (row, y, column, x, rgb)
    pixels[:] = _cell(scene.background, None, None, cell_px)[None, :, None]
    for sticker in scene.stickers:
        row, column = divmod(sticker.cell, 3)
        pixels[row, :, column] = _cell(scene.background, sticker.kind, sticker.disc, cell_px)
    return pixels.reshape(3 * cell_px, 3 * cell_px, 3)


def _cell(background: str, kind: str | None, disc: str | None, cell_px: int) -> np.ndarray:
    if cell_px != CELL_PX:
        return np.asarray(draw_cell(background, kind, disc, cell_px))
    k = KIND_NAMES.index(kind) if kind else -1
    d = DISC_NAMES.index(disc) if disc else -1
    cell: np.ndarray = cell_table()[BACKGROUND_NAMES.index(background), k, d]
    return cell


def render(scene: Scene, cell_px: int = CELL_PX) -> Image.Image:
    """The picture of a scene as a PIL image."""
    return Image.fromarray(render_array(scene, cell_px))
