"""Which software made something."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version

SHOWN = ("longalign", "torch", "diffusers", "transformers")


def versions() -> dict[str, str]:
    """Names and versions for a report's head: the date, the software, the machine."""
    found = {}
    for package in SHOWN:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "versions": ", ".join(f"{k} {v}" for k, v in found.items()),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
