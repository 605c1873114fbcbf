"""Run folders and atomic writing: a file is there whole or not at all, and refusals say what to do."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from file_limit import file_limit
from PIL import Image
from safetensors.numpy import save_file

from longalign.errors import LongalignError
from longalign.runs import (
    RunFolder,
    atomic_folder,
    atomic_path,
    atomic_write_bytes,
    atomic_write_text,
    json_line,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_whole_files_and_makes_folders(tmp_path: Path) -> None:
    path = atomic_write_text(tmp_path / "a" / "b" / "note.txt", "ünïcode\r\n")
    assert path.read_bytes() == "ünïcode\r\n".encode()
    assert names(path.parent) == ["note.txt"]


def test_replaces_and_keeps_the_usual_permissions(tmp_path: Path) -> None:
    """Who may read an ordinary new file may read this one: tempfile's 0600 must not leak through."""
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    path = atomic_write_bytes(tmp_path / "x", b"one")
    atomic_write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_private_files_of_writers_get_the_usual_permissions(tmp_path: Path, umask: int) -> None:
    """safetensors renames a temporary file of mode 0600; 0666 without the umask's bits is what others make."""
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "x.safetensors") as path:
            save_file({"x": np.zeros(2)}, path)
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "unet").mkdir()
            save_file({"x": np.zeros(2)}, folder / "unet" / "x.safetensors")
            (folder / "run.sh").touch(0o555)
    finally:
        os.umask(before)
    for path in (tmp_path / "x.safetensors", tmp_path / "model" / "unet" / "x.safetensors"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "model" / "run.sh").stat().st_mode & 0o777 == 0o555 & ~umask
    assert names(tmp_path) == ["model", "x.safetensors"]


def test_a_folder_is_replaced_as_a_whole_or_stays(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "a" / "model") as folder:
            (folder / content).touch()
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "a" / "model") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert names(tmp_path / "a" / "model") == ["new"]
    assert names(tmp_path / "a") == ["model"]


def test_follows_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic_write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_device_is_written_not_replaced(tmp_path: Path) -> None:
    atomic_write_text("/dev/null", "gone")
    assert not Path("/dev/null").is_file()
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    atomic_write_text(fifo, "through the pipe")
    assert os.read(reader, 100) == b"through the pipe"
    os.close(reader)
    assert names(tmp_path) == ["pipe"]


def test_failure_in_the_body_leaves_the_old_file(tmp_path: Path) -> None:
    path = atomic_write_text(tmp_path / "x.txt", "old")
    for kind in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(kind), atomic_path(path) as temporary:
            assert temporary.suffix == ".txt"
            temporary.write_text("half")
            raise kind
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_file_that_grows_too_large_leaves_nothing(tmp_path: Path) -> None:
    """10,000 bytes where 4,096 fit: the system stops half-way; neither half nor temporary file stays."""
    with file_limit(4096), pytest.raises(LongalignError, match=r"Cannot write .*big.bin: File too large"):
        atomic_write_bytes(tmp_path / "big.bin", bytes(10_000))
    assert names(tmp_path) == []


def test_disk_full_is_told_with_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = atomic_write_text(tmp_path / "report.html", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LongalignError, match=r"Cannot write .*report\.html: No space left on the disk\."):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.html"]


def test_another_files_error_is_not_renamed(tmp_path: Path) -> None:
    """A body that fails to *read* something else must not be reported as a failure to write."""
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        (tmp_path / "missing").read_bytes()


@pytest.mark.parametrize("name", ["", "taken/x", "a" * 300])
def test_impossible_names_are_clear_errors(tmp_path: Path, name: str) -> None:
    """A folder, a name below a file, and a name longer than the file system's 255 bytes."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(LongalignError, match="Cannot write"):
        atomic_write_text(tmp_path / name, "text")
    assert names(tmp_path) == ["taken"]


def test_undecodable_text_is_written(tmp_path: Path) -> None:
    r"""Byte 0x80 of a command line is the surrogate U+DC80; in JSON its escape \udc80 reads back the same."""
    line = json_line({"prompt": "caf\udc80"})
    path = atomic_write_text(tmp_path / "x.jsonl", line)
    assert json.loads(path.read_text(encoding="utf-8")) == {"prompt": "caf\udc80"}


def test_json_line_is_strict() -> None:
    value = {
        "loss": float("nan"),
        "n": np.int64(3),
        "x": [np.float32(0.5), float("inf")],
        "path": Path("a/b"),
    }
    assert json_line(value) == '{"loss": null, "n": 3, "x": [0.5, null], "path": "a/b"}\n'


def test_run_folder_holds_what_it_promises(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "deep" / "run", {"seed": 0, "steps": 25, "scale": float("inf")})
    run.log({"step": 1, "loss": 0.5})
    run.log({"step": 2, "loss": np.float64(0.25), "prompt": "caf\udc80"})
    image = Image.new("RGB", (4, 4), "red")
    path = run.save_image("scene-00/plain", image)
    assert names(run.path) == ["config.yaml", "images", "metrics.jsonl"]
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == {
        "seed": 0,
        "steps": 25,
        "scale": float("inf"),
    }
    assert [json.loads(line)["loss"] for line in run.metrics.read_text().splitlines()] == [0.5, 0.25]
    assert json.loads(run.metrics.read_text(encoding="utf-8").splitlines()[1])["prompt"] == "caf\udc80"
    assert path == run.images / "scene-00" / "plain.png"
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(image))
    assert run.report.parent == run.path


def test_image_names_stay_inside(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for name in ("../../x", "/tmp/x"):
        with pytest.raises(ValueError, match="leaves the run folder"):
            run.save_image(name, Image.new("RGB", (1, 1)))


def test_full_disk_never_leaves_half_a_metric(tmp_path: Path) -> None:
    """Lines of 104 bytes: 39 of them are 4,056 bytes, and the fortieth needs 64 more than the 40 left."""
    run = RunFolder(tmp_path / "run")
    with file_limit(4096), pytest.raises(LongalignError, match="Cannot write"):
        for _ in range(100):
            run.log({"x": "a" * (104 - len('{"x": ""}\n'))})
    assert run.metrics.read_bytes().endswith(b"}\n")
    assert len(run.metrics.read_bytes()) == 39 * 104


def test_full_disk_leaves_no_half_image(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with file_limit(4096), pytest.raises(LongalignError, match="Cannot write"):
        run.save_image("noise", Image.fromarray(noise))
    assert names(run.images) == []


def test_refuses_a_folder_in_use(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run")
    with pytest.raises(LongalignError, match="already holds files"):
        RunFolder(tmp_path / "run")


def test_overwrite_removes_the_runs_files_alone(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", {"seed": 1})
    run.log({"step": 1})
    run.save_image("old", Image.new("RGB", (1, 1)))
    (run.path / "my notes.txt").write_text("keep")
    again = RunFolder(tmp_path / "run", {"seed": 2}, overwrite=True)
    assert names(again.path) == ["config.yaml", "images", "my notes.txt"]
    assert names(again.images) == []
    assert yaml.safe_load((again.path / "config.yaml").read_text()) == {"seed": 2}


def test_overwrite_never_touches_a_strangers_folder(tmp_path: Path) -> None:
    """A project may well have a config.yaml and an images folder: without our first line it is not ours."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "wedding.png").write_bytes(b"dear")
    (tmp_path / "config.yaml").write_text("mine: true\n")
    with pytest.raises(LongalignError, match="no run folder"):
        RunFolder(tmp_path, overwrite=True)
    assert (tmp_path / "images" / "wedding.png").read_bytes() == b"dear"
    assert (tmp_path / "config.yaml").read_text() == "mine: true\n"


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LongalignError, match="is a file; a run needs a folder"):
        RunFolder(tmp_path / "file")
    with pytest.raises(LongalignError, match="Cannot write"):
        RunFolder(tmp_path / "file" / "run")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is simulated: tests that run as root may write everywhere."""

    def refuse(path: Path, mode: int = 0o777) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(LongalignError, match="No permission"):
        RunFolder(tmp_path / "run")


def test_new_folders_are_numbered(tmp_path: Path) -> None:
    runs = [RunFolder.new("demo", {"n": n}, root=tmp_path / "runs") for n in range(3)]
    assert [run.path.name[-4:] for run in runs] == ["-001", "-002", "-003"]
    assert all(run.path.name.startswith("demo-20") for run in runs)
    assert yaml.safe_load((runs[2].path / "config.yaml").read_text()) == {"n": 2}
