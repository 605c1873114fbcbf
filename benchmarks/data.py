"""Rows a second of caching and scoring, against plain loops over a DataLoader; and how they grow with workers of Ray.

    python benchmarks/data.py                 # some minutes on two cores
    python benchmarks/data.py --quick         # few rows, once: does it run, are the results equal?
    python benchmarks/data.py --grow          # 1 and 2 workers of Ray, on two nodes of one core each

The data are PNG files of sticker scenes with captions of 7 to 10 sentences; the models are the embedded ones. One
process with one thread on each side. The sides take turns; ratios are medians over the turns, with the least and the
most.

- ours: `CacheBuilder.build` and `score_data`, what the commands call, from files to files.
- plain: a `DataLoader` over a dataset that opens a picture with Pillow and makes a tensor of it (batches of 16, no
  worker processes). Caching: `vae.encode`, and each sentence padded to the window through the text encoder, as in
  LongAlign's released code; a file a row (`torch.save`). Scoring: transformers' `CLIPImageProcessor` and both towers of
  `CLIPModel`, each sentence padded to the window; a line of JSON a row.

Sentences are cut by the same `Segmenter`. Latents (bfloat16) and scores of both sides must agree within 2e-2 and 1e-2
(of 100); exit code 1 if not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPImageProcessor

from longalign.data.cache import CacheBuilder
from longalign.data.cache_model import CacheModel
from longalign.data.cached import CachedPictures
from longalign.data.sources import named_source
from longalign.preference import PreferenceModel
from longalign.runtime import quiet
from longalign.scoring.data_set import SCORES, score_data
from longalign.scoring.outcome import ScoreConfig
from longalign.scoring.parts import read_part
from longalign.scoring.stream import Scored
from longalign.stickers.files import render_folder

BATCH = 16


class Pictures(Dataset[Any]):
    """As a plain script has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        row = self.rows[index]
        with Image.open(self.folder / row["file_name"]) as image:
            return np.asarray(image.convert("RGB")), row["text"]


def batches(folder: Path) -> DataLoader[Any]:
    """Lists of (pixels, caption)."""
    return DataLoader(Pictures(folder), batch_size=BATCH, collate_fn=list)


@torch.no_grad()
def plain_cache(folder: Path, out: Path, model: Any) -> list[dict[str, torch.Tensor]]:
    """Latents and states, a file a row; returns the first few."""
    pipe, segment = model.pipe, model.segment
    tokenizer, encoder = pipe.tokenizer, pipe.text_encoder
    out.mkdir()
    kept, number = [], 0
    for batch in batches(folder):
        pixels = torch.stack([torch.tensor(x).permute(2, 0, 1) for x, _ in batch]).float() / 127.5 - 1
        latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
        sentences = [segment(text) for _, text in batch]
        flat = [s for of_row in sentences for s in of_row]
        inputs = tokenizer(flat, padding="max_length", truncation=True, return_tensors="pt")
        states = encoder(inputs.input_ids)[0].split([len(s) for s in sentences])
        for latent, of_row in zip(latents, states, strict=True):
            row = {"latent": latent.bfloat16().clone(), "states": of_row.flatten(0, 1).bfloat16().clone()}
            torch.save(row, out / f"{number:06d}.pt")
            if number < 4:
                kept.append(row)
            number += 1
    return kept


@torch.no_grad()
def plain_scores(folder: Path, out: Path, model: Any) -> list[float]:
    """Denscore of each row, a line of JSON a row."""
    judge, segment, processor = model.judge, model.segment, model.processor
    found = []
    with open(out, "w") as file:
        for batch in batches(folder):
            pixels = processor(images=[x for x, _ in batch], return_tensors="pt").pixel_values
            x = normalize(judge.clip.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
            sentences = [segment(text) for _, text in batch]
            flat = [s for of_row in sentences for s in of_row]
            inputs = judge.tokenizer(
                flat,
                padding="max_length",
                max_length=judge.window_tokens,
                truncation=True,
                return_tensors="pt",
            )
            texts = judge.clip.get_text_features(
                input_ids=inputs.input_ids, attention_mask=inputs.attention_mask
            ).pooler_output
            for picture, c in zip(
                x, normalize(texts, dim=-1).split([len(s) for s in sentences]), strict=True
            ):
                scores = (100 * c @ picture).tolist()
                found.append(sum(scores) / len(scores))
                file.write(json.dumps({"overall": found[-1], "sentences": scores}) + "\n")
    return found


class Models:
    """Both sides' models, loaded once."""

    def __init__(self) -> None:
        self.encoder = CacheModel(device="cpu", dtype="float32").load(square=True)
        self.pipe = self.encoder.pipe
        self.judge = PreferenceModel.from_pretrained("stickers", device="cpu", dtype="float32")
        with quiet():
            self.processor = CLIPImageProcessor.from_dict(self.judge.preprocess.to_config())

    def segment(self, text: str) -> list[str]:
        """The sentences of a caption."""
        return [s.text for s in self.judge.segments(text)]


def ours_cache(folder: Path, out: Path, model: Models) -> list[dict[str, torch.Tensor]]:
    """By the command's function."""
    CacheBuilder.of(out, model.encoder).build(named_source(str(folder)))
    cached = CachedPictures(out)
    return [{"latent": cached[i].image, "states": cached[i].text.own} for i in range(4)]  # type: ignore[dict-item]


def ours_scores(folder: Path, out: Path, model: Models) -> list[float]:
    """By the command's function."""
    score_data(str(folder), ScoreConfig(device="cpu", dtype="float32"), model=model.judge, out=out)
    parts = sorted((out / SCORES).iterdir())
    return [r.scores["overall"] for part in parts for r in read_part(part) if isinstance(r, Scored)]


def turns(
    sides: dict[str, Callable[[Path], Any]], repeats: int, folder: Path
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each side's turns, and what each gave."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    given = {}
    for turn in range(repeats):
        for name, side in sides.items():
            begun = time.perf_counter()
            given[name] = side(folder / f"{name}-{turn}")
            seconds[name].append(time.perf_counter() - begun)
    return seconds, given


def compare(rows: int, repeats: int) -> bool:
    """Prints rates and ratios; returns whether both sides agree."""
    model = Models()
    agree = True
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "data"
        render_folder(data, rows, split="test", objects="6-9")
        for task, sides in {
            "caching": {
                "ours": lambda out: ours_cache(data, out, model),
                "plain": lambda out: plain_cache(data, out, model),
            },
            "scoring": {
                "ours": lambda out: ours_scores(data, out, model),
                "plain": lambda out: plain_scores(data, out, model),
            },
        }.items():
            folder = Path(place) / task
            folder.mkdir()
            seconds, given = turns(sides, repeats, folder)
            ratios = sorted(p / o for o, p in zip(seconds["ours"], seconds["plain"], strict=True))
            rates = {name: rows / median(took) for name, took in seconds.items()}
            print(
                f"{task}: ours {rates['ours']:.1f} rows/s, plain {rates['plain']:.1f} rows/s, ratio "
                f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); {rows} rows, {repeats} turns",
                flush=True,
            )
            if task == "scoring":
                error = max(abs(a - b) for a, b in zip(given["ours"], given["plain"], strict=True))
                agree &= error < 1e-2
                print(f"  scores differ by at most {error:.1e}")
            else:
                error = max(
                    float((a["latent"].float() - b["latent"].float()).abs().max())
                    for a, b in zip(given["ours"], given["plain"], strict=True)
                )
                agree &= error < 2e-2
                print(f"  latents differ by at most {error:.1e}")
    return agree


def grow(rows: int, tasks: list[str]) -> None:
    """One and two workers: rows a second between the first and the last block."""
    import os

    import ray
    from ray.cluster_utils import Cluster

    from longalign.engine import Engine

    os.environ["OMP_NUM_THREADS"] = "1"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    rates: dict[str, dict[int, float]] = {task: {} for task in tasks}
    with tempfile.TemporaryDirectory() as place:
        for workers in (1, 2):
            engine = Engine("ray", workers)
            times: list[tuple[float, int]] = []
            for task in rates:
                times.clear()
                out = Path(place) / f"{task}-{workers}"

                def note(done: int, times: list[tuple[float, int]] = times) -> None:
                    times.append((time.perf_counter(), done))

                if task == "scoring":
                    score_data(
                        f"stickers:{rows}", ScoreConfig(device="cpu"), engine=engine, out=out, on_rows=note
                    )
                else:
                    from functools import partial

                    load_source = partial(named_source, "stickers", count=rows)
                    load = partial(CacheModel(device="cpu").load, True)
                    CacheBuilder.of(out, load()).build(
                        load_source(), on_rows=note, engine=engine, load_source=load_source, load_encoder=load
                    )
                # Workers start at once: with two of them the first two blocks are the start.
                steady = times[workers - 1 :]
                rates[task][workers] = sum(n for _, n in steady[1:]) / (steady[-1][0] - steady[0][0])
    for task, found in rates.items():
        print(
            f"{task}: {found[1]:.1f} rows/s by one worker, {found[2]:.1f} by two: {found[2] / found[1]:.2f} times"
        )
    ray.shutdown()
    cluster.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--grow", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--tasks", default="caching,scoring", help="of --grow")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.grow:
        grow(options.rows or 8192, options.tasks.split(","))
        return 0
    rows, repeats = (32, 1) if options.quick else (options.rows or 512, options.repeats)
    return 0 if compare(rows, repeats) else 1


if __name__ == "__main__":
    sys.exit(main())
