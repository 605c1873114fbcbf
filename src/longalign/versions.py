"""Versions of the software, and the facts at the head of a report."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

VERSION = "0.2.0"
SHOWN = ("longalign", "torch", "diffusers", "transformers")


def versions() -> dict[str, str]:
    """The date, the versions of the main packages, and the machine, for the head of a report."""
    return {
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "versions": ", ".join(f"{package} {_version(package)}" for package in SHOWN),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def provenance(facts: Mapping[str, str], command_line: str | None = None) -> dict[str, str]:
    """The facts at the head of a report: the command, what the caller knows, and `versions`.

    Args:
        facts: name → value, as the page shows them.
        command_line: the command that made the report; None where no command did. A command passes it in.
    """
    command = {} if command_line is None else {"command": command_line}
    return {**command, **facts, **versions()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
