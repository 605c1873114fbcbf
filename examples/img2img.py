"""A picture redrawn by a long prompt: diffusers' img2img pipelines.

    python examples/img2img.py
    python examples/img2img.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 --image cat.png --prompt "…"

Without options it runs on the embedded sticker model, and redraws a scene whose last stickers the prompt changes.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoPipelineForImage2Image
from PIL import Image

import longalign
from longalign.diffusion.pipelines import settings_of

# Nine sentences, 86 tokens of the sticker model: the last two lie beyond its window of 77.
PROMPT = (
    "The background is beige. There is a panda on a blue disc in the top left. In the top right there is a star on a "
    "purple disc. The middle shows a heart on a red disc. There is a carrot on a yellow disc in the middle left. In "
    "the bottom centre there is a butterfly on a purple disc. A crab on a blue disc is in the bottom right. There is a "
    "rocket on a yellow disc in the middle right. There is a frog on a red disc in the bottom left."
)


def main(argv: list[str] | None = None) -> Path:
    """Draws the picture and says where it is."""
    options = argparse.ArgumentParser(description="img2img with a long prompt")
    options.add_argument("--model", default="stickers", help="a diffusers folder or hub name")
    options.add_argument(
        "--image", help="the picture to start from; without it one is drawn from half the prompt"
    )
    options.add_argument("--prompt", default=PROMPT)
    options.add_argument("--negative", default="")
    options.add_argument("--strength", type=float, default=0.8, help="0 leaves the picture, 1 forgets it")
    options.add_argument(
        "--guidance", type=float, help="classifier-free guidance; without it, the model's own"
    )
    options.add_argument("--steps", type=int, default=25)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path("runs/img2img.png"))
    args = options.parse_args(argv)

    pipe = longalign.load_pipeline(args.model)
    guidance = settings_of(args.model, pipe).guidance if args.guidance is None else args.guidance
    given = {"num_inference_steps": args.steps, "guidance_scale": guidance}
    if args.image is not None:
        image = Image.open(args.image).convert("RGB")
    else:
        half = ". ".join(args.prompt.split(". ")[:4])
        noise = torch.Generator().manual_seed(args.seed)
        first = longalign.encode(pipe, half)
        image = pipe(**first.pipeline_kwargs(), **given, generator=noise).images[0]

    pipe = AutoPipelineForImage2Image.from_pipe(pipe)  # the same weights
    pipe.set_progress_bar_config(disable=True)
    cond = longalign.encode(pipe, args.prompt, args.negative)  # as for any pipeline of diffusers
    result = pipe(
        image=image,
        **cond.pipeline_kwargs(),
        **given,
        strength=args.strength,
        generator=torch.Generator().manual_seed(args.seed),
    ).images[0]

    args.out.parent.mkdir(parents=True, exist_ok=True)
    result.save(args.out)
    print(f"{len(cond.segments[0])} sentences → {args.out}")
    return args.out


if __name__ == "__main__":
    main()
