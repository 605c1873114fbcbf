"""`encode` and `encode_groups`: prompts → `Conditioning`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Unpack

from longalign.encoding.conditioning import Conditioning, warn_of_cuts
from longalign.encoding.job import Job
from longalign.encoding.options import EncodeOptions, Options, takes_options
from longalign.errors import LongalignError


@takes_options
def encode(
    pipe_or_parts: Any,
    prompts: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None = None,
    **options: Unpack[EncodeOptions],
) -> Conditioning:
    """Encodes prompts of any length for a Stable Diffusion 1.x, 2.x, XL or 3 pipeline.

    Example: ``pipe(**longalign.encode(pipe, prompt).pipeline_kwargs())``. Text that does not fit is reported in
    ``Conditioning.truncation`` and by one `TruncationWarning`. The encoders run on their own devices, in their own
    precision, without gradients and dropout. Only the result stays on the device.

    Args:
        pipe_or_parts: a diffusers pipeline, or `TextParts` where there is none.
        prompts: one text or several.
        negative_prompt: one text for all prompts, or one for each. None means the same as in the pipeline: the empty
            prompt, or zeros for SDXL. It is encoded like the prompts and gets the same padded length.
        strategy: ``plain`` is the pipeline's own encoding of the first 77 tokens; it ignores length, max_length
            and pooled. ``clip-cat`` encodes each segment by itself and joins them (LongAlign, §3.1);
            for SD3, T5 reads the whole prompt beside it. ``t5-mlp`` is T5 on the whole prompt through an
            adapter, ``clip+t5`` both, one behind the other (§5.1, §5.3); they need ``t5``. A `ConcatRule`, or
            ``"clip-cat:sot=first,eot=keep"``, chooses App. A's other ways of joining. ``"clip-cat:context=before"`` and
            ``context=referent`` encode a sentence behind earlier ones, which it may refer to.
        length: each part (CLIP's and T5's) is padded to the smallest multiple of this many tokens that holds
            the prompt and its negative. Other prompts of the batch have no influence.
        max_length: most tokens of each part; the rest is cut. None: no limit for CLIP's part; for T5's part the limit
            of its tokenizer.
        segments: how to cut prompts: ``sentence``, ``packed`` (App. A's `multi`), ``released``, or a
            `Segmenter`.
        pooled: the pooled vector for SDXL and SD3: that of the ``first`` segment, the ``mean`` over segments, or that
            of the ``whole`` prompt, cut to the window.
        language: of the prompts, for the segmenter.
        t5: the T5 branch for ``t5-mlp`` and ``clip+t5``.
        batch_size: most rows in one call of a text encoder. A CLIP's row holds as many segments as fit its
            window; equal segments are encoded once.
        cache: keeps encoded segments between calls.

    Raises:
        LongalignError: the input is wrong, or the prompts have different padded lengths and cannot be one tensor
            (`encode_groups` accepts them).
    """
    job = Job(pipe_or_parts, prompts, negative_prompt, Options(**options))
    groups = job.groups()
    if len(groups) > 1:
        sizes = ", ".join(f"prompt {members[0]}: {sum(shape)} tokens" for shape, members in groups.items())
        raise LongalignError(
            f"these prompts have different padded lengths ({sizes}), so they cannot be one batch: use "
            "encode_groups, or a length that holds the longest"
        )
    [conditioning] = job.run(groups)
    warn_of_cuts(conditioning.truncation, stacklevel=2)
    return conditioning


@takes_options
def encode_groups(
    pipe_or_parts: Any,
    prompts: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None = None,
    **options: Unpack[EncodeOptions],
) -> list[tuple[list[int], Conditioning]]:
    """`encode` for prompts of any mixture of lengths: one `Conditioning` for each padded length.

    Each group has the places of its prompts in ``prompts``, in order. The group of the first prompt comes first. The
    text encoders run once for all groups.

    Args:
        pipe_or_parts, prompts, negative_prompt: as in `encode`. So are the options: strategy, length, max_length,
            segments, pooled, language, t5, batch_size, cache.

    Raises:
        LongalignError: as in `encode`.
    """
    job = Job(pipe_or_parts, prompts, negative_prompt, Options(**options))
    groups = job.groups()
    conditionings = job.run(groups)
    warn_of_cuts(job.truncation(range(len(job.prompts))), stacklevel=2)
    return list(zip(groups.values(), conditionings, strict=True))
