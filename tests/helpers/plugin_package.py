"""Packages with entry points in a temporary folder, as pip leaves them, and commands that see them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import longalign


def install(folder: Path, module: str, code: str, **entries: str) -> None:
    """Writes a package.

    Args:
        folder: a folder on Python's path.
        module: name of its only module.
        code: of the module.
        entries: kind → ``name = attribute``, such as ``metric="sharpness = Sharpness"``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    name = module.replace("_", "-")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = ["[longalign.plugins]"]
    for kind, entry in entries.items():
        key, _, attribute = entry.partition(" = ")
        lines.append(f"{kind}.{key} = {module}:{attribute}")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``longalign ARGUMENTS`` on the CPU in a process that has ``folder`` on its path."""
    path = os.pathsep.join([str(folder), str(Path(longalign.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-m", "longalign", *arguments],
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
