"""Ten prompts in blocks of four pictures, with pages above six; run as a program, it is killed at fixed moments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from killed import run_and_die

from longalign.data.prompts import read_prompts
from longalign.generation import GenerateConfig, Generation, generate, page, work
from longalign.weights.stack import load_pipeline

PROMPTS = "@stickers:10:objects=1-9"
QUICK = GenerateConfig(steps=1, batch_size=2, device="cpu")
LIMITS = ((work, "PICTURES", 4), (page, "ONE_PAGE", 6))  # for `setattr`


def small(out: Path, **options: Any) -> Generation:
    """Draws them; the limits have to be set."""
    return generate(read_prompts([PROMPTS]), QUICK, out=out, **options)


if __name__ == "__main__":
    for limit in LIMITS:
        setattr(*limit)
    folder, pipe = Path(sys.argv[1]), load_pipeline("stickers", device="cpu")
    run_and_die(lambda: small(folder, pipe=pipe), folder, map(int, sys.argv[2:]))
