"""A reward of one's own in reward fine-tuning: pictures in warm colours, beside Denscore.

    python examples/reward_of_my_own.py
    python examples/reward_of_my_own.py --steps 60 --out runs/warm

A reward is a `PreferenceModel`: it embeds pictures and texts, and the reward is their product. Any differentiable
score s of a picture becomes one: the picture is (s, √(1 − s²)), every text is (1, 0). The recipe names it like any
other model, with a weight. In another package the name comes from an entry point: see plugin_package/.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import longalign
from longalign.preference.model import PREFERENCE_MODELS
from longalign.training.progress import FitResult


class Warmth(longalign.PreferenceModel):
    """How much more red than blue there is, from −1 to 1. The text has no influence."""

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return 2

    def image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] → (B, 2) unit vectors, differentiable."""
        red, _, blue = pixels.float().mean(dim=(2, 3)).unbind(dim=1)
        s = red - blue
        return torch.stack([s, (1 - s**2).clamp_min(1e-6).sqrt()], dim=1)

    def text(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """(N) texts → (N, 2)."""
        return torch.tensor([[1.0, 0.0]], device=self.device).expand(len(texts), -1)


def warmth(device: str, dtype: str) -> Warmth:
    """What `PreferenceModel.from_pretrained("warmth")` calls. A CLIP is there for its tokenizer and its device."""
    clip = longalign.PreferenceModel.from_pretrained("stickers/clip", device=device, dtype=dtype)
    return Warmth(clip.clip, clip.tokenizer, clip.preprocess)


PREFERENCE_MODELS["warmth"] = warmth  # for this process


def main(argv: list[str] | None = None) -> FitResult:
    """Trains a LoRA for some steps and says how warm the held-out pictures became."""
    options = argparse.ArgumentParser(description="reward fine-tuning with a reward of one's own")
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--sampling-steps", type=int, default=15)
    options.add_argument("--held-out", type=int, default=16)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--out", type=Path, default=None, help="the run folder; else a new one under runs/")
    args = options.parse_args(argv)
    recipe = longalign.read_recipe(
        "stickers-reward",
        [
            # V, which omega needs, is of texts; this reward reads none, so its omega is 1.
            "reward.rewards=[{model: stickers/denscore}, {model: warmth, weight: 0.5, omega: 1}]",
            "reward.start_from=[stickers/sft]",
            "reward.evaluate_with=[]",
            f"reward.steps={args.sampling_steps}",
            f"reward.gradient_steps={min(3, args.sampling_steps)}",
            f"data.held_out_count={args.held_out}",
            f"train.steps={args.steps}",
            f"train.batch_size={args.batch}",
            "train.warmup_steps=0",
            f"train.evaluate_every={args.steps}",
            "train.log_every=1",
            "train.best=null",
            "train.precision=no",
        ],
    )
    result = longalign.fit(recipe, args.out)
    print(f"{result.step} steps → {result.model}")
    return result


if __name__ == "__main__":
    main()
