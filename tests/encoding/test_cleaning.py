"""Text repaired as CLIP's training captions were, with the way back."""

from __future__ import annotations

import pytest

from longalign.encoding.cleaning import clean


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A sign reads “open”.", 'A sign reads "open".'),
        ("ﬁne", "fine"),
        ("Ｆｕｌｌ", "Full"),
        ("salt &amp; pepper", "salt & pepper"),
        ("&amp;amp;", "&"),
        ("it’s", "it's"),
        ("schÃ¶n", "schön"),
        ("café naïve – “x”", 'café naïve – "x"'),
        ("plain text, 3.5 m", "plain text, 3.5 m"),
        ("", ""),
    ],
)
def test_texts(text: str, cleaned: str) -> None:
    assert clean(text).text == cleaned


def test_places_lead_back() -> None:
    """``Ã¶`` became ``ö``, and ``ﬁ`` became ``fi``: both lead back to all that they were."""
    text = "schÃ¶n &amp; ﬁne"
    found = clean(text)
    assert found.text == "schön & fine"
    back = [text[found.start(i) : found.last(i) + 1] for i in range(len(found.text))]
    assert back == ["s", "c", "h", "Ã¶", "n", " ", "&", " ", "ﬁ", "ﬁ", "n", "e"]
