"""`longalign merge`, and the options by which commands put LoRA stages on a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.terminal import Json, print_table
from longalign.errors import LongalignError

Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        help="LoRA on the model: a folder that `longalign train` wrote, any in diffusers' layout, or stickers/sft. "
        "Again for each further stage, in the order of training.",
    ),
]
ForceLora = Annotated[
    bool, typer.Option("--force-lora", help="Take a LoRA even if it was trained on other weights.")
]


def merge(
    loras: Annotated[list[str], typer.Argument(help="LoRA folders or files, in the order of training.")],
    out: Annotated[Path, typer.Option(help="Folder to write; empty, or not there yet.")],
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Rank of the result, by truncated SVD; else the sum of the ranks, exactly."),
    ] = None,
    into: Annotated[
        str | None, typer.Option(help="Add them to this model's weights and write a whole pipeline folder.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Check the stack against this model.")] = None,
    dtype: Annotated[str, typer.Option(help="Of --into: float32, float16 or bfloat16.")] = "float32",
    force: ForceLora = False,
    as_json: Json = False,
) -> None:
    """Make one LoRA of several stacked ones (SFT, then RFT), or write them into a model's weights.

    The result loads wherever a LoRA does: --lora, or pipe.load_lora_weights(FOLDER). Examples:

        longalign merge runs/sft runs/rft --out both

        longalign merge runs/sft runs/rft --rank 8 --out small

        longalign merge stickers/sft --into stickers --out model
    """
    from longalign.weights.merge import merge_into, merge_loras

    if into is not None:
        if rank is not None or base is not None:
            raise LongalignError("--rank and --base are for a LoRA; --into writes a model. Leave them out.")
        if dtype not in ("float32", "float16", "bfloat16"):
            raise LongalignError(f"dtype {dtype!r} is unknown; one of float32, float16, bfloat16")
        made = merge_into(loras, into, out, dtype=dtype, check_base=not force)
    else:
        made = merge_loras(loras, out, rank=rank, base=base, check_base=not force)
    if as_json:
        print(json.dumps(made.to_json(), ensure_ascii=False))
        return
    if made.errors:
        print_table(made.table())
    print(f"{made.out}: " + ("a pipeline folder" if into is not None else f"a LoRA of rank {made.rank}"))
