"""Options that several commands share, each with one help text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from longalign.engine import Engine

Settings = TypeVar("Settings")

Prompts = Annotated[
    list[str],
    typer.Argument(
        help="Prompts: text, @file (one a line, JSONL, or a picture that carries its prompt), @stickers:1000 "
        "(captions of a world), or - (standard input)."
    ),
]

# What every command that writes or prints has
Out = Annotated[Path | None, typer.Option(help="Run folder to write; else runs/<command>-<date>-NNN.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines on standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, float16, bfloat16.")]

# Where much work is done (`longalign.engine`)
On = Annotated[
    str,
    typer.Option("--on", help="local: this process. ray: workers of Ray, of RAY_ADDRESS or of this machine."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Workers of --on ray.", show_default="one a GPU, or one a CPU")
]

# A model and what is put on it (`longalign.weights.stack.Stack`)
Model = Annotated[
    str,
    typer.Option(
        help="'stickers' (embedded; also stickers-sdxl, stickers-sd3), a diffusers folder, or a hub name."
    ),
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        help="LoRA on the model: a folder that `longalign train` wrote, any in diffusers' layout, or stickers/sft. "
        "Repeat for each further stage, in the order of training.",
    ),
]
ForceLora = Annotated[
    bool, typer.Option("--force-lora", help="Take a LoRA even if it was trained on other weights.")
]
LoraBase = Annotated[
    str | None, typer.Option(help="The LoRA's model: 'stickers', a diffusers folder or a hub name.")
]
SoftTokens = Annotated[
    str | None,
    typer.Option(
        "--soft-tokens",
        help="Trained soft text tokens (SoftREPA): a file, the folder that `longalign train` or `import` wrote, or "
        "embedded ones (stickers/softrepa).",
    ),
]
SoftTokenScale = Annotated[
    float, typer.Option(min=0, max=1, help="How much of the soft tokens' effect, from 0 (none) to 1.")
]
SoftTokenBranches = Annotated[
    str, typer.Option(help="Branches of guidance that get soft tokens: both (the paper), cond or uncond.")
]

# How text is encoded
Strategy = Annotated[
    str,
    typer.Option(
        help="Text encoding. clip-cat: segment by segment (LongAlign); plain: the pipeline's own, first 77 tokens; "
        "t5-mlp; clip+t5; clip-cat:sot=first,eot=keep and other variants; clip-cat:context=referent: each sentence "
        "behind those that it refers to; auto: what the last LoRA was trained with, else plain for a text that fits "
        "the window and clip-cat for a longer one."
    ),
]
SyntaxName = Annotated[
    str,
    typer.Option(
        "--syntax",
        help="Notation of weights in the prompts: plain (none), a1111 ((red:1.4), [word], BREAK), compel (word++).",
    ),
]
ClipSkip = Annotated[
    int | None,
    typer.Option(min=0, help="Skip so many of CLIP's last layers, as in diffusers (A1111 counts one more)."),
]
Segments = Annotated[
    str,
    typer.Option(
        help="How to cut prompts: sentence, packed, released; auto: as the LoRA was trained, else sentence."
    ),
]
Length = Annotated[
    int | None, typer.Option(help="Pad text to a multiple of this many tokens; else the model's.")
]
Language = Annotated[str, typer.Option(help="Language of the prompts, for cutting sentences (ISO 639-1).")]

# How pictures are drawn and edited
SamplingSteps = Annotated[int, typer.Option(min=1, help="Sampling steps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Most pictures at once.")]
NoiseSeed = Annotated[int, typer.Option(min=0, help="Seed of the first picture's noise.")]
EditStart = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Share of the steps that are taken: more changes more. Else the method's."
    ),
]
SourceGuidance = Annotated[float | None, typer.Option(help="Guidance towards the source; else the method's.")]
TargetGuidance = Annotated[
    float | None, typer.Option(help="Guidance towards the target: more changes more. Else the method's.")
]
EditSamples = Annotated[int, typer.Option(min=1, help="Noises averaged in each step (flowedit).")]
EditIterations = Annotated[
    int, typer.Option(min=1, help="Calls for each step of the inversion (ddim); more make it exact.")
]

# Judging
Scorer = Annotated[
    str | None,
    typer.Option(
        "--scorer",
        "--preference",
        help="Preference model that scores each sentence: stickers/denscore, a folder, a hub name.",
    ),
]
PreferenceModelName = Annotated[
    str,
    typer.Option(
        "--model",
        help="Preference model: 'stickers' (embedded), a CLIPModel folder, a hub name, or an open_clip file (HPSv2).",
    ),
]
Tokenizer = Annotated[
    str | None, typer.Option(help="Folder or hub name of the tokenizer, where the model has none.")
]
ScoreBatchSize = Annotated[int, typer.Option(min=1, help="Pictures at once.")]
PreferenceModels = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="A preference model: NAME or LABEL=NAME, where NAME is stickers/clip or another embedded one, a CLIPModel "
        "folder, or a hub name. Repeat for each model, the plain CLIP first; else all embedded ones.",
    ),
]
VPrompts = Annotated[
    Path | None,
    typer.Option(
        "--v-prompts", help="Prompts to fit V on for models that have none stored: one a line, or JSONL."
    ),
]
BootstrapSamples = Annotated[int, typer.Option(min=100, help="Bootstrap draws.")]

# Sticker scenes
Objects = Annotated[str, typer.Option(help="Least and greatest number of stickers of a scene.")]
Split = Annotated[str, typer.Option(help="Of the sticker scenes: train, validation or test.")]
Referring = Annotated[bool, typer.Option(help="Captions that refer across sentences.")]
ScenesSeed = Annotated[int, typer.Option(min=0, help="Seed of the series of scenes.")]
KeepPictures = Annotated[int, typer.Option(min=0, help="Keep and show the pictures of so many scenes.")]


def settings_of(kind: type[Settings], given: Mapping[str, Any], **other: Any) -> Settings:
    """A settings object from the arguments of a command.

    Args:
        kind: a dataclass, such as `GenerateConfig`. Its fields have the names of the command's parameters.
        given: the command's ``locals()``. Names that are no fields of `kind` are left out.
        other: fields with other names, or in another form, on the command line. They replace those of `given`.
    """
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{**{name: given[name] for name in names & set(given)}, **other})


def stack_of(lora: list[str] | None, *, force_lora: bool = False, **other: Any) -> dict[str, Any]:
    """The fields of `Stack` that the command line has in another form, for `settings_of`."""
    return {"loras": tuple(lora or ()), "check_base": not force_lora, **other}


def engine_of(on: str, workers: int | None) -> Engine:
    """Where a command's work is done.

    Args:
        on: ``local`` or ``ray``.
        workers: of Ray.

    Raises:
        LongalignError: there is no such place, or no such number of workers.
    """
    from longalign.engine import Engine

    return Engine(on, workers)
