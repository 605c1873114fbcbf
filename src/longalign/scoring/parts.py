"""Scores of a data set in parquet files, one a block: what `longalign score --data` writes and reads again.

    image, error, prompt                       text; a picture that could not be read has an error and no scores
    overall, single, aligned, …                × 100, but η
    worst                                      the number of the lowest sentence
    segments                                   list of {text, score, aligned, late, probability, verdict, relative}

Numbers are kept in float64, so that they come back as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from longalign.data.arrow import parquet_file, pyarrow
from longalign.data.entries import Failure
from longalign.errors import LongalignError
from longalign.preference import SegmentScore
from longalign.runs import atomic_path
from longalign.scoring.data import Pair
from longalign.scoring.stream import Scored

SCORES = ("overall", "single", "aligned", "aligned_cosine", "irrelevant", "eta")
_NUMBERS = ("score", "aligned", "late", "probability", "relative")


def part_path(folder: Path, block: int) -> Path:
    """Where the scores of a block are.

    Args:
        folder: of all parts.
        block: its number.
    """
    return folder / f"{block:05d}.parquet"


def write_part(path: Path, results: Sequence[Scored | Failure]) -> None:
    """Writes the scores of a block, whole.

    Args:
        path: of the part.
        results: of its rows, in order.

    Raises:
        LongalignError: the disk refuses.
    """
    pa = pyarrow()
    table = pa.Table.from_pylist(list(map(_row, results)), schema=_schema(pa))
    with atomic_path(path) as temporary:
        pa.parquet.write_table(table, temporary, compression="zstd")


def read_part(path: Path) -> Iterator[Scored | Failure]:
    """The rows of a part, in order. A pair's picture is its name alone.

    Args:
        path: of the part.

    Raises:
        LongalignError: the file is damaged.
    """
    pa = pyarrow()
    try:
        rows = parquet_file(path).read().to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise LongalignError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}). Remove it: the same "
            "command scores these rows again"
        ) from None
    return map(_result, rows)


def _schema(pa: Any) -> Any:
    number, text = pa.float64(), pa.string()
    segment = pa.struct(
        [("text", text), *((name, number) for name in _NUMBERS[:4]), ("verdict", text), ("relative", number)]
    )
    return pa.schema(
        [
            ("image", text),
            ("error", text),
            ("prompt", text),
            *((name, number) for name in SCORES),
            ("worst", pa.int32()),
            ("segments", pa.list_(segment)),
        ]
    )


def _row(result: Scored | Failure) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"image": _text(result.name), "error": _text(result.reason)}
    row = result.to_json()
    return {**row, "image": _text(row["image"]), "prompt": _text(row["prompt"])}


def _text(text: str) -> str:
    """Without lone surrogates (undecodable bytes of file names), which have no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _result(row: dict[str, Any]) -> Scored | Failure:
    if row["error"] is not None:
        return Failure(row["image"], row["error"])
    relative = [s.pop("relative") for s in row["segments"]]
    return Scored(
        Pair(Path(row["image"]), row["prompt"], row["image"]),
        {name: row[name] for name in SCORES if row[name] is not None},
        [SegmentScore(**segment) for segment in row["segments"]],
        None if not relative or relative[0] is None else relative,
    )
