"""The command line as a user meets it: help, output, errors and exit codes."""

from __future__ import annotations

import inspect
import io
import json
import os
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from PIL import Image

import longalign
from longalign.cli.main import main

PROMPT = "A fox is in the top left. The background is navy."


def run(*arguments: str, cwd: Path | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "longalign", *arguments]
    environment = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, timeout=300, env=environment)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def refused(*arguments: str, stdin: bytes = b"") -> str:
    """The message of a command that is given wrong input: one status, no traceback, nothing on stdout.

    It runs in this process: a new one would load torch each time.
    """
    out, errors = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, {"COLUMNS": "120"}),
        patch.object(sys, "argv", ["longalign", *arguments]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        patch.object(warnings, "showwarning"),
        redirect_stdout(out),
        redirect_stderr(errors),
        pytest.raises(SystemExit) as end,
    ):
        main()
    assert end.value.code == 2 and out.getvalue() == "" and "Traceback" not in errors.getvalue()
    return errors.getvalue()


def test_import_is_free_of_torch() -> None:
    code = (
        "import sys, longalign, longalign.cli; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_import_is_free_of_torch_with_a_plugin_too(tmp_path: Path) -> None:
    """A plugin is imported when one of its names is asked for, and not before."""
    (tmp_path / "heavy.py").write_text("raise RuntimeError('imported')")
    info = tmp_path / "heavy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: heavy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[longalign.plugins]\nworld.heavy = heavy:World\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    code = (
        "import sys, longalign, longalign.cli.main; from longalign.worlds import WORLDS; "
        "print('heavy' in WORLDS, 'heavy' in sys.modules, 'torch' in sys.modules)"
    )
    shown = subprocess.check_output(
        [sys.executable, "-c", code], text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert shown.strip() == "True False False"


def test_old_names_of_modules_lead_to_the_new_ones() -> None:
    with pytest.deprecated_call(match=r"longalign\.segments is longalign\.encoding\.segments now"):
        assert longalign.segments.Segmenter is longalign.Segmenter
    assert inspect.isfunction(longalign.generate) and inspect.isfunction(longalign.edit)
    assert longalign.stickers.folder().is_dir()  # without an import of its own


def test_lazy_names_are_there_and_others_are_not() -> None:
    assert set(longalign.__all__) <= set(dir(longalign))
    assert all(getattr(longalign, name) is not None for name in longalign.__all__)
    assert longalign.Segmenter()("One. Two.")[1].text == "Two."
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = longalign.nothing_here


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["segment"],
        ["generate"],
        ["demo"],
        ["stickers"],
        ["stickers", "train"],
        ["stickers", "study"],
        ["train"],
        ["merge"],
        ["score"],
    ],
)
def test_help_teaches(command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0 and "Usage" in done.stdout and len(done.stdout.split()) > 30


@pytest.mark.parametrize("command", ["edit", "information", "stickers edits"])
def test_help_shows_commands_to_type(command: str) -> None:
    """At least two, and which models are embedded."""
    shown = run(*command.split(), "--help").stdout
    assert shown.count(f"  longalign {command} ") >= 2
    assert "stickers-sdxl" in shown and "stickers-sd3" in shown


def test_segment_as_a_table_and_as_json() -> None:
    shown = run("segment", "Dr. Fox is 3.5 m long. [bold]It[/bold] sits.", "--model", "stickers").stdout
    assert "Dr. Fox is 3.5 m long." in shown and "[bold]It[/bold] sits." in shown and "tokens" in shown
    [found] = json.loads(run("segment", PROMPT, "--json").stdout)
    assert [s["text"] for s in found["segments"]] == PROMPT.replace(". ", ".|").split("|")
    assert [s["tokens"] for s in found["segments"]] == [7, 4]  # words, since no model is named


def test_generate_json_is_alone_on_stdout(tmp_path: Path) -> None:
    done = run("generate", "-", "--steps", "1", "--json", cwd=tmp_path, stdin=PROMPT.encode())
    made = json.loads(done.stdout)
    assert done.returncode == 0 and done.stderr == ""
    assert Path(tmp_path, made["report"]).is_file()
    assert Path(tmp_path, made["folder"]).parent.name == "runs"
    assert [s["text"] for s in made["prompts"][0]["sentences"]] == PROMPT.replace(". ", ".|").split("|")


def test_what_is_cut_is_said_in_one_line(tmp_path: Path) -> None:
    long = "A fox is in the top left. " * 12
    done = run("generate", long, "--strategy", "plain", "--steps", "1", "--out", str(tmp_path / "run"))
    assert done.returncode == 0
    assert done.stderr.startswith("longalign: 1 of 1 prompts did not fit") and ".py" not in done.stderr


def test_stickers_render_writes_an_image_folder(tmp_path: Path) -> None:
    out = tmp_path / "images"
    done = run("stickers", "render", "--out", str(out), "--count", "3", "--objects", "7-9", "--referring")
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert done.returncode == 0 and len(rows) == 3
    assert all((out / row["file_name"]).is_file() for row in rows)
    assert rows[0]["text"] == " ".join(s["text"] for s in rows[0]["sentences"])


def test_stickers_render_does_not_mix_two_sets(tmp_path: Path) -> None:
    """A used folder is refused; --overwrite removes the earlier scenes and leaves other files alone."""
    out = tmp_path / "images"
    assert run("stickers", "render", "--out", str(out), "--count", "3").returncode == 0
    assert "already holds scenes. Choose another folder, or --overwrite" in refused(
        "stickers", "render", "--out", str(out), "--count", "1", "--seed", "1"
    )
    done = run("stickers", "render", "--out", str(out), "--count", "1", "--seed", "1", "--overwrite")
    assert done.returncode == 0
    assert sorted(f.name for f in out.iterdir()) == ["000000.png", "metadata.jsonl"]
    (out / "mine.txt").write_text("")
    assert "holds other files (mine.txt), which are left alone" in refused(
        "stickers", "render", "--out", str(out), "--overwrite"
    )


def test_version() -> None:
    assert run("--version").stdout == f"longalign {longalign.__version__}\n"


def test_the_picture_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    """`--width` without `--height` is not ignored; another size than the model's is rounded on request only."""
    made = [
        json.loads(
            run("generate", PROMPT, "--steps", "1", "--out", str(tmp_path / name), *size, "--json").stdout
        )
        for name, size in (
            ("wide", ["--width", "192"]),
            ("rounded", ["--width", "200", "--height", "40", "--round-size"]),
        )
    ]
    files = [m["prompts"][0]["images"][0]["file"] for m in made]
    assert [Image.open(file).size for file in files] == [(192, 96), (208, 48)]


def test_negative_prompt_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("A pig is in the middle.\n")
    done = run(
        "generate", PROMPT, "--steps", "1", "--negative", f"@{tmp_path}/n.txt", "--out", str(tmp_path / "r")
    )
    assert done.returncode == 0
    assert "negative_prompt: A pig is in the middle." in (tmp_path / "r" / "config.yaml").read_text()


def test_what_the_oracle_does_not_know_is_said(tmp_path: Path) -> None:
    """ "centre" is the middle. A sentence that is not of the sticker world is named."""
    text = "A crab is in the centre. It is a lovely evening."
    done = run("generate", text, "--steps", "1", "--out", str(tmp_path / "r"))
    assert "not judged, since the oracle knows only what stands where" in done.stderr
    assert "“It is a lovely evening.”" in done.stderr and "crab" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["generate", "a fox", "--width", "33"],
            "33 × 96 pixels: this model draws multiples of 16 px (its own size",
        ),
        (["generate", "a fox", "--width", "200", "--height", "48"], "The nearest is 208 × 48; --round-size"),
        (["generate", "a fox", "--language", "xx"], "language 'xx' is unknown: give its code of two letters"),
        (["segment", "a fox", "--language", "german"], "language 'german' is unknown"),
        (["generate", "a fox", "--model", "sticker"], "did you mean 'stickers'?"),
        (["evaluate", "runs/x", "--metrics", "foo"], "metric 'foo' is unknown; There are"),
        (["generate", ""], "prompt 1 is empty"),
        (["generate", "@/nowhere.txt"], "no such file"),
        (["generate", "-"], "standard input: is empty"),
        (["generate", "a fox", "--model", "/nowhere"], "no such model folder"),
        (["generate", "a fox", "--length", "-5"], "length must be a whole number above 0"),
        (["generate", "a fox", "--strategy", "clip-dog"], "clip-cat"),
        (["generate", "a fox", "--scheduler", "magic"], "unipc"),
        (["generate", "a fox", "--steps", "0"], "steps"),
        (["generate", "a fox", "--lora", "stickers/fox"], "there is no embedded LoRA stickers/fox"),
        (["stickers", "study", "--stage", "SFT"], "should be LABEL=LORA"),
        (["segment", "a fox", "--mode", "haiku"], "sentence"),
        (["segment", "a fox", "--window", "0"], "window"),
        (["segment", "a fox", "--model", "stickers", "--window", "2"], "window"),
        (["stickers", "render", "--out", "x", "--objects", "5-1"], "range within 0-9"),
        (["stickers", "train", "gan", "--out", "x"], "There are all, vae"),
    ],
)
def test_wrong_input_is_said_in_words(arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)


def test_a_binary_prompt_file(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    assert "cannot be read as a picture" in refused("generate", f"@{tmp_path}/picture.png")
    (tmp_path / "prompts.txt").write_bytes(bytes(range(256)))
    assert "is binary, or text in an encoding" in refused("generate", f"@{tmp_path}/prompts.txt")


def test_pack_names_what_is_not_trained_yet(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    message = refused("stickers", "pack", str(tmp_path), str(tmp_path / "out"))
    assert "unet" in message and "vae," not in message
