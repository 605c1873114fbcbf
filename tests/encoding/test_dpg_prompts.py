"""The 1,065 prompts of DPG-Bench, where they lie beside the repository; they are not copied."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import pytest
from clip_vocab import clip_tokenizer_or_skip

from longalign import Segmenter, encode_groups, load_pipeline

FILE = Path(__file__).parents[3] / "shared" / "data" / "dpg-bench" / "prompts.jsonl"


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    if not FILE.is_file():
        pytest.skip("the prompts of DPG-Bench are not beside this repository")
    with FILE.open(encoding="utf-8") as lines:
        found = [json.loads(line)["prompt"] for line in lines]
    assert len(found) == 1065
    return found


def test_all_tile(prompts: list[str]) -> None:
    """Every character that is no blank is in exactly one segment; no segment is longer than CLIP's window."""
    tokenizer = clip_tokenizer_or_skip()
    segmenter = Segmenter("sentence", tokenizer)
    for prompt in prompts:
        end = 0
        for segment in segmenter(prompt):
            assert prompt[segment.start : segment.end] == segment.text
            assert not prompt[end : segment.start].strip()
            end = segment.end
        assert not prompt[end:].strip()
    longest = max(len(ids) for p in prompts for ids in tokenizer([s.text for s in segmenter(p)]).input_ids)
    assert longest <= 77


@pytest.mark.slow
def test_all_are_encoded_without_a_warning(prompts: list[str]) -> None:
    """On the sticker model; 30 s of one processor (others may be busy)."""
    pipe = load_pipeline("stickers")
    started = time.process_time()
    done = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for first in range(0, len(prompts), 64):
            groups = encode_groups(pipe, prompts[first : first + 64])
            done += sum(len(conditioning) for _, conditioning in groups)
            assert not any(cut for _, conditioning in groups for cut in conditioning.truncation)
    assert done == len(prompts)
    assert time.process_time() - started < 30
