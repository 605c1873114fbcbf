"""Every test here may train the objective `line`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from line_objective import registered


@pytest.fixture(autouse=True)
def _line() -> Iterator[None]:
    with registered():
        yield
