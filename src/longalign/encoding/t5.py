"""T5 on whole prompts: SD3's third text encoder, and the branch beside SD1.5's CLIP (LongAlign, §5.1).

SD3 and the published LongAlign weights do not mask T5's pads, so the states of a text depend on its padded length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longalign.encoding.cache import EncodingCache, States, fingerprint
from longalign.encoding.text_parts import TextParts, run_device
from longalign.encoding.tokens import Ids, Tokens, masked_rows, pad_ids, tokenise

_NO_LIMIT = 100_000  # transformers writes "no limit" as 1e30


@dataclass(frozen=True, eq=False)
class T5Encoder:
    """A T5 encoder with its tokenizer."""

    name: str
    tokenizer: Any
    model: Any
    device: torch.device

    @classmethod
    def of(cls, parts: TextParts) -> T5Encoder | None:
        """The model's own, such as SD3's; None where it has none."""
        name = parts.backbone.t5
        if name is None or name not in parts.names:
            return None
        at = parts.names.index(name)
        model = parts.text_encoders[at]
        if model is None:
            return None
        return cls(name, parts.tokenizers[at], model, run_device(model, parts.device))

    def tokenise(self, texts: list[str]) -> dict[str, Tokens]:
        return tokenise(self.tokenizer, texts, before=0)

    def limit(self, max_length: int | None) -> int | None:
        """Most tokens to encode. T5 has no window; its tokenizer states the length of its training texts."""
        stated = self.tokenizer.model_max_length
        limits = [n for n in (max_length, stated) if n is not None and n < _NO_LIMIT]
        return min(limits, default=None)

    def empty(self, length: int) -> torch.Tensor:
        """(length, D) states of the empty prompt: its end token, and pads."""
        return self.call([tuple(self.tokenizer("")["input_ids"])], length)[0]

    def masked(self, ids: Ids, length: int, hidden: Sequence[Sequence[int]]) -> torch.Tensor:
        """(R, length, D) states of one text, with other places of it masked in each of R rows."""
        rows, mask = masked_rows(ids, length, hidden, self.tokenizer.pad_token_id)
        return self.model(rows.to(self.device), attention_mask=mask.to(self.device))[0]

    def call(self, texts: Sequence[Ids], length: int) -> torch.Tensor:
        """B texts → (B, length, D) states, padded and not masked, as in SD3's pipeline."""
        ids, _ = pad_ids(texts, length, self.tokenizer.pad_token_id)
        return self.model(ids.to(self.device))[0]

    def encode(
        self, wanted: Collection[tuple[Ids, int]], batch_size: int, cache: EncodingCache | None = None
    ) -> dict[tuple[Ids, int], torch.Tensor]:
        """Encodes each different (text, padded length) once, those of equal length together."""
        key = fingerprint(self.model) if cache is not None else b""
        found: dict[tuple[Ids, int], torch.Tensor] = {}
        of_length: dict[int, list[Ids]] = defaultdict(list)
        for text, length in dict.fromkeys(wanted):
            states = cache.get((key, text, length), length, False, self.device) if cache is not None else None
            if states is not None:
                found[text, length] = states.tokens
            else:
                of_length[length].append(text)
        for length, texts in of_length.items():
            for first in range(0, len(texts), batch_size):
                batch = texts[first : first + batch_size]
                for text, tokens in zip(batch, self.call(batch, length), strict=True):
                    found[text, length] = tokens
                    if cache is not None:
                        cache.put((key, text, length), States(tokens))
        return found
