"""The longest test begins first, so that no process waits for it at the end."""

from __future__ import annotations

import pytest

LONGEST = "test_sd15_shapes"  # minutes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST not in item.nodeid)
