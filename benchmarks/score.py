"""Pairs per second of `longalign score`, against a plain loop over pairs in the published way.

    python benchmarks/score.py            # both models; some minutes on two cores
    python benchmarks/score.py --quick    # few pairs, once: does it run, are the results equal?

Two models: the embedded CLIP of the sticker world, and one of ViT-B/32's size with random weights and the true CLIP
vocabulary. Pictures are PNG files of sticker scenes (96 px, and 480 px for ViT-B/32), each with its own caption: the
scene's, and for ViT-B/32 some ten sentences of a seeded grammar, none of which occurs twice. The sides:

- ours: `longalign.scoring.stream.score_pairs`, what the command calls: files are read ahead, pictures go through
  the model in batches, sentences in batches of like length, a sentence that comes back once. It gives every
  sentence's score and that of the first 77 tokens, and all of that is timed.
- plain: pair by pair: Pillow, transformers' `CLIPImageProcessor`, the image tower; each sentence through the
  tokenizer, padded to 77, and the text tower; the mean of the unit vectors, times the image's.

Both start from files and from cut sentences' text, run in the same process and take turns; figures are medians over the
repeats, with the least and the most. The scores of both, as cosines, must agree within 1e-4; exit code 1 if not.
Needs open-clip-torch for the vocabulary (`pip install --no-deps open-clip-torch`), and not for ``--models stickers``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from longalign.preference import PreferenceModel, Preprocess
from longalign.preference.scores import SCALE
from longalign.runtime import (
    quiet,
)
from longalign.scoring.data import (
    Pair,
)
from longalign.scoring.stream import Scored, score_pairs
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import CELL_PX, render, scene

TOLERANCE = 1e-4  # of cosines
MODELS = ("stickers", "vit-b-32")
OBJECTS = (7, 9)


def make_model(name: str) -> PreferenceModel:
    if name == "stickers":
        return PreferenceModel.from_pretrained("stickers", device="cpu", dtype="float32")
    from encode_sides import real_clip_tokenizer

    torch.manual_seed(0)
    # transformers' defaults are ViT-B/32's: text 12 layers of width 512, vision 12 of 768, 224 px in patches of 32.
    clip = CLIPModel(CLIPConfig(text_config={"eos_token_id": 49_407}, projection_dim=512)).eval()
    return PreferenceModel(clip, real_clip_tokenizer(), Preprocess(224))


def make_pairs(name: str, model: PreferenceModel, count: int, folder: Path) -> list[Pair]:
    """Files and captions; see the module's docstring."""
    texts: list[str] = []
    if name != "stickers":
        from encode_sides import TOKENS, Grammar

        grammar = Grammar(seed=0)
        texts = [" ".join(grammar.sentences(TOKENS, model.tokenizer)) for _ in range(count)]
    pairs = []
    for i in range(count):
        drawn = scene(i, objects=OBJECTS, split="test")
        file = folder / f"{name}-{i:04d}.png"
        render(drawn, CELL_PX if name == "stickers" else 5 * CELL_PX).save(file)
        pairs.append(Pair(file, texts[i] if texts else text_of(caption(drawn, i)), file.name))
    return pairs


@torch.no_grad()
def plain(model: PreferenceModel, processor: Any, pairs: Sequence[Pair]) -> list[float]:
    """R(x, p) = C_X·(1/K) Σ_k C_P(p̂_k) of each pair, one after the other."""
    scores = []
    for pair in pairs:
        with Image.open(pair.image) as image:
            pixels = processor(images=image.convert("RGB"), return_tensors="pt").pixel_values
        x = normalize(model.clip.get_image_features(pixel_values=pixels).pooler_output, dim=-1)  # (1, D)
        c = torch.cat([_sentence(model, segment.text) for segment in model.segments(pair.text)])  # (K, D)
        scores.append(float(x[0] @ c.mean(0)))
    return scores


def _sentence(model: PreferenceModel, text: str) -> Tensor:
    inputs = model.tokenizer(
        text, padding="max_length", max_length=model.window_tokens, truncation=True, return_tensors="pt"
    )
    features = model.clip.get_text_features(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask
    ).pooler_output
    return normalize(features, dim=-1)


def ours(model: PreferenceModel, pairs: Sequence[Pair]) -> list[float]:
    found = [item for item in score_pairs(model, pairs) if isinstance(item, Scored)]
    return [item.scores["overall"] / SCALE for item in found]


def compare(name: str, count: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Both sides in turns over the same pairs."""
    model = make_model(name)
    pairs = make_pairs(name, model, count, folder)
    with quiet():  # it would rather have torchvision
        processor = CLIPImageProcessor.from_dict(model.preprocess.to_config())
    sides: dict[str, Callable[[Sequence[Pair]], list[float]]] = {
        "ours": lambda some: ours(model, some),
        "plain": lambda some: plain(model, processor, some),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    scores: dict[str, list[float]] = {}
    for side in sides.values():  # warm up
        side(pairs[:2])
    for _ in range(repeats):
        for side_name, side in sides.items():
            start = time.perf_counter()
            scores[side_name] = side(pairs)
            seconds[side_name].append(time.perf_counter() - start)
    sentences = [segment.text for pair in pairs for segment in model.segments(pair.text)]
    return {
        "model": name,
        "pairs": count,
        "sentences": len(sentences),
        "distinct_sentences": len(set(sentences)),
        "seconds": {side: [round(t, 4) for t in times] for side, times in seconds.items()},
        "pairs_per_s": {side: count / median(times) for side, times in seconds.items()},
        "ours_is_faster": median(seconds["plain"]) / median(seconds["ours"]),
        "difference": max(abs(a - b) for a, b in zip(scores["ours"], scores["plain"], strict=True)),
        "spread": max(scores["plain"]) - min(scores["plain"]),  # what the difference is to be held against
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="few pairs, once; not a measurement")
    add("--json", action="store_true", help="print JSON and nothing else")
    add("--threads", type=int, help="threads of torch (default: its own choice)")
    add("--repeats", type=int, help="timed turns of both sides (default: 3, quick 1)")
    add("--pairs", type=int, help="pairs (default: 256, ViT-B/32 32; quick 8 and 2)")
    add("--models", nargs="+", choices=MODELS, default=MODELS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    repeats = arguments.repeats or (1 if arguments.quick else 3)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            usual = {"stickers": (256, 8), "vit-b-32": (32, 2)}[name][arguments.quick]
            row = compare(name, arguments.pairs or usual, repeats, Path(folder))
            rows.append(row)
            if arguments.json:
                continue
            print(
                f"{name}: {row['pairs']} pairs, {row['sentences']} sentences "
                f"({row['distinct_sentences']} distinct), {torch.get_num_threads()} threads, torch {torch.__version__}"
            )
            for side, times in row["seconds"].items():
                print(
                    f"  {side:6}{row['pairs_per_s'][side]:9.2f} pairs/s {median(times):8.2f} s "
                    f"({min(times):.2f} to {max(times):.2f})"
                )
            print(
                f"  ours is {row['ours_is_faster']:.2f}x as fast (target 3x); largest difference of a cosine "
                f"{row['difference']:.1e}, of scores that span {row['spread']:.1e}"
            )
    if arguments.json:
        print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}))
    if any(row["difference"] > TOLERANCE for row in rows):
        sys.exit(f"the scores differ by more than {TOLERANCE:g}")


if __name__ == "__main__":
    main()
