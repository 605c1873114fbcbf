"""`longalign segment`."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.options import Json, Language, Prompts, Segments
from longalign.cli.terminal import plain_text, print_json


def segment(
    prompts: Prompts,
    mode: Segments = "sentence",
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
    from longalign.data.prompts import read_prompts
    from longalign.encoding.segments import Segmenter

    texts = read_prompts(prompts)
    tokenizer = None
    if model is not None:
        from longalign.diffusion.pipelines import load_tokenizer

        tokenizer = load_tokenizer(model)
    segmenter = Segmenter(mode, tokenizer=tokenizer, window=window, language=language)  # type: ignore[arg-type]

    def tokens(text: str) -> int:
        return len(tokenizer(text, verbose=False).input_ids) if tokenizer else len(text.split())

    rows = [
        [{"text": s.text, "start": s.start, "end": s.end, "tokens": tokens(s.text)} for s in segmenter(text)]
        for text in texts
    ]
    if as_json:
        print_json([{"prompt": t, "segments": r} for t, r in zip(texts, rows, strict=True)])
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
