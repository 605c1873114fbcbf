"""Scenes, pictures, sentences and mistakes as tensors: thousands of them a second, on any device.

They are of the same distributions as `world.scene`, `captions.lie`, `changes.alter` and `looks.worsen`, which draw one
at a time; the random numbers are torch's and so other ones. Nothing here needs more than torch and the tables.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

GROUNDS, KINDS, DISCS, CELLS = 5, 24, 5, 9  # of `world`; the answer after the last is "none"
PHRASINGS, GROUND_PHRASINGS = 5, 3
PX = 32
GROUND = CELLS  # the cell of a fact about the background

FIRST_GROUND = KINDS * CELLS * (DISCS + 1) * PHRASINGS  # sentences about stickers come first in the table
FIRST_REFERRING = FIRST_GROUND + GROUNDS * GROUND_PHRASINGS
SENTENCES = FIRST_REFERRING + DISCS * GROUND_PHRASINGS

BLUR_PX, NOISE, WASHED, BLOCK_PX = 2.0, 60 / 255, 0.6, 4  # of `looks`, at strength 1
LOOKS = 4
DECODED = 0.4  # share of the pictures that look as if a model had drawn them


class Scenes(NamedTuple):
    """B scenes: (B,) ground, (B, 9) kind (24: nothing) and (B, 9) disc (5: none)."""

    ground: Tensor
    kind: Tensor
    disc: Tensor

    @property
    def occupied(self) -> Tensor:
        return self.kind < KINDS


class Facts(NamedTuple):
    """What sentences say, each of shape (B, M): the cell (9: the background), the kind (of the background: its
    colour), the disc (5: none is spoken of)."""

    cell: Tensor
    kind: Tensor
    disc: Tensor


def _pick(allowed: Tensor) -> Tensor:
    """One index of the last axis, uniformly among those allowed."""
    return torch.where(allowed, torch.rand(allowed.shape, device=allowed.device), -1.0).argmax(-1)


def _chance(shape: tuple[int, ...], share: float, like: Tensor) -> Tensor:
    return torch.rand(shape, device=like.device) < share


def draw_scenes(count: int, low: int, high: int, device: torch.device) -> Scenes:
    """See `world.scene`."""
    number = torch.randint(low, high + 1, (count, 1), device=device)
    there = torch.rand(count, CELLS, device=device).argsort(-1) < number
    kind = torch.rand(count, KINDS, device=device).argsort(-1)[:, :CELLS]
    disc = torch.randint(2 * DISCS, (count, CELLS), device=device).clamp_max(DISCS)
    ground = torch.randint(GROUNDS, (count,), device=device)
    return Scenes(ground, kind.where(there, KINDS), disc.where(there, DISCS))


# ---------------------------------------------------------------------------------------------------- pictures


def render(scenes: Scenes, cells: Tensor) -> Tensor:
    """Pictures (B, 3, 96, 96) in [0, 1].

    Args:
        cells: uint8 (V, 5, 25, 6, 32, 32, 3): `world.cell_table`, and V − 1 versions of it that the VAE has decoded. A
            picture is clean, or every cell of it is of one of these.
    """
    versions, count = len(cells), len(scenes.ground)
    version = torch.zeros(count, CELLS, dtype=torch.long, device=cells.device)
    if versions > 1:
        decoded = torch.randint(1, versions, (count, CELLS), device=cells.device)
        version = decoded.where(_chance((count, 1), DECODED, cells), version)
    x = cells[version, scenes.ground[:, None], scenes.kind, scenes.disc]  # (B, 9, 32, 32, 3)
    x = x.view(count, 3, 3, PX, PX, 3).permute(0, 5, 1, 3, 2, 4).reshape(count, 3, 3 * PX, 3 * PX)
    return x.float() / 255


def worsen(x: Tensor, look: Tensor, strength: Tensor) -> Tensor:
    """See `looks.worsen`: (B, 3, H, W) in [0, 1], (B,) which of the looks, (B,) strength from 0 to 1."""
    side, s = x.shape[-1], strength.view(-1, 1, 1, 1)
    place = torch.arange(side, device=x.device, dtype=torch.float32)
    distance = (place[:, None] - place).square()
    kernel = (-distance / (2 * (BLUR_PX * strength).clamp_min(0.05).square().view(-1, 1, 1))).exp()
    kernel = (kernel / kernel.sum(-1, keepdim=True))[:, None]  # (B, 1, H, H)
    mosaic = torch.nn.functional.avg_pool2d(x, BLOCK_PX)
    mosaic = mosaic.repeat_interleave(BLOCK_PX, -1).repeat_interleave(BLOCK_PX, -2)
    spoilt = (
        kernel @ x @ kernel.transpose(-1, -2),
        x + s * NOISE * torch.randn_like(x),
        x + s * WASHED * (x.mean((1, 2, 3), keepdim=True) - x),
        x + s * (mosaic - x),
    )
    chosen = torch.stack(spoilt, 1)[torch.arange(len(x), device=x.device), look]
    return (chosen * 255).round().clamp(0, 255) / 255


# --------------------------------------------------------------------------------------------------- sentences


def facts(scenes: Scenes) -> tuple[Facts, Tensor]:
    """All that a full caption says, (B, 10): nine cells and the background; and which of them there are."""
    count, device = len(scenes.ground), scenes.ground.device
    cell = torch.arange(CELLS + 1, device=device).expand(count, -1)
    kind = torch.cat([scenes.kind, scenes.ground[:, None]], 1)
    disc = torch.cat([scenes.disc, torch.full_like(scenes.ground[:, None], DISCS)], 1)
    there = torch.cat([scenes.occupied, torch.ones_like(scenes.ground[:, None], dtype=torch.bool)], 1)
    return Facts(cell, kind, disc), there


def some(stated: Facts, there: Tensor, number: Tensor, most: int) -> tuple[Facts, Tensor]:
    """At most ``number`` (B, 1) of the facts of each scene, drawn at random: (B, most), and which of them there are."""
    order = torch.rand(there.shape, device=there.device).where(there, 2.0).argsort(-1)[:, :most]
    kept = there.gather(1, order) & (torch.arange(most, device=there.device) < number)
    return Facts(*(field.gather(1, order) for field in stated)), kept


def without_discs(stated: Facts, share: float) -> Facts:
    """A share of the sentences leave the disc out."""
    silent = _chance(tuple(stated.disc.shape), share, stated.disc)
    return stated._replace(disc=stated.disc.masked_fill(silent, DISCS))


def true_of(stated: Facts, scenes: Scenes) -> Tensor:
    """(B, M): see `captions.is_true`."""
    cell = stated.cell.clamp_max(CELLS - 1)
    kind, disc = scenes.kind.gather(1, cell), scenes.disc.gather(1, cell)
    of_sticker = (kind == stated.kind) & ((stated.disc == DISCS) | (disc == stated.disc))
    return torch.where(stated.cell == GROUND, scenes.ground[:, None] == stated.kind, of_sticker)


def lies(stated: Facts, scenes: Scenes) -> Facts:
    """Facts that differ from true ones in one word and are false; see `captions.lie`.

    Beyond that, a sticker without a disc may be said to stand on one.
    """
    shape, device = stated.cell.shape, stated.cell.device
    on_ground = stated.cell == GROUND
    cell = stated.cell.clamp_max(CELLS - 1)
    bare = scenes.disc.gather(1, cell) == DISCS
    changes = torch.ones(*shape, 3, dtype=torch.bool, device=device)  # kind, cell, disc
    changes[..., 2] = (stated.disc < DISCS) | (bare & _chance(tuple(shape), 0.3, cell))
    change = _pick(changes)
    other_kind = (stated.kind + torch.randint(1, KINDS, shape, device=device)) % KINDS
    elsewhere = scenes.kind[:, None].expand(-1, shape[1], -1)  # (B, M, 9)
    present = (elsewhere < KINDS) & (elsewhere != stated.kind[..., None])
    swapped = elsewhere.gather(-1, _pick(present)[..., None]).squeeze(-1)
    swap = present.any(-1) & _chance(tuple(shape), 0.5, cell)
    kind = stated.kind.where(change != 0, swapped.where(swap, other_kind))
    moved = (cell + torch.randint(1, CELLS, shape, device=device)) % CELLS
    step = torch.randint(1, DISCS, shape, device=device)
    said = stated.disc < DISCS
    disc = torch.where(said, (stated.disc + step) % DISCS, torch.randint(DISCS, shape, device=device))
    ground = (stated.kind + step) % GROUNDS
    return Facts(
        stated.cell.where(on_ground, moved.where(change == 1, cell)),
        ground.where(on_ground, kind),
        stated.disc.where(on_ground, disc.where(change == 2, stated.disc)),
    )


def sentences(stated: Facts) -> Tensor:
    """(B, M) numbers of the sentences that say so, in random phrasings; see `table`."""
    shape, device = stated.cell.shape, stated.cell.device
    on_ground = stated.cell == GROUND
    kind, cell = stated.kind.clamp_max(KINDS - 1), stated.cell.clamp_max(CELLS - 1)
    sticker = ((kind * CELLS + cell) * (DISCS + 1) + stated.disc) * PHRASINGS
    ground = FIRST_GROUND + stated.kind.clamp_max(GROUNDS - 1) * GROUND_PHRASINGS
    return torch.where(
        on_ground,
        ground + torch.randint(GROUND_PHRASINGS, shape, device=device),
        sticker + torch.randint(PHRASINGS, shape, device=device),
    )


def referring(disc: Tensor) -> Tensor:
    """Numbers of sentences that say of "it" only that it is on a disc."""
    return (
        FIRST_REFERRING
        + disc * GROUND_PHRASINGS
        + torch.randint(GROUND_PHRASINGS, disc.shape, device=disc.device)
    )


def table() -> list[str]:
    """Every sentence, by its number."""
    from longalign.stickers import captions
    from longalign.stickers.world import BACKGROUND_NAMES, DISC_NAMES, KIND_NAMES, POSITIONS

    found = []
    for kind in KIND_NAMES:
        article = "an" if kind[0] in "aeiou" else "a"
        for place in POSITIONS:
            for disc in (*DISC_NAMES, None):
                forms = captions.ON_DISC if disc else captions.PLAIN
                found += [
                    text.format(a=article, A=article.capitalize(), kind=kind, place=place, disc=disc)
                    for text in forms
                ]
    found += [text.format(background=name) for name in BACKGROUND_NAMES for text in captions.BACKGROUND]
    return found + [text.format(disc=name) for name in DISC_NAMES for text in captions.REFERRING]


# ---------------------------------------------------------------------------------------------------- mistakes


def alter(scenes: Scenes, cells: Tensor, ground: Tensor) -> Scenes:
    """Scenes after one change each; see `changes.alter`.

    Args:
        cells: (B, 9) where to make it; where none of them is occupied, anywhere.
        ground: (B,) may the background be repainted?
    """
    occupied = scenes.occupied
    number = occupied.sum(-1)
    here = occupied & cells
    here = here | (occupied & ~here.any(-1, keepdim=True))
    at = _pick(here)[:, None]  # (B, 1)
    kind, disc = scenes.kind.gather(1, at), scenes.disc.gather(1, at)
    alone = number == 1
    possible = torch.stack(  # swap, move, remove, recolour, replace, repaint
        [~alone, number < CELLS, ~alone, disc[:, 0] < DISCS, torch.ones_like(alone), ground], -1
    )
    change = _pick(possible)[:, None]
    swap, move, remove, recolour, new, repaint = (change == i for i in range(6))
    other = _pick(occupied.scatter(1, at, False))[:, None]
    empty = _pick(~occupied)[:, None]
    nothing, none = torch.full_like(kind, KINDS), torch.full_like(disc, DISCS)
    absent = torch.ones(len(kind), KINDS + 1, dtype=torch.bool, device=kind.device)
    absent = absent.scatter(1, scenes.kind, False)[:, :KINDS]
    step = torch.randint(1, DISCS, disc.shape, device=disc.device)
    there_kind, there_disc = scenes.kind.gather(1, other), scenes.disc.gather(1, other)
    here_kind = torch.where(swap, there_kind, torch.where(move | remove, nothing, kind))
    here_kind = torch.where(new, _pick(absent)[:, None], here_kind)
    here_disc = torch.where(swap, there_disc, torch.where(move | remove, none, disc))
    here_disc = torch.where(recolour, (disc + step) % DISCS, here_disc)
    target = torch.where(swap, other, torch.where(move, empty, at))
    moves = swap | move
    kinds, discs = scenes.kind.scatter(1, at, here_kind), scenes.disc.scatter(1, at, here_disc)
    kinds = kinds.scatter(1, target, torch.where(moves, kind, here_kind))
    discs = discs.scatter(1, target, torch.where(moves, disc, here_disc))
    painted = (scenes.ground + torch.randint(1, GROUNDS, scenes.ground.shape, device=kind.device)) % GROUNDS
    return Scenes(painted.where(repaint[:, 0], scenes.ground), kinds, discs)
