"""The command line: a table of functions, each calling what the library and the web page call too.

Torch and diffusers are imported inside the commands, so that `--help` answers at once. Exit codes: 0 done,
1 something broke, 2 the input was wrong (the message says how).
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from longalign.errors import LongalignError

app = typer.Typer(
    name="longalign",
    help="Make text-to-image diffusion models follow long, detailed prompts.\n\nStart with: longalign demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Prompts = Annotated[
    list[str], typer.Argument(help="Prompts: text, @file (one a line, or JSONL), or - for standard input.")
]
Model = Annotated[str, typer.Option(help="'stickers' (embedded), a diffusers folder, or a hub name.")]
Out = Annotated[Path | None, typer.Option(help="Run folder to write; else runs/<command>-<date>-NNN.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines on standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, float16, bfloat16.")]
Language = Annotated[str, typer.Option(help="Language of the prompts, for cutting sentences (ISO 639-1).")]
SegmentsOption = Annotated[str, typer.Option(help="How to cut prompts: sentence, packed or released.")]


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error (none where that is no terminal); yields the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


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
                str(k), _plain_text(row["text"]), str(row["tokens"]), f"{row['start']}–{row['end']}"
            )
        Console().print(table)


@app.command()
def generate(
    prompts: Prompts,
    model: Model = "stickers",
    strategy: Annotated[
        str,
        typer.Option(
            help="clip-cat: segment by segment (LongAlign); plain: the pipeline's own, first 77 tokens; "
            "t5-mlp; clip+t5; clip-cat:sot=first,eot=keep and the like."
        ),
    ] = "clip-cat",
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
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw pictures of prompts of any length, and report on them sentence by sentence.

    Examples:

        longalign generate "The background is navy. A fox is in the top left. …"

        longalign generate @prompts.txt --model stable-diffusion-v1-5/stable-diffusion-v1-5 --num 4
    """
    from longalign.prompts import read_prompts

    texts = read_prompts(prompts)
    from longalign.generate import GenerateConfig
    from longalign.generate import generate as run

    config = GenerateConfig(
        model=model,
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
    """Draw crowded held-out scenes with and without segment-level encoding, and let the oracle judge.

    Needs nothing but the package: the models of the sticker world are inside.
    """
    from longalign.demo import COLUMNS, demo_steps
    from longalign.demo import demo as run

    with progress("drawing", demo_steps(scenes, steps)) as advance:
        made = run(scenes=scenes, steps=steps, seed=seed, out=out, overwrite=overwrite, on_step=advance)
    if as_json:
        print(json.dumps(made.to_json(), ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "sentences", *COLUMNS, "chance", title=f"sentences that are true of the picture ({scenes} scenes)"
    )
    for row in made.accuracy.rows:
        table.add_row(*[c if isinstance(c, str) else f"{c} ({c.interval})" for c in row])
    Console().print(table)
    print(f"report: {made.folder / 'report.html'}")


stickers = typer.Typer(
    no_args_is_help=True, help="The embedded sticker world: its pictures, models and oracle."
)
app.add_typer(stickers, name="stickers")


@stickers.command("render")
def stickers_render(
    out: Annotated[Path, typer.Option(help="Folder for PNG files and metadata.jsonl (image folder layout).")],
    count: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 16,
    objects: Annotated[str, typer.Option(help="Least and greatest number of stickers.")] = "1-5",
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the series of scenes.")] = 0,
    referring: Annotated[bool, typer.Option(help="Captions that refer across sentences.")] = False,
    scale: Annotated[int, typer.Option(min=1, max=8, help="Pixels are 96 times this.")] = 1,
) -> None:
    """Write scenes with captions as an image folder that datasets and trainers read."""
    from longalign.stickers.files import render_folder

    count = render_folder(out, count, objects, split=split, seed=seed, referring=referring, scale=scale)
    print(f"{count} scenes in {out}")


@stickers.command("train")
def stickers_train(
    part: Annotated[str, typer.Argument(help="vae, clip, unet, t5 or adapter; or all, in this order.")],
    out: Annotated[Path, typer.Option(help="Folder for weights, curves and checkpoints; resumes from it.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps; else the shipped weights' number.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Device = "auto",
) -> None:
    """Train the tiny models from nothing, as the shipped ones were (hours on two cores)."""
    from longalign.pipelines import pick_device
    from longalign.stickers.training import PARTS, STEPS, fit

    if part not in (*PARTS, "all"):
        raise LongalignError(f"no part {part!r}; one of all, {', '.join(PARTS)}")
    for name in PARTS if part == "all" else [part]:
        total = steps or STEPS[name]
        with progress(name, total) as advance:
            fit(name, out, steps=total, seed=seed, device=pick_device(device), on_step=advance)
    print(f"weights in {out}")


@stickers.command("pack")
def stickers_pack(
    source: Annotated[Path, typer.Argument(help="Folder that `stickers train` wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder to make: a diffusers pipeline in fp16.")],
) -> None:
    """Put trained parts together as one Stable Diffusion folder in fp16."""
    from longalign.stickers.files import pack

    size_bytes = pack(source, out)
    print(f"{out}: {size_bytes / 1e6:.1f} MB")


@stickers.command("check")
def stickers_check(
    sentences: Annotated[int, typer.Option(min=100, help="True ones, and as many lies.")] = 10_000,
    scenes: Annotated[
        int, typer.Option(min=0, help="Held-out scenes to draw with the model; 0: none.")
    ] = 200,
    model: Model = "stickers",
    as_json: Json = False,
) -> None:
    """Measure the oracle on clean and on spoilt pictures, and the base model on held-out scenes."""
    from longalign.stickers.check import check_model, check_oracle

    with progress("oracle", 6) as advance:
        tables = [check_oracle(sentences, model=model, on_step=advance)]
    if scenes:
        with progress("drawing", scenes * 25 * 3) as advance:
            tables += [check_model(scenes, model=model, on_step=advance)]
    if as_json:
        print(
            json.dumps([{"caption": t.caption, "columns": t.columns, "rows": _plain_rows(t)} for t in tables])
        )
        return
    from rich.console import Console
    from rich.table import Table

    for table in tables:
        shown = Table(*table.columns, title=table.caption, caption=table.note or None)
        for row in table.rows:
            shown.add_row(*[c if isinstance(c, str) else f"{c} ({c.interval})" for c in row])
        Console().print(shown)


def _plain_rows(table: Any) -> list[list[Any]]:
    return [
        [c if isinstance(c, str) else {"value": c.value, "low": c.low, "high": c.high, "n": c.n} for c in row]
        for row in table.rows
    ]


def _plain_text(text: str) -> Any:
    from rich.text import Text

    return Text(text)  # not as rich's markup: a prompt may hold [brackets]


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
