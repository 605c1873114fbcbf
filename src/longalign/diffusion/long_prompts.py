"""`LongPrompts`, which gives a diffusers pipeline long prompts: for diffusers' ``custom_pipeline``.

`integrations/diffusers/` has a file for each family, which diffusers loads::

    pipe = DiffusionPipeline.from_pretrained(NAME, custom_pipeline="longalign_pipeline.py", trust_remote_code=True)
    pipe("A prompt of any length.").images
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

from longalign.encoding import Conditioning, encode
from longalign.errors import LongalignError
from longalign.plugins import unknown

_READ = ("pipe_or_parts", "prompts", "negative_prompt")
_OPTIONS = tuple(name for name in signature(encode).parameters if name not in _READ)

_OLD = ("callback", "callback_steps")  # of diffusers; no longer among the parameters


class LongPrompts:
    """Base class, before a pipeline class of diffusers, whose calls encode prompts by `longalign.encode`.

    Attributes:
        conditioning: what the last call encoded: its segments, and in ``truncation`` the text that did not fit. None
            before the first call, and after a call that was given embeddings.
    """

    conditioning: Conditioning | None = None

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        **options: Any,
    ) -> Any:
        """Draws pictures, as the pipeline of diffusers does.

        Args:
            prompt: one text or several, of any length.
            negative_prompt: one for all, or one for each.
            num_images_per_prompt: pictures of each prompt, one after the other.
            options: those of `longalign.encode` (strategy, length, syntax, pad_together, prompt_2, clip_skip, …), and
                those of the pipeline (num_inference_steps, guidance_scale, generator, …). With ``prompt_embeds`` the
                pipeline of diffusers runs alone.

        Raises:
            LongalignError: as `longalign.encode`; or there is no such option.
        """
        call = super().__call__  # type: ignore[misc]  # of the pipeline class
        if prompt is None:  # embeddings, or the pipeline says what is missing
            self.conditioning = None
            return call(
                negative_prompt=negative_prompt, num_images_per_prompt=num_images_per_prompt, **options
            )
        known = {*_OPTIONS, *signature(call).parameters, *_OLD} - {"kwargs"}
        for name in options:  # SD 1's pipeline takes any name, and says nothing
            if name not in known:
                raise LongalignError(unknown("option", name, sorted(known)))
        chosen = {name: options.pop(name) for name in _OPTIONS if name in options}
        self.conditioning = conditioning = encode(self, prompt, negative_prompt, **chosen)
        return call(**conditioning.pipeline_kwargs(num_images_per_prompt), **options)
