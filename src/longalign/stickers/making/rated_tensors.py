"""Rated pairs as tensors: what `raters.RaterPairs` draws one at a time, a batch at once on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from longalign.stickers.making.tensors import (
    CELLS,
    DISCS,
    GROUND,
    LOOKS,
    Facts,
    Scenes,
    alter,
    draw_scenes,
    facts,
    lies,
    referring,
    render,
    sentences,
    some,
    true_of,
    without_discs,
    worsen,
)

W_TRUTH, W_LOOKS, TIE = 8.0, 6.0, 0.3  # of `raters.Raters`
CLEAN, FOCUS, SIBLINGS, MOST_STATED, MOST_CHANGES = 1 / 3, 0.75, 0.4, 5, 3
SILENT = 0.25  # share of the sentences that do not speak of a disc that is there


class Rated(NamedTuple):
    """B pairs; of the 2B pictures all a stand before all b.

    Attributes:
        image: (2B, 3, 96, 96) in [0, 1].
        preferred: (B,) 1, ½ or 0.
        prompt, prompt_there: (B, 5) sentences, and which of them there are.
        prompt_true: (2B, 5) are they true of the pictures?
        caption, caption_there: (B, 10) sentences of the preferred picture's caption; of a tie, of either picture's.
        asked, asked_true: (2B, M) sentences to be asked of each picture, half of them lies in one word.
        truth, looks: (2B,) the pictures' known factors.
    """

    image: Tensor
    preferred: Tensor
    prompt: Tensor
    prompt_there: Tensor
    prompt_true: Tensor
    caption: Tensor
    caption_there: Tensor
    asked: Tensor
    asked_true: Tensor
    truth: Tensor
    looks: Tensor


def _where(chosen: Tensor, a: Scenes, b: Scenes) -> Scenes:
    wide = chosen[:, None]
    return Scenes(a.ground.where(chosen, b.ground), a.kind.where(wide, b.kind), a.disc.where(wide, b.disc))


def _mistaken(shown: Scenes, stated: Facts, there: Tensor) -> Scenes:
    """One mistake, most often in what the prompt speaks of."""
    count, device = there.shape[0], there.device
    focused = torch.rand(count, device=device) < FOCUS
    place = torch.arange(CELLS + 1, device=device)
    spoken = ((stated.cell[..., None] == place) & there[..., None]).any(1)  # (B, 10)
    spoken = spoken | ~focused[:, None]
    return alter(shown, spoken[:, :CELLS], spoken[:, GROUND])


def draw_pairs(count: int, cells: Tensor, *, asked: int = 6, objects: tuple[int, int] = (2, 9)) -> Rated:
    """``count`` pairs. The random numbers are torch's own.

    Args:
        cells: see `tensors.render`; its device is where everything is made.
        asked: M, an even number.
    """
    device = cells.device
    wanted = draw_scenes(count, *objects, device)
    all_facts, there = facts(wanted)
    number = torch.randint(2, MOST_STATED + 1, (count, 1), device=device)
    stated, stated_there = some(without_discs(all_facts, SILENT), there, number, MOST_STATED)

    def version(shown: Scenes) -> tuple[Scenes, Tensor, Tensor]:
        changes = torch.randint(MOST_CHANGES + 1, (count,), device=device)
        for i in range(MOST_CHANGES):
            shown = _where(changes > i, _mistaken(shown, stated, stated_there), shown)
        strength = torch.rand(count, device=device)
        strength = strength.masked_fill(torch.rand(count, device=device) < CLEAN, 0.0)
        return shown, torch.randint(LOOKS, (count,), device=device), strength

    a, look_a, strength_a = version(wanted)
    b, look_b, strength_b = version(wanted)
    sibling = torch.rand(count, device=device) < SIBLINGS
    b = _where(sibling, _mistaken(a, stated, stated_there), b)
    look_b, strength_b = look_a.where(sibling, look_b), strength_a.where(sibling, strength_b)

    both = Scenes(*(torch.cat(pair) for pair in zip(a, b, strict=True)))
    strength, look = torch.cat([strength_a, strength_b]), torch.cat([look_a, look_b])
    twice = Facts(*(torch.cat([field, field]) for field in stated))
    prompt_true = true_of(twice, both)
    there2 = torch.cat([stated_there, stated_there])
    truth = (prompt_true & there2).sum(-1) / there2.sum(-1)
    # Gumbel noise on each utility, as `Raters.rate`
    gumbel = -(-torch.rand(2 * count, device=device).clamp_min(1e-9).log()).log()
    u_a, u_b = (W_TRUTH * truth - W_LOOKS * strength + gumbel).chunk(2)
    preferred = (u_a > u_b).float().masked_fill((u_a - u_b).abs() < TIE, 0.5)

    of_a = (preferred == 1) | ((preferred == 0.5) & (torch.rand(count, device=device) < 0.5))
    caption, caption_there = facts(_where(of_a, a, b))
    asked_now, asked_true = _questions(both, asked)
    return Rated(
        worsen(render(both, cells), look, strength),
        preferred,
        sentences(stated),
        stated_there,
        prompt_true,
        sentences(without_discs(caption, SILENT)),
        caption_there,
        asked_now,
        asked_true,
        truth,
        -strength,
    )


def _questions(shown: Scenes, asked: int) -> tuple[Tensor, Tensor]:
    """(2B, M) sentences about pictures, true and false by turns, and which are true."""
    half = asked // 2
    everything, there = facts(shown)
    ten = torch.full_like(shown.ground[:, None], CELLS + 1)
    true, kept = some(without_discs(everything, SILENT), there, ten, half)
    first = Facts(
        *(field[:, :1].expand(-1, half) for field in true)
    )  # scenes of few stickers are asked again
    true = Facts(*(f.where(kept, g) for f, g in zip(true, first, strict=True)))
    false = lies(true, shown)
    said = torch.cat([sentences(true), sentences(false)], 1)
    right = torch.cat([torch.ones_like(true.cell), torch.zeros_like(true.cell)], 1).bool()
    # Of "it" nothing is known without the sentence before: the answer to learn is how many stand on such a disc.
    standing, disc = shown.disc < DISCS, shown.disc
    chosen = torch.rand(disc.shape, device=disc.device).where(standing, -1.0).argmax(-1, keepdim=True)
    colour = disc.gather(1, chosen).clamp_max(DISCS - 1)
    other = (colour + torch.randint(1, DISCS, colour.shape, device=disc.device)) % DISCS
    honest = torch.rand(colour.shape, device=disc.device) < 0.5
    it = standing.any(-1, keepdim=True) & (torch.rand(colour.shape, device=disc.device) < 0.2)
    said = torch.cat([referring(colour.where(honest, other)).where(it, said[:, :1]), said[:, 1:]], 1)
    right = torch.cat([honest.where(it, right[:, :1]), right[:, 1:]], 1)
    return said, right
