"""Run folders, and functions that write a whole file or none.

A run folder holds the results of one command::

    config.yaml      the resolved settings; its first line marks the folder as a run folder
    metrics.jsonl    one JSON object a line, appended during the run
    images/          PNG files
    report.html      the report (`longalign.report.write_report`)

This module imports neither torch nor Pillow.
"""

from __future__ import annotations

import datetime
import errno
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from longalign.errors import LongalignError
from longalign.paths import is_remote, need_local, path_of, remove_tree, upload

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo

_MARK = "# longalign run folder\n"
# What a run writes at the top of its folder. Overwriting removes these and nothing else.
_OURS = (
    "config.yaml",
    "metrics.jsonl",
    "report.html",
    "report.jsonl",
    "worst.jsonl",
    "decomposition.safetensors",
    "images",
    "pages",
    "thumbnails",
    "checkpoints",
    "results.jsonl",
    "summary.json",
    "pictures",
    "parts",
    "scores",
    "embeddings",
    "prompts.jsonl",
    "skipped.jsonl",
)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the body ends, the file gets its final name.

    The temporary file has the same suffix, because many writers choose a format by it. It is flushed to the disk before
    it is renamed. It is removed when anything goes wrong, and an old file then stays as it was. Missing folders are
    made. A device or a pipe (``/dev/stdout``) cannot be replaced by a file: the body gets its own path.

    Raises:
        LongalignError: the file cannot be written (no space, no permission, …).
    """
    path = path_of(path)
    if is_remote(path):  # an object store has a whole object or none
        with tempfile.TemporaryDirectory(prefix="longalign-") as folder:
            yield Path(folder) / path.name
            upload(Path(folder) / path.name, path)
        return
    final = Path(os.path.realpath(path))  # a symbolic link stays; its target is replaced
    temporary = final.parent / f".{final.stem[:40]}-{secrets.token_hex(4)}{final.suffix}"
    with _writing(path, final, temporary):
        if path.is_dir():
            raise LongalignError(f"Cannot write {path}: it is a folder. Name a file.")
        if path.exists() and not path.is_file():
            yield path
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            mode = _usual_mode(temporary)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            _publish(temporary, mode)
            os.replace(temporary, final)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        with suppress(OSError):  # the rename survives a power cut, too, on systems that can flush folders
            opened = os.open(final.parent, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


_LEFTOVER = re.compile(r"\.(.*)-[0-9a-f]{8}(\.[^.]*)?")


def remove_leftovers(folder: Path, stem: str = "") -> None:
    """Removes files that `atomic_path` had begun when a process was killed. No other process may be writing there.

    Args:
        folder: where such files may be. Folders below it are not searched, and it may be missing.
        stem: of the only file that was written there, without its suffix; needed where users have files of their own.
    """
    for path in folder.glob(".*"):
        named = _LEFTOVER.fullmatch(path.name)
        if named is not None and stem[:40] in ("", named[1]) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; when the body ends, it takes the place of what is there.

    Missing parents are made. When anything goes wrong, the temporary folder is removed and `path` stays as it was.
    Errors of the operating system are not translated, and files are not flushed to the disk (`atomic_path` does both).
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        mode = _usual_mode(temporary / "new")
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _publish(file, mode)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _usual_mode(path: Path) -> int:
    """The permissions of a new file. Creating one reads the umask without changing it."""
    with open(path, "xb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    path.unlink()
    return mode


def _publish(path: Path, mode: int) -> None:
    """Give a private file its usual mode: safetensors renames temporary files of 0600, and they keep that."""
    if stat.S_IMODE(path.stat().st_mode) == 0o600 != mode:
        path.chmod(mode)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path`, all or nothing. Raises `LongalignError` like `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path_of(path)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> Path:
    r"""Write `text` to `path` as UTF-8 with its line ends as they are, all or nothing.

    A lone surrogate (undecodable bytes of a command line become such) has no UTF-8; it is written as
    ``\udc80``, which inside a JSON string is even the right escape.
    """
    return atomic_write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the JSON file at a path holds, such as a `config.json`.

    Raises:
        LongalignError: the file cannot be read, is no JSON, or holds something else than an object.
    """
    try:
        found = json.loads(path_of(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise LongalignError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # of JSON, or of UTF-8
        raise LongalignError(f"{path}: is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise LongalignError(f"{path}: should be a JSON object, not a {type(found).__name__}")
    return found


def json_line(value: Any) -> str:
    """`value` as one line of strict JSON with its line end. NaN and ±∞, which JSON does not have, become null."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False) + "\n"


class RunFolder:
    """The folder of one run: ``RunFolder("runs/mine", config)``.

    Args:
        path: the folder; made with its parents. It may exist when it is empty.
        config: the resolved settings, written to ``config.yaml`` at once.
        overwrite: replace an earlier run in `path`. Only what runs write is removed, and only from a folder
            whose ``config.yaml`` a run wrote; other files stay.

    Raises:
        LongalignError: `path` holds files and `overwrite` is off; `overwrite` is on and `path` is no run folder; or
            `path` cannot be made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        self.path = path_of(path)
        with _writing(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise LongalignError(f"{self.path} is a file; a run needs a folder. Choose another name.")
            if not is_remote(self.path):  # a store has no folders, only names
                self.path.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir() and any(self.path.iterdir()):
                self._clear(overwrite)
        self.write_config(config or {})  # first, since it marks the folder as ours
        if not is_remote(self.path):
            with _writing(self.images):
                self.images.mkdir()

    @classmethod
    def new(
        cls, command: str, config: Mapping[str, Any] | None = None, *, root: str | os.PathLike[str] = "runs"
    ) -> RunFolder:
        """A fresh folder ``<root>/<command>-<date>-NNN``, from 001 on; several runs may start at once."""
        stem = f"{command}-{datetime.date.today().isoformat()}"
        root = Path(root)
        with _writing(root):
            root.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1_000_000):
            path = root / f"{stem}-{number:03d}"
            with _writing(path):
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
            return cls(path, config)
        raise LongalignError(f"{root} holds a million runs of today. Remove some.")

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def report(self) -> Path:
        """The path of the report, which `longalign.report.write_report` writes."""
        return self.path / "report.html"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def write_config(self, config: Mapping[str, Any]) -> Path:
        """Write ``config.yaml``, keys in the order given."""
        text = yaml.safe_dump(_plain(config, keep_nan=True), sort_keys=False, allow_unicode=True)
        return atomic_write_text(self.path / "config.yaml", _MARK + text)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``. When there is no room for it, no part of it stays."""
        need_local(self.path, "lines that are added one by one")
        data = json_line(metrics).encode("utf-8", errors="backslashreplace")
        # Unbuffered: the operating system has the line when this returns, and a failed line can be removed.
        with _writing(self.metrics), open(self.metrics, "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(before)
                raise

    def save_image(self, name: str, image: Image, text: PngInfo | None = None) -> Path:
        """Save as PNG ``images/<name>.png``; `name` may have folders in it.

        Args:
            text: how the picture was made: `longalign.picture_info.png_text`.
        """
        path = self.images / (name if name.endswith(".png") else f"{name}.png")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"image name {name!r} leaves the run folder")
        self.save_picture(path, image, text)
        return path

    @classmethod
    def resume(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, free: Collection[str] = ()
    ) -> RunFolder:
        """A new folder, or one of an earlier run of the same settings, in which nothing is removed.

        Args:
            path: the folder.
            config: the resolved settings.
            free: keys whose values may differ from the earlier ones; the new ones are written.

        Raises:
            LongalignError: the folder holds other files, or a run of other settings (the message names them).
        """
        path = path_of(path)
        if not is_remote(path):
            remove_leftovers(path, "config")  # a run may be killed before it has its settings
        if not path.is_dir() or not any(path.iterdir()):
            return cls(path, config)
        if not is_run(path):
            raise LongalignError(f"{path} already holds files. Choose another folder.")
        earlier = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")) or {}
        now = yaml.safe_load(yaml.safe_dump(_plain(config, keep_nan=True), allow_unicode=True))
        changed = [k for k in {**earlier, **now} if k not in free and earlier.get(k) != now.get(k)]
        if changed:
            raise LongalignError(
                f"{path} holds a run with other settings; they differ in {', '.join(changed)}. Choose another --out, "
                "the same settings, or --overwrite."
            )
        found = cls.at(path)
        found.write_config(config)
        return found

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> RunFolder:
        """A run folder that another process has made. Nothing is written.

        Args:
            path: the folder.
        """
        found = cls.__new__(cls)
        found.path = path_of(path)
        return found

    def save_picture(self, path: Path, image: Image, text: PngInfo | None = None) -> None:
        """Save a PNG at a path within the run folder.

        Args:
            text: how the picture was made: `longalign.picture_info.png_text`.
        """
        with atomic_path(path) as temporary:
            image.save(temporary, format="PNG", pnginfo=text)

    def _clear(self, overwrite: bool) -> None:
        if not overwrite:
            raise LongalignError(
                f"{self.path} already holds files. Choose another folder, or --overwrite (in Python: overwrite=True)."
            )
        if not is_run(self.path):
            raise LongalignError(
                f"{self.path} is no run folder, so its files are left alone. Choose another."
            )
        for name in _OURS:
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                remove_tree(entry)
            elif entry.exists() or entry.is_symlink():
                entry.unlink()


def is_run(folder: Path) -> bool:
    """Did a run write this folder?

    Args:
        folder: may not exist.
    """
    try:
        with (folder / "config.yaml").open(encoding="utf-8", errors="replace") as file:
            return file.readline() == _MARK
    except OSError:
        return False


@contextmanager
def _writing(path: Path, *also: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into a `LongalignError` that names it.

    Errors about other files (neither `path` and `also` nor above or below them) pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or (
            isinstance(error.filename, str) and not _near(Path(error.filename), path, *also)
        ):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "No space left on the disk. Free some, or write elsewhere."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "No permission. Choose another place."
        else:
            advice = f"{error.strerror}."
        raise LongalignError(f"Cannot write {path}: {advice}") from error


def _near(named: Path, *paths: Path) -> bool:
    return any(named == path or named in path.parents or path in named.parents for path in paths)


def _plain(value: Any, keep_nan: bool = False) -> Any:
    """Mappings, sequences, paths and 0-d arrays → what JSON and YAML can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, keep_nan) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, keep_nan) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # numpy scalars, tensors of one number
        value = value.item()
    if isinstance(value, float) and not keep_nan and not math.isfinite(value):
        return None
    return value
