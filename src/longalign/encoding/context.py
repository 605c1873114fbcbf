"""Chooses the sentences before a sentence that its encoding may see: "It stands on a red disc." has its subject there.

CLIP's text model is causal: the state of a token depends on all tokens before it in its row. So a sentence that is
encoded after others has their context, and only its own states are kept. T5 reads whole prompts in any case.
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
    """Whether a sentence may refer to one before it. In English its pronouns decide; in other languages it always may.

    A wrong yes ("It is raining.") only costs some tokens.
    """
    return not language.lower().startswith("en") or _REFERS.search(text) is not None


def sentences_ahead(
    texts: Sequence[str], counts: Sequence[int], context: Context, window: int, language: str = "en"
) -> list[range]:
    """For each sentence, the sentences before it in its row: the last ones that fit the window as a whole.

    ``before``: as many as fit. ``referent``: back to the last one that does not refer back; none for a sentence that
    does not refer back itself.

    Args:
        counts: number of tokens of each sentence, without special tokens.
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
