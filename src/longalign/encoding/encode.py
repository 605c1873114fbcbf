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

    ``pipe(**longalign.encode(pipe, prompt).pipeline_kwargs())`` is all it takes. Whatever does not fit is
    reported in ``Conditioning.truncation`` and by one `TruncationWarning`. Encoders run where they are and in
    their own precision, without gradients and without dropout; nothing stays on their device but the result.

    Args:
        pipe_or_parts: a diffusers pipeline, or `TextParts` where there is none.
        prompts: one or several.
        negative_prompt: one for all or one each. None means what it means to the pipeline: the empty prompt,
            and zeros for SDXL. It is encoded like the prompts and comes out at the same length.
        strategy: ``plain`` is the pipeline's own encoding, the first 77 tokens; length, max_length and pooled
            mean nothing to it. ``clip-cat`` encodes each segment by itself and joins them (LongAlign, §3.1);
            for SD3, T5 reads the whole prompt beside it. ``t5-mlp`` is T5 on the whole prompt through an
            adapter, ``clip+t5`` both, one behind the other (§5.1, §5.3); they need ``t5``. A `ConcatRule`, or
            ``"clip-cat:sot=first,eot=keep"``, chooses App. A's other ways of joining. ``"clip-cat:context=before"`` and
            ``context=referent`` encode a sentence behind earlier ones, which it may refer to.
        length: each part (CLIP's and T5's) is padded to the smallest multiple of this many tokens that holds
            the prompt and its negative. Other prompts of the batch play no part.
        max_length: most tokens of each part; the rest is cut. None: no limit for CLIP's, and for T5's what
            its tokenizer states.
        segments: how to cut prompts: ``sentence``, ``packed`` (App. A's `multi`), ``released``, or a
            `Segmenter`.
        pooled: the vector that SDXL and SD3 want besides: that of the ``first`` segment, the ``mean`` over
            segments, or that of the ``whole`` prompt, as far as the window goes.
        language: of the prompts, for the segmenter.
        t5: the T5 branch for ``t5-mlp`` and ``clip+t5``.
        batch_size: most rows in one call of a text encoder. A CLIP's row holds as many segments as fit its
            window; equal segments are encoded once.
        cache: remembers encoded segments between calls.

    Raises:
        LongalignError: wrong input, or prompts of different padded lengths, which cannot be one tensor
            (`encode_groups` takes them).
    """
    job = Job(pipe_or_parts, prompts, negative_prompt, Options(**options))
    groups = job.groups()
    if len(groups) > 1:
        sizes = ", ".join(f"prompt {members[0]}: {sum(shape)} tokens" for shape, members in groups.items())
        raise LongalignError(
            f"these prompts come out at different lengths ({sizes}), so they cannot be one batch: use "
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

    Each comes with the places of its prompts in ``prompts``, in order; the group of the first prompt is the
    first. The text encoders still run once over all of them.

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
