"""Warnings of other libraries: what no user can act on is silent, everything else is heard."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import longalign
from diffusers import StableDiffusionPipeline
import logging
logging.getLogger("transformers.utils.import_utils").warning("something else")
"""


def test_importing_a_pipeline_is_quiet() -> None:
    """README's first lines: without torchvision transformers says twice that it takes the other image processor. A
    different message of the same logger still comes through."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert "torchvision" not in done.stderr
    assert "something else" in done.stderr
