"""Segments → `Conditioning`: long prompts for Stable Diffusion 1.x, 2.x, XL and 3 (LongAlign, §3.1, §5.1,
App. A).

| file | holds |
|---|---|
| `encode.py` | `encode` and `encode_groups`, the two functions most users need |
| `conditioning.py` | what they return |
| `strategy.py` | which encoding: `plain`, `clip-cat`, `t5-mlp`, `clip+t5`, and the ablations of App. A |
| `parts.py` | the tokenizers and text encoders of a pipeline, and the T5 branch |
| `context.py` | which sentences stand ahead of a sentence while it is encoded |
| `tokens.py` | text → token ids with character offsets |
| `towers.py` | one CLIP text encoder, pad* |
| `trees.py` | texts that share a row and their beginnings |
| `batching.py` | which rows go through it together |
| `reading.py` | what is to be encoded of each text, and what does not fit |
| `layout.py` | which token of which segment goes where |
| `t5.py` | T5 on whole prompts |
| `job.py`, `banks.py` | one encoding from beginning to end |
| `plain.py` | the pipelines' own encoding |
| `cache.py` | sentences remembered between calls |
"""

from longalign.encoding.cache import EncodingCache
from longalign.encoding.conditioning import Conditioning, Truncation, TruncationWarning
from longalign.encoding.encode import encode, encode_groups
from longalign.encoding.strategy import ConcatRule
from longalign.encoding.text_parts import T5Branch, TextParts

__all__ = [
    "ConcatRule",
    "Conditioning",
    "EncodingCache",
    "T5Branch",
    "TextParts",
    "Truncation",
    "TruncationWarning",
    "encode",
    "encode_groups",
]
