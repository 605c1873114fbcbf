"""The command line: a table of functions, each calling what the library and the web page call too.

Torch and diffusers are imported inside the commands, so that `--help` answers at once. Exit codes: 0 done,
1 something broke, 2 the input was wrong (the message says how).
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Annotated, Any

import typer

from longalign.checkpoints import cli as checkpoints
from longalign.data.cli import cache, caption
from longalign.editing.cli import SoftTokenBranches, SoftTokenScale, SoftTokensOption, edit
from longalign.errors import LongalignError
from longalign.metrics import cli as metrics
from longalign.scoring import cli as scoring
from longalign.stages.cli import ForceLora, Loras, merge
from longalign.stickers.cli import app as stickers
from longalign.terminal import (
    Device,
    Dtype,
    Json,
    Language,
    Model,
    Out,
    Overwrite,
    Prompts,
    SegmentsOption,
    plain_text,
    print_table,
    progress,
)
from longalign.training.cli import train

app = typer.Typer(
    name="longalign",
    help="Make text-to-image diffusion models follow long, detailed prompts.\n\nStart with: longalign demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def segment(
    prompts: Prompts,
    mode: SegmentsOption = "sentence",
    model: Annotated[
        str | None, typer.Option(help="Count tokens as this model's tokenizer does; else count words.")
    ] = None,
    window: Annotated[int, typer.Option(help="Most tokens of a segment, special ones included.")] = 77,
    language: Language = "en",
    as_json: Json = False,
) -> None:
    """Show how prompts are cut into segments, with token counts.

    Nothing is lost: every non-blank character is in exactly one segment. Example:

        longalign segment "A fox. It is 3.5 m long." --model stickers
    """
    from longalign.prompts import read_prompts
    from longalign.segments import Segmenter

    texts = read_prompts(prompts)
    tokenizer = None
    if model is not None:
        from longalign.pipelines import load_tokenizer

        tokenizer = load_tokenizer(model)
    segmenter = Segmenter(mode, tokenizer=tokenizer, window=window, language=language)  # type: ignore[arg-type]
    found = [segmenter(text) for text in texts]

    def tokens(text: str) -> int:
        return len(tokenizer(text, verbose=False).input_ids) if tokenizer else len(text.split())

    rows = [
        [{"text": s.text, "start": s.start, "end": s.end, "tokens": tokens(s.text)} for s in f] for f in found
    ]
    if as_json:
        print(
            json.dumps(
                [{"prompt": t, "segments": r} for t, r in zip(texts, rows, strict=True)], ensure_ascii=False
            )
        )
        return
    from rich.console import Console
    from rich.table import Table

    unit = "tokens" if tokenizer else "words"
    for i, of_prompt in enumerate(rows):
        table = Table("", "segment", unit, "characters", title=f"prompt {i + 1}" if len(rows) > 1 else None)
        for k, row in enumerate(of_prompt, 1):
            table.add_row(
                str(k), plain_text(str(row["text"])), str(row["tokens"]), f"{row['start']}–{row['end']}"
            )
        Console().print(table)


@app.command()
def generate(
    prompts: Prompts,
    model: Model = "stickers",
    lora: Loras = None,
    soft_tokens: SoftTokensOption = None,
    soft_token_scale: SoftTokenScale = 1.0,
    soft_token_branches: SoftTokenBranches = "both",
    strategy: Annotated[
        str,
        typer.Option(
            help="clip-cat: segment by segment (LongAlign); plain: the pipeline's own, first 77 tokens; "
            "t5-mlp; clip+t5; clip-cat:sot=first,eot=keep and the like; clip-cat:context=before or referent: each "
            "sentence behind earlier ones; auto: what the LoRA was trained with, else clip-cat."
        ),
    ] = "auto",
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 25,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance scale; else the model's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture of each prompt.")] = 0,
    num: Annotated[int, typer.Option(min=1, help="Pictures a prompt, from seeds seed, seed + 1, …")] = 1,
    scheduler: Annotated[
        str,
        typer.Option(help="auto (UniPC; a flow model's own), own, unipc, ddim, dpm++, deis, euler, pndm."),
    ] = "auto",
    negative: Annotated[str | None, typer.Option(help="Negative prompt, of any length.")] = None,
    segments: SegmentsOption = "sentence",
    pooled: Annotated[
        str, typer.Option(help="Pooled vector of SDXL and SD3: first, mean or whole.")
    ] = "whole",
    length: Annotated[
        int | None, typer.Option(help="Pad text to a multiple of this many tokens; else the model's.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut text after so many tokens, and say so.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; else the model's.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; else the model's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most pictures at once.")] = 16,
    language: Language = "en",
    device: Device = "auto",
    dtype: Dtype = "auto",
    force_lora: ForceLora = False,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw pictures of prompts of any length, and report on them sentence by sentence.

    Examples:

        longalign generate "The background is navy. A fox is in the top left. …"

        longalign generate @prompts.txt --model stable-diffusion-v1-5/stable-diffusion-v1-5 --num 4

        longalign generate @prompts.txt --lora stickers/sft --lora stickers/reward

        longalign generate @prompts.txt --soft-tokens runs/softrepa --soft-token-scale 0.7
    """
    from longalign.prompts import read_prompts

    texts = read_prompts(prompts)
    from longalign.generate import GenerateConfig
    from longalign.generate import generate as run

    config = GenerateConfig(
        model=model,
        loras=tuple(lora or ()),
        soft_tokens=soft_tokens,
        soft_token_scale=soft_token_scale,
        soft_token_branches=soft_token_branches,
        strategy=strategy,
        segments=segments,
        pooled=pooled,
        negative_prompt=negative,
        length=length,
        max_length=max_length,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        seed=seed,
        num=num,
        width=width,
        height=height,
        batch_size=batch_size,
        language=language,
        device=device,
        dtype=dtype,
        check_base=not force_lora,
    )
    with progress("drawing", len(texts) * num * steps) as advance:
        made = run(texts, config, out=out, overwrite=overwrite, on_step=advance)
    if as_json:
        print(json.dumps(made.to_json(), ensure_ascii=False))
        return
    from rich.console import Console

    console = Console()
    for i, rows in enumerate(made.rows):
        files = ", ".join(str(made.folder / p.file) for p in made.pictures if p.prompt_index == i)
        console.print(f"[bold]prompt {i + 1}[/bold]  {len(rows)} sentences → {files}", soft_wrap=True)
    console.print(f"report: {made.folder / 'report.html'}", soft_wrap=True)


@app.command()
def demo(
    out: Out = None,
    scenes: Annotated[int, typer.Option(min=1, help="How many held-out scenes.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps (UniPC).")] = 25,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture's noise.")] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw crowded held-out scenes plainly, segment by segment and with trained stages, and let the oracle judge.

    Needs nothing but the package: the models of the sticker world are inside.
    """
    from longalign.demo import demo as run
    from longalign.demo import demo_steps

    with progress("drawing", demo_steps(scenes, steps)) as advance:
        made = run(scenes=scenes, steps=steps, seed=seed, out=out, overwrite=overwrite, on_step=advance)
    if as_json:
        print(json.dumps(made.to_json(), ensure_ascii=False))
        return
    print_table(made.accuracy)
    print(f"report: {made.folder / 'report.html'}")


app.command("score")(scoring.score)
app.command("decompose")(scoring.decompose)
app.command()(train)
app.command()(merge)
app.command()(edit)
app.command()(cache)
app.command()(caption)
metrics.register(app, stickers)
checkpoints.register(app)
app.add_typer(stickers, name="stickers")


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line a warning. Where in the code it was noticed is no user's business, nor what libraries plan to change."""
    if not issubclass(category, (DeprecationWarning, FutureWarning, ResourceWarning)):
        print(f"longalign: {message}", file=sys.stderr)


def main() -> None:
    """Entry point: runs the command; wrong input ends with one line and status 2."""
    warnings.showwarning = _show_warning
    try:
        app()
    except LongalignError as error:
        print(f"longalign: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
