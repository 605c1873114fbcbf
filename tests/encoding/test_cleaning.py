"""Text repaired as CLIP's training captions were, with the way back."""

from __future__ import annotations

import pytest
import torch
from clip_vocab import clip_tokenizer_or_skip
from tiny_clip import tiny_model

from longalign.encoding.cleaning import clean
from longalign.encoding.tokens import tokenise


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


# CLIPTokenizer of transformers 4.57.6 with ftfy 6.3.1 and CLIP's vocabulary; <sot> and <eot> are left out here
OF_TRANSFORMERS_4 = {
    "A sign reads “open”.": [320, 2292, 6597, 257, 1488, 2811],
    "a ﬁne ﬂower": [320, 3797, 4055],
    "Ｆｕｌｌ width": [1476, 23571],
    "salt &amp; pepper": [6611, 261, 8253],
    "the cat’s toy": [518, 2368, 568, 5988],
    "schÃ¶n": [844, 7255, 333],
    "A cafe\u0301 – 3½ m…": [320, 15304, 1224, 274, 33613, 332, 959],
    "&lt;b&gt; and &amp;amp;": [283, 321, 285, 537, 261],
    "naïve “x”—‘y’": [1097, 35689, 563, 257, 343, 1, 6718, 262, 344, 262],
    "A red cat.": [320, 736, 2368, 269],
}


@pytest.mark.parametrize("text", OF_TRANSFORMERS_4)
def test_the_ids_of_transformers_4(text: str) -> None:
    tokens = tokenise(clip_tokenizer_or_skip(), [text], before=1, repair=True)[text]
    assert list(tokens.ids[1:-1]) == OF_TRANSFORMERS_4[text]


def test_a_preference_model_reads_repaired_text() -> None:
    model = tiny_model()
    curly, straight = "A sign reads “open”.", 'A sign reads "open".'
    assert torch.equal(model.text([curly]), model.text([straight]))
    model.clean = False
    assert not torch.equal(model.text([curly]), model.text([straight]))
