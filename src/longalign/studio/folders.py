"""Where the studio's results are: run folders, which appear in the folder of runs when they are whole."""

from __future__ import annotations

import datetime
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from longalign.errors import LongalignError
from longalign.paths import remove_tree
from longalign.runs import RunFolder

_HIDDEN = re.compile(r"\.studio-(\d+)-[0-9a-f]{8}")


class Folders:
    """The folder of runs, and a hidden one in it for what is not whole yet.

    What a studio left there that was killed is removed by the next one.

    Args:
        out: the folder of runs.

    Raises:
        LongalignError: it cannot be made.
    """

    def __init__(self, out: Path) -> None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            self.out = out.resolve()
            for path in self.out.glob(".studio-*"):
                named = _HIDDEN.fullmatch(path.name)
                if named is not None and not path.is_symlink() and not _alive(int(named[1])):
                    remove_tree(path)
            self.hidden = self.out / f".studio-{os.getpid()}-{secrets.token_hex(4)}"
            self.uploads.mkdir(parents=True)
        except OSError as error:
            raise LongalignError(f"{out}: the folder of runs cannot be written: {error.strerror}") from None

    @property
    def uploads(self) -> Path:
        """Where files of users are kept while they are used."""
        return self.hidden / "uploads"

    def begin(self, config: Mapping[str, Any]) -> RunFolder:
        """A new run that nobody sees yet.

        Args:
            config: its settings.
        """
        return RunFolder(self.hidden / f"job-{secrets.token_hex(8)}", config)

    def finish(self, run: RunFolder, command: str) -> RunFolder:
        """Gives a whole run its name in the folder of runs.

        Args:
            run: of `begin`.
            command: what made it.

        Raises:
            LongalignError: it cannot be moved.
        """
        stem = f"{command}-{datetime.date.today().isoformat()}"
        for number in range(1, 1_000_000):
            path = self.out / f"{stem}-{number:03d}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                raise LongalignError(f"{path}: cannot be written: {error.strerror}") from None
            os.replace(run.path, path)  # onto the empty folder
            return RunFolder.at(path)
        raise LongalignError(f"{self.out} holds a million runs of today. Remove some")

    def drop(self, run: RunFolder) -> None:
        """Removes a run that did not become whole.

        Args:
            run: of `begin`.
        """
        with suppress(OSError, LongalignError):
            remove_tree(run.path)

    def close(self) -> None:
        """Removes the hidden folder."""
        with suppress(OSError, LongalignError):
            remove_tree(self.hidden)

    def inside(self, name: str) -> Path:
        """A file or folder by its path within the folder of runs.

        Args:
            name: such as ``generate-2026-01-01-001/images/0000-0.png``.

        Raises:
            LongalignError: there is none, it is hidden, or it leaves the folder, by ``..`` or by a symbolic link.
        """
        refused = LongalignError(f"no such file in the folder of runs: {name[:200]!r}")
        parts = Path(name).parts
        if "\0" in name or not parts or Path(name).is_absolute() or any(p.startswith(".") for p in parts):
            raise refused
        try:
            path = (self.out / name).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise refused from None
        if not path.is_relative_to(self.out) or any(
            p.startswith(".") for p in path.relative_to(self.out).parts
        ):
            raise refused
        return path

    def uploaded(self, path: str) -> Path:
        """A file that a user sent. A program may name any other file of this machine; it gets none.

        Args:
            path: what Gradio gives for an uploaded file.

        Raises:
            LongalignError: the file was not uploaded.
        """
        try:
            found = Path(path).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            raise LongalignError(
                "this file was not uploaded, or is not kept any more: load it again"
            ) from None
        if not found.is_relative_to(self.uploads.resolve()) or not found.is_file():
            raise LongalignError("this file was not uploaded: load it again")
        return found

    def to_give(self, name: str) -> str:
        """A copy, among the uploads, of a file in the folder of runs, which Gradio may give out.

        Args:
            name: as of `inside`.

        Raises:
            LongalignError: as of `inside`, or there is no room for a copy.
        """
        path = self.inside(name)
        place = self.uploads / secrets.token_hex(8)
        try:
            place.mkdir()
            return shutil.copyfile(path, place / path.name).as_posix()
        except OSError as error:
            raise LongalignError(f"{path.name}: cannot be copied: {error.strerror}") from None

    def name_of(self, path: Path) -> str:
        """The path of a file within the folder of runs, as `inside` takes it.

        Args:
            path: in the folder.
        """
        return path.relative_to(self.out).as_posix()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
