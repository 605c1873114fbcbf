"""Which software made something, and by which command."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

VERSION = "0.1.0"
SHOWN = ("longalign", "torch", "diffusers", "transformers")


def versions() -> dict[str, str]:
    """Names and versions for a report's head: the date, the software, the machine."""
    return {
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "versions": ", ".join(f"{package} {_version(package)}" for package in SHOWN),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def provenance(facts: Mapping[str, str], command_line: str | None = None) -> dict[str, str]:
    """The facts at the head of a report: the command, what the caller knows, and `versions`.

    Args:
        facts: name → value, as the page shows them.
        command_line: what the user typed; None where no command made the report. The library never looks for it
            itself: a command passes it in.
    """
    command = {} if command_line is None else {"command": command_line}
    return {**command, **facts, **versions()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
