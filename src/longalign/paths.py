"""Local paths, and URLs as fsspec reads them: ``s3://bucket/data``, ``gs://…``, ``hdfs://…``, ``memory://…``.

A local name becomes a `pathlib.Path`, a URL a path of universal_pathlib, which has the same methods.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from longalign.errors import LongalignError

# Two letters at least: C:\ is a disk. One slash: pathlib makes s3:/bucket of s3://bucket.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


def path_of(name: str | os.PathLike[str]) -> Path:
    """The path of a name. That of a URL is no `Path` for `isinstance` (`is_remote`), but is used like one.

    Args:
        name: of a file or folder, or a URL; a URL that went through `pathlib.Path` (``s3:/bucket``) is known again.

    Raises:
        LongalignError: a URL of an unknown kind, or of one whose package is not installed.
    """
    if is_remote(name):
        return cast(Path, name)
    told = os.fspath(name)
    url = _URL.fullmatch(told)
    if url is None:
        return Path(told)
    scheme, rest = url[1].lower(), url[2]
    if scheme in ("file", "local"):
        return Path("/" + rest)
    try:
        from upath import UPath

        # Without a memory of listings: other processes write, too.
        found: Any = UPath(f"{scheme}://{rest}", use_listings_cache=False)
        _ = found.fs  # made now: it needs the package of its kind
    except ImportError:
        package = _PACKAGES.get(scheme, f"the package of fsspec for {scheme}://")
        raise LongalignError(
            f"{scheme}://{rest}: {scheme}:// is read by {package}, which is not installed: "
            f"pip install {_PACKAGES.get(scheme, 'fsspec[full]')}"
        ) from None
    except ValueError as error:
        raise LongalignError(f"{scheme}://{rest}: {error}") from None
    return cast(Path, found)


def is_remote(path: Any) -> bool:
    """Whether a path of `path_of` is a URL.

    Args:
        path: any object.
    """
    return hasattr(path, "fs") and hasattr(path, "protocol")


def need_local(path: str | os.PathLike[str] | None, what: str) -> None:
    """Raises `LongalignError` where a folder is a URL and has to be one of a disk.

    Args:
        path: of the folder; None: there is none.
        what: is written there, in words.
    """
    if path is not None and is_remote(path_of(path)):
        raise LongalignError(
            f"{path_of(path)}: {what} are written to a folder of a disk, which may be shared; copy it afterwards"
        )


@contextmanager
def local_file(path: Path) -> Iterator[Path]:
    """A local file with the contents of a path, for libraries that open files by themselves.

    Args:
        path: of `path_of`; a local one is given back.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="longalign-") as folder:
        copy = Path(folder) / path.name
        with path.open("rb") as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target)
        yield copy


def fetched(path: Path) -> Path:
    """A local copy of a file that is used again and again, such as a shard of a cache.

    Copies are kept in ``~/.cache/longalign/fetched``, or in ``LONGALIGN_FETCHED``; those that were not used for the
    longest time are removed where there are more than 100 GB, or ``LONGALIGN_FETCHED_GB``. All processes of a machine
    share them.

    Args:
        path: of `path_of`; a local one is given back.

    Raises:
        LongalignError: it cannot be fetched.
    """
    if not is_remote(path):
        return path
    place = Path(os.environ.get("LONGALIGN_FETCHED") or Path.home() / ".cache" / "longalign" / "fetched")
    try:
        told = path.stat()
        key = f"{path} {told.st_size} {getattr(told, 'st_mtime', 0)}"  # a file that was written anew is another one
        target = place / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}{path.suffix}"
        if target.is_file():
            os.utime(target)
            return target
        place.mkdir(parents=True, exist_ok=True)
        with local_file(path) as copy:
            temporary = target.with_name(f".{target.name}-{os.getpid()}")
            shutil.copyfile(copy, temporary)
            os.replace(temporary, target)
    except Exception as error:  # each kind of storage has its own
        raise LongalignError(f"{path}: cannot be fetched: {error}") from error
    _make_room(place, float(os.environ.get("LONGALIGN_FETCHED_GB") or 100) * 1e9, target)
    return target


def _make_room(folder: Path, most_bytes: float, newest: Path) -> None:
    """Removes the files that were not used for the longest time. One that is open stays readable until it is closed."""
    files = []
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # of another process, which removes, too
            told = file.stat()
            files.append((told.st_mtime, told.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= most_bytes:
            return
        if file != newest:
            file.unlink(missing_ok=True)
            total -= size


def upload(file: Path, path: Path) -> None:
    """Puts a local file at a URL, whole.

    Args:
        file: local.
        path: of `path_of`.

    Raises:
        LongalignError: it is refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        cast(Any, path).fs.put_file(str(file), cast(Any, path).path)
    except Exception as error:  # each kind of storage has its own
        raise LongalignError(f"Cannot write {path}: {error}") from error


def remove_tree(path: Path) -> None:
    """Removes a folder with all that is in it, if it is there.

    Args:
        path: of `path_of`.
    """
    if is_remote(path):
        if path.exists():
            cast(Any, path).fs.rm(cast(Any, path).path, recursive=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, in the order of their names within each folder.

    Args:
        folder: of `path_of`.
    """
    if is_remote(folder):
        yield from sorted((p for p in folder.rglob("*") if p.is_file()), key=str)
        return
    for where, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            yield Path(where) / name
