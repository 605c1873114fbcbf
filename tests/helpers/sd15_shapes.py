"""A pipeline folder of SD1.5's shapes with random weights, and the commands that people run on such a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from clip_vocab import real_clip_tokenizer
from PIL import Image

PROMPT = (
    "A red fox sits on a mossy log in a quiet forest. Snow covers the pines behind it, and a narrow creek runs between "
    "round stones. On the left stands a small wooden cabin with a lit window and smoke above its chimney. A crow flies "
    "over the roof. The sky is pale pink near the hills and dark blue above. In the foreground lies a broken lantern, "
    "and beside it grow three mushrooms with white caps. The light is soft, as it is just before the sun rises."
)


@dataclass(frozen=True)
class Measured:
    """What a command took: seconds, and its largest resident memory in GB (10⁹ bytes)."""

    name: str
    seconds: float
    memory_gb: float


def make_folder(folder: Path, size_px: int = 512) -> Path:
    """CLIP ViT-L/14's text encoder, SD1.5's UNet (860 M) and VAE, in float16; DDIM as published. About 2.1 GB.

    Args:
        size_px: side of the pictures that the folder names as its own. The weights' shapes do not depend on it.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=49_408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        projection_dim=768, eos_token_id=49_407, bos_token_id=49_406, pad_token_id=49_407,
    )  # fmt: skip
    blocks = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
    )
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=blocks[0], up_block_types=blocks[1], block_out_channels=(128, 256, 512, 512),
            layers_per_block=2, latent_channels=4, sample_size=size_px,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=real_clip_tokenizer(),
        unet=UNet2DConditionModel(sample_size=size_px // 8, cross_attention_dim=768),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.to(torch.float16).save_pretrained(folder)
    return folder


def make_pictures(folder: Path, count: int = 4) -> Path:
    """Pictures of one colour that are not square, with captions past 77 tokens."""
    folder.mkdir(parents=True)
    rows = []
    for i in range(count):
        Image.new("RGB", (400, 280) if i % 2 else (280, 400), (60 * i, 90, 200)).save(folder / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "caption": f"Picture {i}. {PROMPT}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "prompts.txt").write_text(PROMPT + "\n")
    return folder


def commands(model: Path, data: Path, out: Path, size_px: int) -> Iterator[tuple[str, list[str]]]:
    """(what, arguments of longalign): two sampling steps, and one step of each training."""
    side, cache = str(size_px), str(out / "cache")
    whole = ["train.steps=1", "train.batch_size=2", "train.precision=no"]
    train = [*whole, "train.micro_batch_size=1"]
    held_out = ["data.held_out=null", "train.num_workers=0"]
    yield (
        "generate, 2 steps",
        [
            *("generate", f"@{data / 'prompts.txt'}", "--model", str(model), "--steps", "2"),
            *("--width", side, "--height", side, "--out", str(out / "drawn"), "--dtype", "float32"),
        ],
    )
    yield (
        "cache, 4 pictures",
        [
            *("cache", str(data), "--model", str(model), "--size", side, "--out", cache),
            *("--batch-size", "1", "--dtype", "float32"),
        ],
    )
    yield (
        "supervised, 1 step of 2",
        [
            *("train", "sd15-sft", f"model={model}", f"data.pictures={cache}", *held_out, *train),
            *(
                "supervised.strategy=clip-cat",
                "supervised.gradient_checkpointing=true",
                "--out",
                str(out / "sft"),
            ),
        ],
    )
    yield (
        "reward, 1 step of 2",
        [
            *(
                "train",
                "sd15-reward",
                f"model={model}",
                f"data.prompts={data / 'prompts.txt'}",
                *held_out,
                *train,
            ),
            *(
                "reward.rewards=[stickers]",
                "reward.start_from=[]",
                "reward.strategy=clip-cat",
                "reward.steps=2",
            ),
            *("reward.gradient_steps=1", "reward.pictures_at_once=1", "reward.evaluate_with=[]"),
            *("reward.gradient_checkpointing=true", "train.best=null"),
            *("train.evaluate_every=0", "train.evaluate_first=false", "--out", str(out / "reward")),
        ],
    )
    yield (
        "soft tokens, 1 step of 2",
        [
            *(
                "train",
                "softrepa-sd15",
                f"model={model}",
                f"data.pictures={cache}",
                "data.images=null",
                *held_out,
            ),
            *(
                *whole,
                "train.micro_batch_size=auto",
                "data.size_px=null",
                "data.buckets=true",
                "contrastive.pairs_at_once=1",
            ),
            *(
                "contrastive.strategy=clip-cat",
                "contrastive.gradient_checkpointing=true",
                "--out",
                str(out / "tokens"),
            ),
        ],
    )


def run(name: str, arguments: Sequence[str]) -> Measured:
    """Runs one command in a process of its own.

    Raises:
        AssertionError: its exit code is not 0; with its last output.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "longalign", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"{name}: {' '.join(arguments)}\n{output[-3000:]}"
    return Measured(name, time.monotonic() - started, usage.ru_maxrss * 1024 / 1e9)
