"""A long prompt beside a ControlNet, on diffusers' pipelines.

    python examples/controlnet.py
    python examples/controlnet.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --controlnet lllyasviel/control_v11p_sd15_canny --image edges.png --prompt "…"

Without options it runs on the embedded sticker model with a ControlNet that is made from its UNet. Its last layers are
zero, as of any ControlNet before training: the picture is the one without control, and the script checks this.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoPipelineForText2Image, ControlNetModel
from img2img import PROMPT
from PIL import Image

import longalign
from longalign.diffusion.pipelines import settings_of

_WIDTHS = (16, 32, 64, 96, 128)  # of the layers that read the control image; each but the first halves it


def main(argv: list[str] | None = None) -> Path:
    """Draws the picture and says where it is."""
    options = argparse.ArgumentParser(description="ControlNet with a long prompt")
    options.add_argument(
        "--model", default="stickers", help="a diffusers folder or hub name: SD 1.x, 2.x or SDXL"
    )
    options.add_argument("--controlnet", help="a diffusers folder or hub name; without it, an untrained one")
    options.add_argument("--image", help="the control image; without it, a grey one")
    options.add_argument("--prompt", default=PROMPT)
    options.add_argument("--negative", default="")
    options.add_argument("--scale", type=float, default=1.0, help="of the control")
    options.add_argument(
        "--guidance", type=float, help="classifier-free guidance; without it, the model's own"
    )
    options.add_argument("--steps", type=int, default=25)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=Path("runs/controlnet.png"))
    args = options.parse_args(argv)

    plain = longalign.load_pipeline(args.model)
    guidance = settings_of(args.model, plain).guidance if args.guidance is None else args.guidance
    side = plain.unet.config.sample_size * plain.vae_scale_factor
    image = Image.open(args.image).convert("RGB") if args.image else Image.new("RGB", (side, side), "grey")
    if args.controlnet:
        control = ControlNetModel.from_pretrained(args.controlnet, torch_dtype=plain.unet.dtype)
    else:
        halvings = plain.vae_scale_factor.bit_length() - 1  # pixels a latent: 8 or 16
        widths = _WIDTHS[: halvings + 1]
        control = ControlNetModel.from_unet(plain.unet, conditioning_embedding_out_channels=widths)
    pipe = AutoPipelineForText2Image.from_pipe(plain, controlnet=control.to(plain.device))
    pipe.set_progress_bar_config(disable=True)

    cond = longalign.encode(pipe, args.prompt, args.negative)  # as for any pipeline of diffusers
    drawing = {**cond.pipeline_kwargs(), "num_inference_steps": args.steps, "guidance_scale": guidance}
    seeded = torch.Generator().manual_seed(args.seed)
    result = pipe(image=image, **drawing, controlnet_conditioning_scale=args.scale, generator=seeded).images[
        0
    ]
    if not args.controlnet:
        without = plain(**drawing, generator=torch.Generator().manual_seed(args.seed)).images[0]
        assert result.tobytes() == without.tobytes(), "an untrained ControlNet changes nothing"

    args.out.parent.mkdir(parents=True, exist_ok=True)
    result.save(args.out)
    print(f"{len(cond.segments[0])} sentences → {args.out}")
    return args.out


if __name__ == "__main__":
    main()
