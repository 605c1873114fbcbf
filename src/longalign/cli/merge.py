"""`longalign merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longalign.cli.options import ForceLora, Json
from longalign.cli.terminal import print_json, print_table
from longalign.errors import LongalignError


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
        print_json(made.to_json())
        return
    if made.errors:
        print_table(made.table())
    print(f"{made.out}: " + ("a pipeline folder" if into is not None else f"a LoRA of rank {made.rank}"))
