"""The true CLIP tokenizer without a download, for tests and benchmarks."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

_FILE = "bpe_simple_vocab_16e6.txt.gz"


@cache
def real_clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer (49,408 entries, window 77), built from the merges that open-clip-torch ships.

    open_clip itself is not imported, since it wants torchvision.

    Raises:
        FileNotFoundError: open-clip-torch is not installed.
    """
    package = find_spec("open_clip")
    path = Path(package.origin).parent / _FILE if package and package.origin else None
    if path is None or not path.is_file():
        raise FileNotFoundError(f"no {_FILE}: run `pip install --no-deps open-clip-torch`")
    # 256 byte symbols, the same at the end of a word, one entry a merge, two special tokens: 49,408.
    # The first line of the file is a header, and the file lists more merges than CLIP uses.
    size = 49_408
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    merges = [line.split() for line in lines[1 : 1 + size - 2 * 256 - 2]]
    symbols = list(bytes_to_unicode().values())
    entries = [
        *symbols,
        *(symbol + "</w>" for symbol in symbols),
        *map("".join, merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocab = {entry: index for index, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocab, merges=[tuple(merge) for merge in merges], model_max_length=77)


def clip_tokenizer_or_skip() -> CLIPTokenizer:
    """The same, for fixtures: skips the test where open-clip-torch is not installed."""
    import pytest  # here, so that benchmarks do without it

    try:
        return real_clip_tokenizer()
    except FileNotFoundError as error:
        pytest.skip(str(error))
