"""Which software made something."""

from __future__ import annotations

import datetime
import platform
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


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
