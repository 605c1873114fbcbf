"""Names that are near each other: what "did you mean" offers."""

from __future__ import annotations

import pytest

from longalign.encoding.strategy import Strategy
from longalign.errors import LongalignError
from longalign.evaluation.evaluate import parse_metrics
from longalign.plugins import nearest, unknown


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("foo", ["looks", "fid", "oracle"], None),  # two letters of five are no likeness
        ("orcale", ["fid", "oracle"], "oracle"),
        ("sticker", ["stickers", "stickers-sdxl"], "stickers"),
        ("clip", ["plain", "clip-cat"], "clip-cat"),  # the beginning of a name
        ("cl", ["plain", "clip-cat"], None),
        ("veo", ["clip", "vae"], "vae"),
    ],
)
def test_the_nearest_name(name: str, known: list[str], meant: str | None) -> None:
    assert nearest(name, known) == meant
    assert ("did you mean" in unknown("metric", name, known)) == (meant is not None)


def test_no_name_is_offered_that_is_not_near() -> None:
    """`--metrics foo` offered "looks"."""
    with pytest.raises(LongalignError, match=r"metric 'foo' is unknown; There are .*looks") as caught:
        parse_metrics("foo")
    assert "did you mean" not in str(caught.value)
    with pytest.raises(LongalignError, match="unknown strategy 'soft'") as caught:
        Strategy.of("soft")
    assert "did you mean" not in str(caught.value)
