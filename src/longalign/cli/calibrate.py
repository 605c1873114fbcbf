"""`longalign calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longalign.cli.options import Device, Dtype, Json, PreferenceModelName, ScoreBatchSize, Tokenizer
from longalign.cli.terminal import print_json, progress
from longalign.errors import LongalignError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longalign.scoring.calibrate import Asked
    from longalign.scoring.data import Failure


def calibrate(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Your captioned pictures, as for `longalign score`.", show_default="held-out sticker scenes"
        ),
    ] = None,
    model: PreferenceModelName = "stickers",
    tokenizer: Tokenizer = None,
    late: Annotated[
        str, typer.Option(help="trained: by the model's late head, if any; zero-shot: by patches; none.")
    ] = "trained",
    error: Annotated[float, typer.Option(help="Share of wrong ones promised among firm verdicts.")] = 0.05,
    pictures: Annotated[int, typer.Option(min=2, help="Read so many at most.")] = 1000,
    beside: Annotated[
        bool,
        typer.Option("--beside", help="Save it beside the model's weights, where every command finds it."),
    ] = False,
    batch_size: ScoreBatchSize = 32,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Annotated[
        Path | None, typer.Option(help="File to save it in.", show_default="calibration.json")
    ] = None,
    as_json: Json = False,
) -> None:
    """Learn what a sentence's score means: P(true), and when a verdict is true, doubtful or false.

    Sentences of a picture's own caption should be called true, those of
    another picture's false; no labels are needed. The file is for --calibration.
    Examples:

        longalign calibrate --data captions.jsonl --model openai/clip-vit-large-patch14 --late zero-shot

        longalign score --data captions.jsonl --calibration calibration.json --worst 50
    """
    from dataclasses import asdict
    from itertools import islice

    from longalign.preference import PreferenceModel
    from longalign.preference.calibration import FILE_NAME
    from longalign.scoring.calibrate import calibrate as run
    from longalign.scoring.calibrate import swapped
    from longalign.scoring.data import count_pairs, read_pairs
    from longalign.scoring.decompose import beside as place
    from longalign.stickers.scene_pairs import sticker_questions

    if late not in ("trained", "zero-shot", "none"):
        raise LongalignError(f"--late is trained, zero-shot or none, not {late!r}")
    target = place(model).with_name(FILE_NAME) if beside else out or Path(FILE_NAME)
    judge = PreferenceModel.from_pretrained(model, device=device, dtype=dtype, tokenizer=tokenizer, late=late)  # type: ignore[arg-type]  # checked above
    judge.calibration = None
    asked: Iterator[Asked | Failure]
    if data is None:
        asked, total = sticker_questions(pictures), pictures
        source = f"{pictures} sticker scenes of the validation split, each sentence and a lie in one word"
    else:
        asked, total = swapped(judge, islice(read_pairs(data), pictures)), min(pictures, count_pairs(data))
        source = f"own and swapped captions of {total} pictures of {data}"
    with progress("calibrating", total) as advance:
        found = run(
            judge, asked, source=source, error=error, batch_size=batch_size, save_to=target, on_step=advance
        )
    if as_json:
        print_json({**asdict(found), "file": str(target)})
        return
    measured = found.measured
    print(
        f"{found.kind} score: P(true) is one half at {found.offset:.2f}, temperature {found.temperature:.2f}\n"
        f"held out: calibration error {measured['ece']:.3f}; wrong of those called true "
        f"{measured['wrong_true']:.1%}, false {measured['wrong_false']:.1%} (promised: {error:.0%}); doubtful "
        f"{measured['doubtful']:.1%}\ncalibration: {target}"
    )
