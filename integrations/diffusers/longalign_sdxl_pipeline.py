"""A community pipeline of diffusers: SDXL with prompts of any length.

::

    pipe = DiffusionPipeline.from_pretrained(NAME, custom_pipeline="longalign_sdxl_pipeline.py", trust_remote_code=True)
    image = pipe("A prompt of any length.", negative_prompt="blurry").images[0]

It needs the package longalign.
"""

from diffusers import StableDiffusionXLPipeline

from longalign.diffusion.long_prompts import LongPrompts


class LongAlignPipeline(LongPrompts, StableDiffusionXLPipeline):
    """`StableDiffusionXLPipeline`, whose prompts are encoded by `longalign.encode` (arXiv 2410.11817)."""
