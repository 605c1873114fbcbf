"""A part of a picture drawn anew by a long prompt: inpainting with diffusers.

    python examples/inpaint.py
    python examples/inpaint.py --model stable-diffusion-v1-5/stable-diffusion-inpainting \\
        --image room.png --mask wall.png --prompt "…"

Without options it runs on the embedded sticker model: the lower two thirds of a scene are drawn anew.

diffusers' inpainting pipelines take models with 4 latent channels, or 9 for those that were trained for it. The sticker
model has 8. For such a model the rest of the picture is kept by hand: after each step its latents are replaced by the
noised latents of the picture, as these pipelines do for models of 4 channels.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoPipelineForInpainting
from img2img import PROMPT
from PIL import Image
from torch.nn.functional import interpolate

import longalign
from longalign.backbones import backbone_of
from longalign.diffusion.pipelines import settings_of
from longalign.preference.images import to_pixels


def main(argv: list[str] | None = None) -> Path:
    """Draws the picture and says where it is."""
    options = argparse.ArgumentParser(description="inpainting with a long prompt")
    options.add_argument("--model", default="stickers", help="a diffusers folder or hub name")
    options.add_argument("--image", help="the picture; without it one is drawn from half the prompt")
    options.add_argument(
        "--mask", help="white where the picture is drawn anew; without it, the lower two thirds"
    )
    options.add_argument("--prompt", default=PROMPT)
    options.add_argument("--negative", default="")
    options.add_argument(
        "--guidance", type=float, help="classifier-free guidance; without it, the model's own"
    )
    options.add_argument("--steps", type=int, default=25)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path("runs/inpaint.png"))
    args = options.parse_args(argv)

    pipe = longalign.load_pipeline(args.model)
    guidance = settings_of(args.model, pipe).guidance if args.guidance is None else args.guidance
    given = {"num_inference_steps": args.steps, "guidance_scale": guidance}
    noise = torch.Generator().manual_seed(args.seed)
    if args.image is not None:
        image = Image.open(args.image).convert("RGB")
    else:
        half = ". ".join(args.prompt.split(". ")[:4])
        image = (
            pipe(**longalign.encode(pipe, half).pipeline_kwargs(), **given, generator=noise)
            .images[0]
            .convert("RGB")
        )
    mask = Image.open(args.mask).convert("L") if args.mask else Image.new("L", image.size)
    if not args.mask:
        mask.paste(255, (0, image.height // 3, image.width, image.height))

    cond = longalign.encode(pipe, args.prompt, args.negative)
    given |= {**cond.pipeline_kwargs(), "height": image.height, "width": image.width, "generator": noise}
    if pipe.unet.config.in_channels in (4, 9):
        pipe = AutoPipelineForInpainting.from_pipe(pipe)
        pipe.set_progress_bar_config(disable=True)
        result = pipe(image=image, mask_image=mask, **given).images[0]
    else:
        keep = keeping(pipe, image, mask, args.seed)
        result = pipe(**given, callback_on_step_end=keep).images[0]

    args.out.parent.mkdir(parents=True, exist_ok=True)
    result.save(args.out)
    print(f"{len(cond.segments[0])} sentences → {args.out}")
    return args.out


def keeping(pipe: Any, image: Image.Image, mask: Image.Image, seed: int) -> Callable[..., dict[str, Any]]:
    """What diffusers calls after each step: it puts back the latents of the picture where the mask is black."""
    known = backbone_of(pipe.unet).encode_pixels(pipe.vae, to_pixels(image)[None])  # (1, C, h, w)
    # A latent is drawn anew where any of its pixels is.
    new = interpolate(to_pixels(mask.convert("RGB"))[None, :1], known.shape[-2:], mode="area").ceil()
    noise = torch.randn(known.shape, generator=torch.Generator().manual_seed(seed))

    def keep(pipe: Any, step: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        times, x = pipe.scheduler.timesteps, values["latents"]
        old = known.to(x)
        if step + 1 < len(times):  # at the noise of the next step
            old = pipe.scheduler.add_noise(old, noise.to(x), times[step + 1 : step + 2])
        return {"latents": new.to(x) * x + (1 - new.to(x)) * old}

    return keep


if __name__ == "__main__":
    main()
