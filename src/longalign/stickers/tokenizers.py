"""Real CLIP and T5 tokenizers with a small vocabulary: every word of the sticker world is one token.

Anything else still encodes: the CLIP vocabulary keeps all 512 byte symbols (as SD's does), T5's the printable
ASCII characters.
"""

from __future__ import annotations

import re
import string
from typing import Any

from longalign.stickers import captions
from longalign.stickers.world import BACKGROUND_NAMES, DISC_NAMES, KIND_NAMES, POSITIONS

CLIP_WINDOW = 77
SOT, EOT = "<|startoftext|>", "<|endoftext|>"


def words() -> list[str]:
    """All words of all captions, lower case, in a fixed order."""
    phrasings = (*captions.PLAIN, *captions.ON_DISC, *captions.REFERRING, *captions.BACKGROUND)
    text = " ".join((*phrasings, *KIND_NAMES, *DISC_NAMES, *BACKGROUND_NAMES, *POSITIONS)).lower()
    text = re.sub(r"\{\w+\}|\.", " ", text)  # fields and full stops
    return sorted({"a", "an", *text.split()})


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order of its published table."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """`vocab` and `merges` for `CLIPTokenizer`.

    BPE applies the earliest merge first wherever it fits, so merges of one word can break another. Each word's
    merges are therefore taken from what the merges so far leave of it, until it is one piece.
    """
    merges: list[tuple[str, str]] = []
    for word in words():
        pieces = [*word[:-1], word[-1] + "</w>"]
        for pair in merges:
            pieces = _apply(pieces, pair)
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            merges.append(pair)
            pieces = _apply(pieces, pair)
    symbols = _byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *dict.fromkeys(a + b for a, b in merges), SOT, EOT]
    return {token: i for i, token in enumerate(tokens)}, merges


def _apply(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def make_clip_tokenizer(pad_token: str = EOT) -> Any:
    """A `CLIPTokenizer` over `clip_vocabulary`; pads with the end token, as SD1.5's does."""
    from transformers import CLIPTokenizer

    vocab, merges = clip_vocabulary()
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=EOT,
        bos_token=SOT,
        eos_token=EOT,
        pad_token=pad_token,
        model_max_length=CLIP_WINDOW,
    )


def make_t5_tokenizer(sentinels: int = 20, model_max_length: int = 512) -> Any:
    """A `T5Tokenizer` (unigram) over the words of the world and the printable ASCII characters."""
    from transformers import T5Tokenizer

    pieces = ["▁", *(f"▁{w}" for w in words()), "."]
    # Whole words must beat their letters: one piece costs less than two.
    scores = [(p, -2.0) for p in pieces]
    letters = [c for c in string.printable.strip() if c not in {p for p, _ in scores}]
    scores += [(c, -10.0) for c in letters]
    scores += [(f"▁{c.upper()}{w[1:]}", -2.0) for w, c in ((w, w[0]) for w in words())]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab = special + list(dict(scores).items())
    return T5Tokenizer(vocab=vocab, extra_ids=sentinels, model_max_length=model_max_length)
