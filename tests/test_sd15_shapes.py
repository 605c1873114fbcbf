"""The commands run on a model of SD1.5's shapes, with less than 12 GB of memory each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from clip_vocab import clip_tokenizer_or_skip

from sd15_shapes import commands, make_folder, make_pictures, run

MOST_GB = 12.0
SIZE_PX = 64  # the weights have SD1.5's shapes at any size


@pytest.mark.slow
def test_commands_on_sd15_shapes(tmp_path: Path) -> None:
    """Random weights, a small picture: drawing. `benchmarks/sd15_shapes.py` runs the other commands, too, which take
    minutes: caching, and a supervised, a reward and a soft-token step. docs/scale.md has what it measured.
    """
    clip_tokenizer_or_skip()
    if shutil.disk_usage(tmp_path).free < 6e9:
        pytest.skip("needs 6 GB of disk")
    model, data = make_folder(tmp_path / "sd15", SIZE_PX), make_pictures(tmp_path / "pictures")
    wanted = [c for c in commands(model, data, tmp_path, SIZE_PX) if c[0].startswith("generate")]
    done = {name: run(name, arguments) for name, arguments in wanted}
    shutil.rmtree(model)
    assert len(done) == 1
    assert max(measured.memory_gb for measured in done.values()) < MOST_GB, done
    assert list((tmp_path / "drawn" / "images").glob("*.png"))
