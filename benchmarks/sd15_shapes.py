"""Memory and seconds of the commands on a folder of SD1.5's shapes with random weights, on the CPU.

    python benchmarks/sd15_shapes.py                 # 256 px; some minutes
    python benchmarks/sd15_shapes.py --size 512 --json docs/results/sd15_shapes.json

Each command runs in a process of its own; its largest resident memory is that of the whole process. One step each: what
it says is whether a machine can run it, not how fast training is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))
from sd15_shapes import commands, make_folder, make_pictures, run


def main() -> None:
    """Makes the folder in a temporary place, runs the commands, prints a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        model, data = make_folder(work / "sd15", options.size), make_pictures(work / "pictures")
        for name, arguments in commands(model, data, work, options.size):
            rows.append(run(name, arguments))
            print(f"{name:28} {rows[-1].seconds:7.1f} s  {rows[-1].memory_gb:5.1f} GB", flush=True)
    if options.json:
        found = {"size_px": options.size, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
