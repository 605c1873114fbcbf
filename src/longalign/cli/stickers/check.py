"""`longalign stickers check`."""

from __future__ import annotations

from typing import Annotated

import typer

from longalign.cli.options import Json, Model
from longalign.cli.terminal import print_json, progress, show_tables


def check(
    sentences: Annotated[int, typer.Option(min=100, help="True ones, and as many lies.")] = 10_000,
    scenes: Annotated[
        int, typer.Option(min=0, help="Held-out scenes to draw with the model; 0: none.")
    ] = 200,
    model: Model = "stickers",
    as_json: Json = False,
) -> None:
    """Measure the oracle on clean and on spoilt pictures, and the base model on held-out scenes."""
    from longalign.studies.check import check_model, check_oracle

    with progress("oracle", 6) as advance:
        tables = [check_oracle(sentences, model=model, on_step=advance)]
    if scenes:
        with progress("drawing", scenes * 25 * 3) as advance:
            tables += [check_model(scenes, model=model, on_step=advance)]
    if as_json:
        from longalign.studies.accuracy import tables_json

        print_json(tables_json(tables))
        return
    show_tables(tables)
