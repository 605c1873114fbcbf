"""`longalign train` of the sticker model, small: a script for one process or two.

Usage: sharded_run.py OUT STEPS SHARD [KEY=VALUE …]. Prints a line of JSON: numbers of the frozen weights, whole and in
this process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

SMALL = {
    "train.batch_size": 4,
    "train.micro_batch_size": 2,
    "train.warmup_steps": 1,
    "train.ema": 0.9,
    "train.tracker": "none",
    "train.precision": "no",
    "train.checkpoint_every_steps": 1,
    "train.evaluate_every": 0,
    "supervised.noisings": 1,
    "supervised.length": 16,
    "supervised.oracle_scenes": 3,
    "supervised.sample_pictures": 2,
    "data.objects": [[1, 9]],
    "data.held_out_count": 5,
}


def recipe(steps: int, shard: str, more: list[str]) -> Any:
    """The recipe: captions of one to nine stickers, padded to multiples of 16 tokens, so lengths differ in a batch."""
    from longalign.recipes import recipe_file
    from longalign.training.recipe import read_recipe

    told = [f"{name}={json.dumps(value)}" for name, value in SMALL.items()]
    return read_recipe(
        recipe_file("stickers-sft"), [*told, f"train.steps={steps}", f"train.shard={shard}", *more]
    )


def main() -> None:
    """Trains, and says how much of the frozen weights this process holds."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    from longalign.training import fit
    from longalign.training import step as step_module

    seen: dict[str, Any] = {}
    build = step_module.build_task

    def watched(*arguments: Any) -> Any:
        task, weights = build(*arguments)
        module = next(iter(task.objective.modules().values()))
        frozen = [p for p in module.parameters() if not p.requires_grad]
        seen["whole"] = sum(p.numel() for p in frozen)
        seen["here"] = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in frozen)
        return task, weights

    import longalign.training.loop as loop

    loop.build_task = watched
    out, steps, shard, *more = sys.argv[1:]
    fit(recipe(int(steps), shard, more), Path(out))
    print(json.dumps(seen))
    from longalign.training.processes import leave_group

    leave_group()


if __name__ == "__main__":
    main()
