"""Parquet and Arrow files by pyarrow, which is imported when it is needed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from longalign.errors import LongalignError
from longalign.paths import is_remote


def pyarrow() -> Any:
    """The package.

    Raises:
        LongalignError: it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError:
        raise LongalignError(
            "parquet and Arrow files are read with pyarrow, which is not installed: pip install pyarrow"
        ) from None


def files_of(path: Path) -> list[Path]:
    """A file, or all ``.parquet`` or else all ``.arrow`` files of a folder.

    Raises:
        LongalignError: there are none.
    """
    if path.is_file():
        return [path]
    for pattern in ("*.parquet", "*.arrow"):
        if files := sorted(path.glob(pattern)):
            return files
    inside = sorted(p.parent for p in path.glob("*/dataset_info.json"))
    advice = f"; did you mean one of its splits, such as {inside[0]}?" if inside else ""
    raise LongalignError(f"{path}: no .parquet or .arrow file in this folder{advice}")


def schema(file: Path) -> Any:
    """Names and types of the columns.

    Raises:
        LongalignError: the file is neither parquet nor Arrow.
    """
    pa = pyarrow()
    try:
        return arrow_table(file).schema if file.suffix == ".arrow" else parquet_file(file).schema_arrow
    except (OSError, pa.ArrowInvalid) as error:
        raise LongalignError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from error


def group_count(file: Path) -> int:
    """Parts that are read as one."""
    return 1 if file.suffix == ".arrow" else parquet_file(file).num_row_groups


def parquet_file(file: Path) -> Any:
    """An open parquet file, local or of a URL.

    Args:
        file: of `longalign.paths.path_of`.
    """
    pa = pyarrow()
    if is_remote(file):
        return pa.parquet.ParquetFile(file.path, filesystem=file.fs)  # type: ignore[attr-defined]
    return pa.parquet.ParquetFile(file)


def arrow_table(file: Path) -> Any:
    """All of an Arrow file, mapped and not read: in the stream format (`datasets`) or the file format."""
    pa = pyarrow()
    mapped = pa.py_buffer(file.read_bytes()) if is_remote(file) else pa.memory_map(str(file))
    try:
        return pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(mapped).read_all()


def row_group(file: Path, group: int, names: tuple[str, ...]) -> Any:
    """Some columns of a part of a parquet file."""
    # opened anew each time: an open file's position would be shared among forked workers
    return parquet_file(file).read_row_group(group, columns=list(names))
