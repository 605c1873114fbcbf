"""Prompts → `Conditioning`: long prompts for the backbones of `longalign.backbones` (LongAlign, §3.1, §5.1, App. A).

| file | holds |
|---|---|
| `encode.py` | `encode` and `encode_groups`, the two functions that most users need |
| `conditioning.py` | `Conditioning`, their result |
| `options.py`, `strategy.py` | settings; the encodings `plain`, `clip-cat`, `t5-mlp`, `clip+t5`; ablations |
| `text_parts.py` | the tokenizers and text encoders of a pipeline, and the T5 branch |
| `word_columns.py` | positions of a word in an encoded prompt |
| `cleaning.py`, `syntax.py` | text as CLIP was trained on it; prompt weights of other tools |
| `segments.py` | prompt → segments |
| `context.py` | sentences before a sentence, which its encoding may see |
| `tokens.py` | text → token ids with character offsets |
| `reading.py` | segments, tokens and layout of each text, and text that does not fit |
| `layout.py` | order of the tokens in a row of joined segments |
| `towers.py` | one CLIP text encoder, pad* |
| `packing.py`, `batching.py` | texts that share a row of an encoder; rows that share a batch |
| `t5.py` | T5 on whole prompts |
| `job.py`, `encoder_outputs.py` | one call of `encode`, and the encoder outputs in it |
| `plain.py` | the pipelines' own encoding |
| `cache.py` | encoded sentences that are kept between calls |
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
