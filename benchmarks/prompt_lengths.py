"""How many prompts of a file are longer than CLIP's window of 77 tokens.

    python benchmarks/prompt_lengths.py ../shared/data/dpg-bench/prompts.jsonl

The tokens are those of CLIP's vocabulary. The file has one prompt a line, or JSONL.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from longalign.data.prompts import read_prompt_file
from longalign.encoding.segments import Segmenter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))
from clip_vocab import real_clip_tokenizer


def main() -> None:
    """Reads the file and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    prompts = read_prompt_file(parser.parse_args().file)
    tokenizer = real_clip_tokenizer()
    lengths = sorted(map(len, tokenizer(prompts, verbose=False).input_ids))
    beyond = sum(length > 77 for length in lengths)
    segmenter = Segmenter("sentence", tokenizer)
    sentences = sum(len(segmenter(prompt)) for prompt in prompts)
    print(
        f"{beyond} of {len(prompts)} prompts ({beyond / len(prompts):.1%}) have more than 77 tokens; "
        f"median {lengths[len(lengths) // 2]}, longest {lengths[-1]}; {sentences / len(prompts):.1f} sentences a prompt"
    )


if __name__ == "__main__":
    main()
