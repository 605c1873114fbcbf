"""Text as CLIP was trained on it: repaired by ftfy, with HTML entities replaced; with the way back to the user's text.

CLIP's training captions went through ``ftfy.fix_text`` and ``html.unescape`` (twice) before they were tokenised. The
tokenizer of transformers 4 did the same with the prompts of the released LongAlign code. The tokenizer of transformers
5 leaves this step out. Curly quotes, ligatures, full-width letters and ``&amp;``, which language models and word
processors write, then get other tokens, and more of them.
"""

from __future__ import annotations

import html
from bisect import bisect_right
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from operator import itemgetter

import ftfy


@dataclass(frozen=True)
class Cleaned:
    """A cleaned text.

    Attributes:
        text: the cleaned text, which is tokenised.
        blocks: (start here, start in the original, length here, length there) of the pieces that tile both texts, in
            order. Pieces of equal length correspond character by character, other pieces as a whole.
    """

    text: str
    blocks: tuple[tuple[int, int, int, int], ...]

    def start(self, place: int) -> int:
        """The place in the original of the character at `place` here: of a changed piece, where it begins."""
        here, there, length, original_length = self._block(place)
        return there + place - here if length == original_length else there

    def last(self, place: int) -> int:
        """The last place in the original of what became the character at `place`: of a changed piece, its last one."""
        here, there, length, original_length = self._block(place)
        return there + place - here if length == original_length else there + max(original_length, 1) - 1

    def _block(self, place: int) -> tuple[int, int, int, int]:
        return self.blocks[max(bisect_right(self.blocks, place, key=itemgetter(0)) - 1, 0)]


@lru_cache(maxsize=4096)
def clean(text: str) -> Cleaned:
    """Repairs a text as CLIP's training captions were repaired.

    ``“open”`` becomes ``"open"``, ``ﬁ`` becomes ``fi``, ``Ｆｕｌｌ`` becomes ``Full``, ``&amp;`` becomes ``&``.
    """
    cleaned = html.unescape(html.unescape(ftfy.fix_text(text)))
    if cleaned == text:
        return Cleaned(text, ((0, 0, len(text), len(text)),))
    blocks = []
    for _, there, there_end, here, here_end in SequenceMatcher(
        None, text, cleaned, autojunk=False
    ).get_opcodes():
        if here_end > here:  # a piece that was dropped belongs to no character here
            blocks.append((here, there, here_end - here, there_end - there))
    return Cleaned(cleaned, tuple(blocks) or ((0, 0, 0, len(text)),))
