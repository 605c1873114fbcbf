"""`encode` and `encode_groups`: prompts → `Conditioning`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from typing_extensions import Unpack

from longalign.encoding.conditioning import Conditioning, warn_of_cuts
from longalign.encoding.defaults import defaults_of
from longalign.encoding.job import Job
from longalign.encoding.options import EncodeOptions, Options, check_texts, takes_options, weights_each
from longalign.encoding.syntax import looks_weighted
from longalign.encoding.text_parts import TextParts
from longalign.errors import LongalignError

_SEGMENTS = "clip-cat"  # what `auto` takes for a text that does not fit


@takes_options
def encode(
    pipe_or_parts: Any,
    prompts: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None = None,
    *,
    pad_together: bool = False,
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
        pad_together: pad all prompts to the length of the longest. Else prompts of different padded lengths are an
            error, since padding has an influence on the picture. With ``auto``, all prompts are encoded by segments
            where one of them needs it.
        strategy: ``auto`` is what a LoRA that `longalign.load_pipeline` put on the pipeline was trained with; else
            ``plain`` for a prompt that fits the encoders' windows together with its negative prompt, else ``clip-cat``.
            ``plain`` is the pipeline's own encoding of the first 77 tokens, to the bit; it ignores length, max_length
            and pooled. ``clip-cat`` encodes each segment by itself and joins them (LongAlign, §3.1); for SD3, T5 reads
            the whole prompt beside it. ``t5-mlp`` is T5 on the whole prompt through an adapter, ``clip+t5`` both, one
            behind the other (§5.1, §5.3); they need ``t5``. A `ConcatRule`, or ``"clip-cat:sot=first,eot=keep"``,
            chooses App. A's other ways of joining. ``"clip-cat:context=before"`` and ``context=referent`` encode a
            sentence behind earlier ones, which it may refer to.
        length: each part (CLIP's and T5's) is padded to the smallest multiple of this many tokens that holds
            the prompt and its negative. Other prompts of the batch have no influence.
        max_length: most tokens of each part; the rest is cut. None: no limit for CLIP's part; for T5's part the limit
            of its tokenizer.
        segments: how to cut prompts: ``sentence``, ``packed`` (App. A's `multi`), ``released``, or a
            `Segmenter`.
        pooled: the pooled vector for SDXL and SD3: that of the ``first`` segment, the ``mean`` over segments, or that
            of the ``whole`` prompt, cut to the window.
        language: of the prompts, for the segmenter.
        syntax: the notation of weights and cuts in the prompts (`longalign.encoding.syntax`): ``plain`` (none),
            ``a1111`` (``(red:1.4)``, ``((word))``, ``[word]``, ``BREAK``) or ``compel`` (``word++``, ``(phrase)1.3``,
            ``("…", "…").and()``). Weights act on token states by the tool's formula (`longalign.encoding.weighting`).
            A cut begins a new segment.
        weights: one for each segment of the prompt, or a list for each of several prompts (None: all 1). They act by
            compel's rule: above 1 the sentence has more effect, below 1 less.
        clean: repair the text for the CLIPs as their training text was (`longalign.encoding.cleaning`): curly quotes,
            ligatures, HTML entities. ``plain`` never does.
        clip_skip: how many of a CLIP's last layers are skipped, as in diffusers (A1111 counts one more). As there,
            negative prompts are encoded without it.
        prompt_2, prompt_3, negative_prompt_2, negative_prompt_3: texts for the second and third text encoder, as in
            diffusers; else they get the same text as the first. ``segment_of`` and ``segments`` are those of the first.
        t5: the T5 branch for ``t5-mlp`` and ``clip+t5``.
        batch_size: most rows in one call of a text encoder. A CLIP's row holds as many segments as fit its
            window; equal segments are encoded once.
        cache: keeps encoded segments between calls.

    Raises:
        LongalignError: the input is wrong, or the prompts have different padded lengths and cannot be one tensor
            (`encode_groups` accepts them, and so does ``pad_together=True``).
    """
    read = Options.of(encode, suiting(pipe_or_parts, options))
    jobs = jobs_for(pipe_or_parts, prompts, negative_prompt, read, together=pad_together)
    groups = [(job, shape, members) for job in jobs for shape, members in job.groups().items()]
    if len(groups) > 1 and not pad_together:
        sizes = ", ".join(f"prompt {job.places[m[0]] + 1}: {sum(shape)} tokens" for job, shape, m in groups)
        raise LongalignError(
            f"these prompts have different padded lengths ({sizes}), so they cannot be one batch: use "
            "pad_together=True to pad them to the longest, or encode_groups, or a length that holds the longest"
        )
    [job] = jobs
    longest = max(shape[0] for _, shape, _ in groups), max(shape[1] for _, shape, _ in groups)
    [conditioning] = job.run({longest: range(len(job.prompts))})
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
    text encoders run once for all groups (with ``auto``, once for short prompts and once for long ones).

    Args:
        pipe_or_parts, prompts, negative_prompt: as in `encode`. So are the options: strategy, length, max_length,
            segments, pooled, language, syntax, weights, clean, clip_skip, prompt_2, prompt_3, negative_prompt_2,
            negative_prompt_3, t5, batch_size, cache.

    Raises:
        LongalignError: as in `encode`.
    """
    jobs = jobs_for(
        pipe_or_parts, prompts, negative_prompt, Options.of(encode_groups, suiting(pipe_or_parts, options))
    )
    found: list[tuple[list[int], Conditioning]] = []
    for job in jobs:
        groups = job.groups()
        places = ([job.places[i] for i in members] for members in groups.values())
        found += zip(places, job.run(groups), strict=True)
    found.sort(key=lambda group: group[0][0])
    cuts = {i: cut for members, c in found for i, cut in zip(members, c.truncation, strict=True)}
    warn_of_cuts([cuts[i] for i in sorted(cuts)], stacklevel=2)
    return found


@takes_options
def fits(
    pipe_or_parts: Any,
    prompts: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None = None,
    **options: Unpack[EncodeOptions],
) -> list[bool]:
    """For each prompt, whether the pipeline's own encoding reads it and its negative prompt whole.

    A prompt with a cut between segments (``BREAK``), or one longer than ``max_length``, does not fit.

    Args:
        pipe_or_parts, prompts, negative_prompt: as in `encode`. So are the options, of which those that decide how a
            text is read (syntax, max_length, prompt_2, …) matter.
    """
    texts = _Texts.of(prompts, negative_prompt, Options.of(fits, options))
    return _fits(TextParts.of(pipe_or_parts), texts)


def suiting(pipe_or_parts: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with what the pipeline's weights were trained with in place of `auto`."""
    if options.get("strategy", "auto") != "auto":
        return dict(options)
    noted = defaults_of(pipe_or_parts)
    return {**options, **{key: value for key, value in noted.items() if options.get(key, "auto") == "auto"}}


class _Texts(NamedTuple):
    """The texts of a call of `encode`."""

    prompts: list[str]
    negative: str | Sequence[str] | None
    options: Options

    @classmethod
    def of(
        cls, prompts: str | Sequence[str], negative: str | Sequence[str] | None, options: Options
    ) -> _Texts:
        return cls(check_texts(prompts, "prompt"), negative, options)

    def job(self, parts: TextParts, strategy: Any, places: Sequence[int]) -> Job:
        """The job of some of the prompts."""

        def chosen(given: str | Sequence[str] | None) -> str | Sequence[str] | None:
            one_each = given is not None and not isinstance(given, str) and len(given) == len(self.prompts)
            return [given[i] for i in places] if given is not None and one_each else given

        weights = weights_each(self.options.weights, len(self.prompts))
        options = replace(
            self.options,
            strategy=strategy,
            weights=None if self.options.weights is None else [weights[i] for i in places],
            prompt_2=chosen(self.options.prompt_2),
            prompt_3=chosen(self.options.prompt_3),
            negative_prompt_2=chosen(self.options.negative_prompt_2),
            negative_prompt_3=chosen(self.options.negative_prompt_3),
        )
        return Job(parts, [self.prompts[i] for i in places], chosen(self.negative), options, places)


def jobs_for(
    pipe_or_parts: Any,
    prompts: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None,
    options: Options,
    *,
    together: bool = False,
) -> list[Job]:
    """One job, or two for ``auto``: that of the prompts that fit, and that of the others.

    Args:
        together: all prompts become one tensor, so one encoding has to do for all.
    """
    texts = _Texts.of(prompts, negative_prompt, options)
    if options.syntax == "plain":
        _warn_of_marks([texts.prompts, negative_prompt, options.prompt_2, options.prompt_3])
    everything = range(len(texts.prompts))
    if options.strategy != "auto":
        return [texts.job(pipe_or_parts, options.strategy, everything)]
    parts = TextParts.of(pipe_or_parts)
    plain = _fits(parts, texts) if texts.prompts else []
    if together and not all(plain):
        plain = [False] * len(plain)
    if not texts.prompts:
        return [texts.job(parts, _SEGMENTS, everything)]  # which says that there are none
    halves = [
        ("plain", [i for i in everything if plain[i]]),
        (_SEGMENTS, [i for i in everything if not plain[i]]),
    ]
    return [texts.job(parts, strategy, places) for strategy, places in halves if places]


def _fits(parts: TextParts, texts: _Texts) -> list[bool]:
    most = texts.options.max_length
    # Each word is at least one token: long prompts need not be tokenised to see that they are too long.
    short = [i for i, prompt in enumerate(texts.prompts) if len(prompt.split()) < _most_tokens(parts)]
    found = [False] * len(texts.prompts)
    if short:
        job = texts.job(parts, "plain", short)
        for k, i in enumerate(short):
            found[i] = job.fits(k) and (most is None or job.n_tokens(k) <= most)
    return found


def _most_tokens(parts: TextParts) -> int:
    return max(
        *(t.model_max_length for t in parts.tokenizers if t is not None and t.model_max_length < 100_000),
        parts.backbone.t5_length,
        1,
    )


def _warn_of_marks(given: Iterable[str | Sequence[str] | None]) -> None:
    for texts in given:
        for i, text in enumerate([texts] if isinstance(texts, str) else texts or []):
            if isinstance(text, str) and (mark := looks_weighted(text)) is not None:
                warnings.warn(
                    f"prompt {i + 1}: {mark!r} looks like a weight or a cut of A1111 or compel and is read as letters; "
                    "syntax='a1111' or syntax='compel' (--syntax) reads it",
                    stacklevel=4,
                )
                return
