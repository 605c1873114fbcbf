"""Preference pairs → micro-batches, on the CPU, where data workers can do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from longalign.data.pairs import Pair, RatedPair
from longalign.preference import PreferenceModel, Preprocess


class Batch(TypedDict):
    """A micro-batch of B pairs."""

    image: Tensor  # (2B, 3, S, S) prepared, all a before all b
    preferred: Tensor  # (B,)
    prompts: list[list[str]]  # each as what is encoded of it: itself, or its segments
    captions: list[list[str]]  # segments of each caption that counts
    caption_rows: Tensor  # which of the 2B pictures each of them is of
    asked: list[list[str]]  # of each of the 2B pictures: sentences to be called true or false
    asked_true: list[list[float]]  # 1 or 0 for each of them
    factors: Tensor | None  # (2, B): differences a − b in truth and in looks, where they are known


def collate_pairs(
    rows: Sequence[Pair],
    model: PreferenceModel,
    *,
    with_captions: bool,
    whole_prompts: bool,
    with_questions: bool = False,
) -> Batch:
    """Prepares pictures and cuts texts into segments.

    Args:
        model: whose preprocessing and segmenter are used; its weights are not.
        with_captions: whether the long captions are wanted. Of a pair that is no tie only the preferred picture's
            enters the segment losses (Eq. 6), so only that one is kept.
        whole_prompts: prompts stay in one piece.
        with_questions: whether sentences are to be called true or false. Where a pair knows none, its pictures' own
            captions are taken for true and those of the next pair's pictures for false.
    """
    captions: list[list[str]] = []
    counted: list[int] = []
    if with_captions:
        texts = [(row.caption_a, row.preferred) for row in rows]
        texts += [(row.caption_b, 1 - row.preferred) for row in rows]
        for number, (text, weight) in enumerate(texts):
            if weight > 0:
                assert text is not None  # the objective has asked the data
                captions.append(_segments(text, model))
                counted.append(number)
    factors = [
        [row.truth_a - row.truth_b, row.looks_a - row.looks_b] for row in rows if isinstance(row, RatedPair)
    ]
    asked, asked_true = _questions(rows, model) if with_questions else ([], [])
    return {
        "asked": asked,
        "asked_true": asked_true,
        "image": _prepare([row.image_a for row in rows] + [row.image_b for row in rows], model.preprocess),
        "preferred": torch.tensor([row.preferred for row in rows], dtype=torch.float32),
        "prompts": [[row.prompt] if whole_prompts else _segments(row.prompt, model) for row in rows],
        "captions": captions,
        "caption_rows": torch.tensor(counted, dtype=torch.long),
        "factors": torch.tensor(factors).T if len(factors) == len(rows) else None,
    }


def _questions(rows: Sequence[Pair], model: PreferenceModel) -> tuple[list[list[str]], list[list[float]]]:
    """Sentences about all pictures, all a before all b, and which of them are true."""
    asked, answers = [], []
    for which in ("a", "b"):
        for i, row in enumerate(rows):
            true, false = list(getattr(row, f"true_{which}")), list(getattr(row, f"false_{which}"))
            if not (true or false):
                own, others = (getattr(r, f"caption_{which}") for r in (row, rows[(i + 1) % len(rows)]))
                true = _segments(own, model) if own else []
                false = [text for text in _segments(others, model) if text not in true] if others else []
            asked.append(true + false)
            answers.append([1.0] * len(true) + [0.0] * len(false))
    return asked, answers


def _segments(text: str, model: PreferenceModel) -> list[str]:
    return [segment.text for segment in model.segments(text)]


def _prepare(images: list[np.ndarray], preprocess: Preprocess) -> Tensor:
    """uint8 (H, W, 3) each → (N, 3, S, S); in one go where all have one size."""
    one_size = len({image.shape for image in images}) == 1
    stacks = [np.stack(images)] if one_size else [np.stack([i]) for i in images]  # (n, H, W, 3) each
    return torch.cat([preprocess(torch.from_numpy(s).permute(0, 3, 1, 2).float().div_(255)) for s in stacks])
