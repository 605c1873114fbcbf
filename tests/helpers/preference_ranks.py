"""A preference objective on two batches, in one process or in two that share them (gloo).

Run as a script it writes what rank 0 and rank 1 got into a folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tiny_clip import IMAGE_PX, tiny_clip, tokenizer

from longalign.objectives import BuildContext
from longalign.objectives.preference.objective import PreferenceObjective
from longalign.objectives.preference.settings import PreferenceSettings
from longalign.preference import PreferenceModel, Preprocess
from longalign.stickers.raters import RaterPairs, Raters

BATCHES = (range(0, 8), range(8, 16))
RANKS = 2


def make(rank: int = 0, ranks: int = 1) -> PreferenceObjective:
    """seg-o with a running V that soon forgets, in float64, on pairs with many ties."""
    model = PreferenceModel(tiny_clip().double(), tokenizer(), Preprocess(IMAGE_PX))
    settings = PreferenceSettings(loss="seg-o", v_horizon_texts=16)
    context = BuildContext(model.device, process_index=rank, num_processes=ranks)
    pairs, held_out = (
        RaterPairs(n, split, raters=Raters(tie=2)) for n, split in ((16, "train"), (11, "validation"))
    )
    return PreferenceObjective(model, settings, pairs, held_out, 11, context)


def run(
    objective: PreferenceObjective, accelerator: Any, batches: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """Loss and gradient of the last batch, V after it, and what evaluation says."""
    for batch in batches:
        objective.model.clip.zero_grad()
        metrics = objective.backward(objective.collate([objective.data[i] for i in batch]), accelerator)
    gradients = [p.grad.flatten() for p in objective.model.clip.parameters() if p.grad is not None]
    return {
        "loss": torch.as_tensor(metrics["loss"]),
        "gradient": torch.cat(gradients),
        "v": objective._text_mean.v,
        "evaluation": torch.tensor(list(objective.evaluate(accelerator).values())),
    }


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS))
    os.environ.update(
        MASTER_ADDR="localhost", MASTER_PORT="0"
    )  # accelerate wants them; the file is what is used
    store = f"file://{folder / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == RANKS
    share = [list(batch)[rank * len(batch) // RANKS :][: len(batch) // RANKS] for batch in BATCHES]
    torch.save(run(make(rank, RANKS), accelerator, share), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    # Forked after the imports, which take longest, and before any backward pass, after which one must not fork.
    context = torch.multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank, Path(sys.argv[1]))) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(process.exitcode != 0 for process in processes))
