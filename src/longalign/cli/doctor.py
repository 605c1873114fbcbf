"""`longalign doctor`."""

from __future__ import annotations

from longalign.cli.options import Json
from longalign.cli.terminal import print_json, print_table


def doctor(as_json: Json = False) -> None:
    """Show what can run on this machine: versions, memory, libraries, models, metrics and recipes.

    Nothing is downloaded, and the hub is not asked: its models count as here if its cache on this machine has them.
    """
    from longalign.doctor import diagnose

    found = diagnose()
    if as_json:
        print_json(found.to_json())
        return
    print(", ".join(f"{name} {number}" for name, number in found.versions.items()))
    for table in found.tables():
        print()
        print_table(table)
