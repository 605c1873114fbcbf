"""Which sentences stand ahead of a sentence while it is encoded, so that "It stands on a red disc." says of what.

CLIP's text model is causal: a token's state depends on all that stands ahead of it in its row. So a sentence behind
others knows them, and only its own states are kept. T5 reads whole prompts anyway.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from longalign.encoding.strategy import Context

_PRONOUNS = (
    r"its?|itself|they|them|theirs?|themselves|he|him|his|himself|she|hers?|herself|"
    r"this|these|those|both|former|latter"
)
# "that" stands within most sentences that refer to nothing, so it counts at the beginning alone, as "such" does.
_REFERS = re.compile(rf"\b(?:{_PRONOUNS})\b|^\W*(?:that|such|one|another|the other)\b", re.IGNORECASE)


def refers_back(text: str, language: str = "en") -> bool:
    """Whether a sentence may speak of one before it: by its pronouns in English, always in other languages.

    A sentence that is taken for one wrongly ("It is raining.") costs some tokens.
    """
    return not language.lower().startswith("en") or _REFERS.search(text) is not None


def sentences_ahead(
    texts: Sequence[str], counts: Sequence[int], context: Context, window: int, language: str = "en"
) -> list[range]:
    """For each sentence those that stand ahead of it in its row, the last ones that the window holds whole.

    ``before``: all that there is room for. ``referent``: those back to the last one that refers to nothing; none for
    a sentence that does not refer back itself.

    Args:
        counts: their tokens, without special ones.
        window: most tokens of a row; two are special.
    """
    found = []
    for i, own in enumerate(counts):
        first, room = i, window - 2 - own
        while first and counts[first - 1] <= room:
            if context == "none" or (context == "referent" and not refers_back(texts[first], language)):
                break
            first -= 1
            room -= counts[first]
        found.append(range(first, i))
    return found
