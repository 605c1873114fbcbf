"""What the tests of segments share: awkward prompts, the tiling invariant, counting as an encoder does."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from longalign.encoding.segments import Segment

FAMILY = "👨\u200d👩\u200d👧"  # one grapheme of five characters

# What splitters and tokenizers stumble over, to be met next to each other.
AWKWARD = [
    *["A", "a", "J", "Dr", "e.g", "cat", "x" * 40, "3.5", "f/1.4", "No. 5", "http://a.b/c?d=e"],
    *".!?…,;:—–-'\"“”‘’«»()[]{}*•",
    *[" ", "  ", "\t", "\n", "\n\n", "\r\n"],
    *"\x0b\x1c\x1f\x85\xa0\u2028\u2029\u3000",  # blanks that not everyone takes for blanks
    *"\x00\x07\u200b\u200f\u202e\ufeff\ufffd\uffff\u0301İßﬁÅ",
    *["שלום", "؟", "سلام، ", "他来了。", "「行け！」", "यह है।", "ကောင်း။", "한국어", "ไทย"],
    *[FAMILY, "🇩🇪", "❤️", "🏽", "<|endoftext|>", "</s>", "<pad>"],
]
prompts = st.text(max_size=200) | st.lists(st.sampled_from(AWKWARD), max_size=60).map("".join)

MEGABYTE = {
    "sentences": "A red cat sits on the mat, near a dog. " * 25_000,
    "no punctuation": "red cat " * 125_000,
    "one word": "abcde" * 200_000,
    "Chinese": "他来了。我走了很远的路！" * 28_000,  # three bytes a character
    "flags": "🇩🇪" * 125_000,  # eight bytes a flag
    "open quotes": "“a" * 250_000,
}


def texts(segments: list[Segment]) -> list[str]:
    return [segment.text for segment in segments]


def assert_tiles(prompt: str, segments: list[Segment]) -> None:
    """Every character that is no blank is in exactly one segment, in order, and nothing is rewritten."""
    bounds = [0, *(edge for s in segments for edge in (s.start, s.end)), len(prompt)]
    assert all(left <= right for left, right in pairwise(bounds))
    gaps = [prompt[left:right] for left, right in list(pairwise(bounds))[::2]]
    assert not "".join(gaps).strip()
    assert [prompt[s.start : s.end] for s in segments] == texts(segments)
    if prompt.strip():
        assert all(s.text and s.text == s.text.strip() for s in segments)
    else:
        assert segments == [Segment("", 0, 0)]


def assert_fits(segments: list[Segment], tokenizer: PreTrainedTokenizerBase, window: int) -> None:
    """Counted as an encoder would, each segment by itself, with special tokens."""
    encoded = tokenizer(texts(segments), verbose=False)["input_ids"]
    assert max(map(len, encoded)) <= window
