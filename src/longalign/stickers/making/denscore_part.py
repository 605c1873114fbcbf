"""The embedded preference model as a part of `longalign stickers train`: a judge on pairs that are drawn as tensors.

It is what `longalign train stickers-denscore preference.head=late` does, with pairs a hundred times as
fast and some pictures that have gone through the VAE, whose look models' pictures have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longalign.preference import PreferenceModel, Preprocess
from longalign.preference.decomposition import Decomposition
from longalign.stickers import folder as model_folder
from longalign.stickers.making import tensors
from longalign.stickers.making.judge import Judge
from longalign.stickers.making.parts import Part
from longalign.stickers.making.rated_tensors import draw_pairs
from longalign.stickers.tokenizers import make_clip_tokenizer
from longalign.stickers.world import CELL_PX, DISC_NAMES, KIND_NAMES, SCENE_PX, cell_table

JITTERS = (
    0.0,
    0.1,
    0.2,
    0.35,
)  # noise on the latents, in their deviations: one version of all cells for each


class Denscore(Part):
    """Starts from the embedded CLIP. Held out are the raters' other splits."""

    batch_size = 192
    learning_rate = 5e-4
    asked = 6

    def __init__(self, device: torch.device, folder: Path) -> None:
        base = PreferenceModel.from_pretrained("stickers/clip", device=str(device), dtype="float32")
        self.tokenizer = make_clip_tokenizer()
        ids = self.tokenizer(tensors.table()).input_ids
        longest = max(map(len, ids))
        padded = torch.tensor([row + [self.tokenizer.eos_token_id] * (longest - len(row)) for row in ids])
        clip = base.clip.requires_grad_(True).train()
        self.module: Any = Judge(clip, padded, torch.tensor([len(row) for row in ids])).to(device)
        self.cells = torch.from_numpy(np.stack([cell_table(), *decoded_cells()])).to(device)

    def loss(
        self, numbers: Sequence[int], share: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """See `Part`. Pairs are drawn by torch, seeded from the step's random numbers."""
        torch.manual_seed(int(rng.integers(2**62)))
        loss, logged = self.module.loss(draw_pairs(self.batch_size, self.cells, asked=self.asked))
        return loss, {name: float(value.detach()) for name, value in logged.items()}

    def save(self, folder: Path) -> None:
        """A preference model's folder, with V of the running mean; `longalign calibrate` adds the calibration."""
        module = self.module
        v = Decomposition(module.total.detach().cpu().double(), 1, "")
        whole = PreferenceModel(module.clip, self.tokenizer, Preprocess(SCENE_PX), v, module.head)
        whole.save_pretrained(folder / "denscore")


@torch.no_grad()
def decoded_cells(seed: int = 0) -> list[np.ndarray]:
    """`world.cell_table` as the VAE draws it, once for each of `JITTERS`: what a model's pictures look like."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(model_folder() / "vae").float().eval()
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    clean = cell_table()
    nothing = (len(KIND_NAMES), len(DISC_NAMES))
    combinations = [(k, d) for k in range(nothing[0]) for d in range(nothing[1] + 1)] + [nothing]
    found = []
    for jitter in JITTERS:
        table = clean.copy()
        for ground in range(len(clean)):
            order = [combinations[i] for i in rng.permutation(len(combinations))]
            order += order[: -len(order) % 9]  # whole pictures of nine cells
            chunks = [order[i : i + 9] for i in range(0, len(order), 9)]
            cells = np.stack([[clean[ground, k, d] for k, d in chunk] for chunk in chunks])
            pictures = cells.reshape(-1, 3, 3, CELL_PX, CELL_PX, 3).swapaxes(2, 3)
            x = torch.from_numpy(pictures.reshape(-1, SCENE_PX, SCENE_PX, 3)).permute(0, 3, 1, 2)
            z = vae.encode(x.float() / 127.5 - 1).latent_dist.mean
            z = z + jitter * z.std() * torch.randn(z.shape, generator=generator)
            y = (
                ((vae.decode(z).sample / 2 + 0.5).clamp(0, 1) * 255)
                .round()
                .byte()
                .permute(0, 2, 3, 1)
                .numpy()
            )
            drawn = y.reshape(-1, 3, CELL_PX, 3, CELL_PX, 3).swapaxes(2, 3).reshape(-1, CELL_PX, CELL_PX, 3)
            for cell, (k, d) in zip(drawn, order, strict=True):
                table[ground, k, d] = cell
        found.append(table)
    return found
