"""What the studio's tabs do, without a page: drawing, checking, editing, folders, limits, snippets."""

from __future__ import annotations

import io
import os
import shlex
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.errors import LongalignError
from longalign.runs import RunFolder
from longalign.studio import markup, snippets
from longalign.studio.browse import curves_of, list_runs, pictures_of
from longalign.studio.check import check_many, check_picture, open_bounded
from longalign.studio.cut import cut_prompt
from longalign.studio.draw import DrawJob, draw
from longalign.studio.edit import EditJob, edit_picture
from longalign.studio.folders import Folders
from longalign.studio.repair import RepairJob, mend
from longalign.studio.settings import Limits, StudioConfig
from longalign.studio.stacks import Choice, Stacks, comparisons
from longalign.studio.stepping import Done, Progress
from longalign.worlds import world

PROMPT = world("stickers").pictures(4, "test", 4, ((9, 9),)).text(3)
STICKERS = Choice("stickers")


@pytest.fixture(scope="module")
def stacks() -> Stacks:
    return Stacks(StudioConfig(models=("stickers", "stickers-sd3"), keep=1))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "runs")


def result(job):
    """The last item of a job, and how many came before it."""
    items = list(job)
    assert all(isinstance(item, Progress) for item in items[:-1]) and isinstance(items[-1], Done)
    return items[-1].result


def test_a_drawing_is_whole_or_absent(stacks: Stacks, folders: Folders) -> None:
    """The picture, its sentences and maps, the page; the best of two tries; another stack from the same seed."""
    limits = Limits()
    job = DrawJob(PROMPT, STICKERS, compare=("first 77 tokens (plain)",), steps=6, best_of=2)
    seen = []
    for item in draw(job, stacks, folders, limits):
        seen.append(item)
        if isinstance(item, Progress):
            assert [path.name for path in folders.out.iterdir()] == [
                folders.hidden.name
            ]  # nothing to be seen yet
    drawing = seen[-1].result
    assert [s.share for s in seen[:-1]] == sorted(s.share for s in seen[:-1])
    assert any(s.preview is not None for s in seen[:-1])
    path = folders.inside(drawing.run)
    assert {p.name for p in path.iterdir()} == {
        "config.yaml",
        "images",
        "metrics.jsonl",
        "report.html",
        "report.jsonl",
    }
    chosen, plain = drawing.shown
    assert (
        len(chosen.sentences) == 10
        and chosen.maps is not None
        and set(chosen.maps.sentences) <= {s.text for s in chosen.sentences}
    )
    assert [s.beyond for s in chosen.sentences] == [False] * 6 + [True] * 4
    assert plain.sentences[-1].verdict == "false" and drawing.cut  # the plain encoding does not read it
    html = markup.drawing_html(drawing)
    assert html.count("<figure") == 2 and html.count("data-map=") >= 10
    # The command that the page gives draws the same picture, but for the last bits of another batch.
    command = snippets.draw_command(replace(job, compare=()), chosen.seed, None)
    out = folders.out.parent / "by-command"
    assert CliRunner().invoke(app, [*shlex.split(command)[1:], "--out", str(out)]).exit_code == 0
    [same] = (out / "images").glob("*.png")
    pairs = zip(Image.open(same).tobytes(), Image.open(folders.inside(chosen.file)).tobytes(), strict=True)
    assert max(abs(a - b) for a, b in pairs) <= 1


def test_a_consumer_that_leaves_ends_the_drawing(stacks: Stacks, folders: Folders) -> None:
    job = draw(DrawJob(PROMPT, STICKERS, steps=50), stacks, folders, Limits())
    next(job), next(job)
    job.close()
    assert [path.name for path in folders.out.iterdir()] == [folders.hidden.name]
    assert [path.name for path in folders.hidden.iterdir()] == ["uploads"]


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "x" * 20_001}, "20,001 characters; at most 20,000"),
        ({"steps": 101}, "the number of steps must be a whole number from 1 to 100"),
        ({"steps": float("nan")}, "the number of steps"),
        ({"num": 8, "best_of": 8}, "64 pictures would be drawn"),
        ({"width": 100_000}, "the width must be"),
        ({"guidance": float("inf")}, "guidance is a number from 0 to 100"),
        ({"seed": -1}, "the seed"),
        ({"choice": Choice("sticker")}, "did you mean 'stickers'"),
        ({"choice": Choice("/etc")}, "model"),
        ({"choice": Choice("stickers", ("../../evil.bin",))}, "LoRA"),
        ({"choice": Choice("stickers", (), "../tokens")}, "soft tokens"),
        ({"choice": Choice("stickers", strategy="t5-mlp")}, "text encoding"),
        ({"compare": ("model evil",)}, "comparison"),
    ],
)
def test_what_is_out_of_range_or_not_offered_is_refused(
    job: dict, message: str, stacks: Stacks, folders: Folders
) -> None:
    asked = replace(DrawJob(PROMPT, STICKERS), **job)
    with pytest.raises(LongalignError, match=message):
        list(draw(asked, stacks, folders, Limits()))
    assert [path.name for path in folders.out.iterdir()] == [folders.hidden.name]


def test_repair_keeps_what_is_right(stacks: Stacks, folders: Folders) -> None:
    """Of seed 0 the fish is missing. A repair draws it, and makes no other sentence false."""
    job = RepairJob(DrawJob(PROMPT, STICKERS, steps=12), seed=0, rounds=4)
    mended = result(mend(job, stacks, folders, Limits()))
    wrong = {which: [s.text for s in rows if s.oracle != "true"] for which, rows in mended.sentences.items()}
    assert wrong["before"] and len(wrong["after"]) < len(wrong["before"])
    assert set(wrong["after"]) <= set(wrong["before"])
    assert mended.changed and mended.calls == 12 * mended.rounds
    assert "Now true: " in markup.mended_html(mended)
    assert f"--repair {job.rounds}" in snippets.repair_command(job, "stickers")
    with pytest.raises(LongalignError, match="start the studio with --scorer"):
        list(mend(job, Stacks(StudioConfig(scorer=None)), folders, Limits()))


def test_a_picture_is_checked_by_its_own_prompt(stacks: Stacks, folders: Folders, tmp_path: Path) -> None:
    sticker = world("stickers").pictures(4, "test", 4, ((9, 9),))
    right, wrong, odd = (tmp_path / name for name in ("right.png", "wrong.png", "odd.png"))
    sticker.picture(3).save(right)
    sticker.picture(0).save(wrong)
    odd.write_bytes(b"no picture")
    texts = tmp_path / "right.txt"
    texts.write_text(PROMPT)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "wrong.png", "text": "' + PROMPT + '"}\nbroken\n')
    one = check_picture(right, PROMPT, stacks, Limits())
    assert [row.oracle for row in one.sentences] == ["true"] * 10
    with pytest.raises(LongalignError, match=r"right\.png: the file does not say its prompt"):
        check_picture(right, "", stacks, Limits())
    many = result(check_many([right, wrong, odd, texts, tmp_path / "metadata.jsonl"], stacks, Limits()))
    assert [checked.name for checked in many.pictures] == ["wrong.png", "right.png"]
    assert [name for name, _ in many.failures] == ["odd.png"] and str(tmp_path) not in many.failures[0][1]
    html = markup.many_html(many)
    assert html.index("wrong.png") < html.index("right.png") and "1 file could not be checked" in html
    with pytest.raises(LongalignError, match="at most 1 are allowed here"):
        list(check_many([right, wrong], stacks, Limits(uploads=1)))


def test_a_picture_is_edited(stacks: Stacks, folders: Folders, tmp_path: Path) -> None:
    picture = tmp_path / "scene.png"
    world("stickers").pictures(4, "test", 4, ((9, 9),)).picture(3).save(picture)
    target = PROMPT.replace("a crab", "an owl")
    job = EditJob(picture, PROMPT, target, Choice("stickers"), steps=10)
    edited = result(edit_picture(job, stacks, folders, Limits()))
    for which in ("before", "after", "difference"):
        assert Image.open(folders.inside(edited.file(which))).size == edited.size
    assert [row.text for row in edited.sentences["after"]] == [row.text for row in edited.sentences["before"]]
    assert markup.edited_html(edited).count("<img") == 3
    compile(snippets.edit_python(edited.job), "edit.py", "exec")
    with pytest.raises(LongalignError, match="the same text"):
        list(edit_picture(replace(job, target=PROMPT), stacks, folders, Limits()))
    with pytest.raises(LongalignError, match="start is the share"):
        list(edit_picture(replace(job, start=2.0), stacks, folders, Limits()))
    assert [path.name for path in folders.hidden.iterdir()] == ["uploads"]  # nothing half made is left


def test_a_decompression_bomb_is_refused_by_its_size(tmp_path: Path) -> None:
    """A PNG of 100,000 × 100,000 black pixels: a few bytes, ten billion pixels. It is not decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(LongalignError, match=r"bomb\.png: .*(too many|cannot be read)"):
        open_bounded(bomb, Limits())
    large = tmp_path / "large.png"
    Image.new("1", (2000, 1000)).save(large)
    with pytest.raises(LongalignError, match="2,000 × 1,000 pixels are too many; at most 1,000,000"):
        open_bounded(large, Limits(upload_px=1_000_000))


def test_nothing_outside_the_folder_of_runs_is_found(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    run = RunFolder(folders.out / "mine")
    os.symlink(tmp_path / "secret.png", run.images / "link.png")
    os.symlink(tmp_path, folders.out / "link")
    (run.images / "real.png").write_bytes(b"x")
    assert folders.inside("mine/images/real.png").read_bytes() == b"x"
    names = [
        "mine/images/link.png", "link/secret.png", "../secret.png", "mine/../../secret.png", "/etc/passwd", "", ".",
        folders.hidden.name, "mine/\0", "x" * 5000,
    ]  # fmt: skip
    for name in names:
        with pytest.raises(LongalignError, match="no such file in the folder of runs"):
            folders.inside(name)
    assert [path.name for path in pictures_of(folders, "mine")] == ["real.png"]
    assert [r.name for r in list_runs(folders)] == ["mine"]  # the link is no run


def test_what_a_killed_studio_left_is_removed(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    left = tmp_path / "runs" / f".studio-{int(dead.stdout)}-0123abcd"
    (left / "job-1").mkdir(parents=True)
    living = tmp_path / "runs" / f".studio-{os.getpid()}-0123abcd"
    living.mkdir()
    own = tmp_path / "runs" / ".studio-of-mine"
    own.mkdir()
    Folders(tmp_path / "runs")
    assert not left.exists() and living.exists() and own.exists()


def test_curves_of_a_training_that_runs(folders: Folders) -> None:
    run = RunFolder(folders.out / "train", {"objective": "supervised"})
    for step in range(1, 1501):
        run.log({"kind": "train", "step": step, "loss": 1 / step})
    run.log({"kind": "evaluate", "step": 1500, "held_out_loss": 0.5})
    with open(run.metrics, "a") as file:
        file.write('{"kind": "train", "st')  # it is being written
    [found] = list_runs(folders)
    assert found.training and found.running
    loss, held_out = curves_of(folders, "train")
    assert len(loss.lines[0].x) == 500 and loss.lines[0].x[-1] == 1499
    assert list(held_out.lines[0].y) == [0.5]
    assert markup.run_html(found, [loss, held_out]).count("<svg") >= 2


def test_a_prompt_is_cut_as_it_is_encoded(stacks: Stacks) -> None:
    tokenizer = stacks.painter(STICKERS).pipe.tokenizer
    cut = cut_prompt(tokenizer, PROMPT)
    assert len(cut.sentences) == 10 and cut.tokens > cut.window == 77 and cut.lost == 4
    assert cut.tokens == 2 + sum(s.tokens for s in cut.sentences)
    weighted = cut_prompt(tokenizer, "a (red:1.4) fox", "a1111")
    assert weighted.text == "a red fox" and weighted.sentences[0].weights == ((2, 5, 1.4),)
    assert '<b class="weight">red<sup>×1.4</sup></b>' in markup.cut_html(weighted)
    assert "This looks like weights" in markup.cut_html(cut_prompt(tokenizer, "a (red:1.4) fox"))
    with pytest.raises(LongalignError, match="did you mean 'a1111'"):
        cut_prompt(tokenizer, "x", "a111")


def test_html_in_a_prompt_is_text(stacks: Stacks) -> None:
    evil = "<script>alert(1)</script> sits on a log. <img src=x onerror=alert(1)> runs."
    cut = markup.cut_html(cut_prompt(stacks.painter(STICKERS).pipe.tokenizer, evil))
    snippet = markup.snippet_html(snippets.draw_command(DrawJob(evil, STICKERS), 0, None), evil)
    for html in (cut, snippet, markup.message_html(evil, "error")):
        assert "<script" not in html and "<img" not in html and "&lt;script" in html


def test_snippets_can_be_run() -> None:
    job = DrawJob(
        '@it\'s "so"\n$HOME',
        Choice("stickers", ("a b",), "t", "plain"),
        "ugly",
        guidance=3.5,
        width=96,
        height=96,
    )
    words = shlex.split(snippets.draw_command(job, 7, "stickers"))
    assert words[:3] == ["longalign", "generate", ' @it\'s "so"\n$HOME'] and "a b" in words and "3.5" in words
    for code in (
        snippets.draw_python(job, 7),
        snippets.repair_python(RepairJob(job, 7), None),
        snippets.score_python("x.png", job.prompt, None),
    ):
        compile(code, "snippet.py", "exec")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "needs --auth USER:PASSWORD"),
        ({"auth": "me"}, "--auth needs a name and a password"),
        ({"auth": ":x"}, "--auth needs"),
        ({"models": ()}, "at least one model"),
        ({"port": 70_000}, "a port is a number"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(LongalignError, match=message):
        StudioConfig(**settings)


def test_models_are_dropped_and_loaded_again(stacks: Stacks) -> None:
    """`keep` is 1: the second model takes the place of the first."""
    first = stacks.painter(STICKERS).pipe
    assert stacks.painter(STICKERS, steps=3).pipe is first
    stacks.painter(Choice("stickers-sd3"))
    assert stacks.painter(STICKERS).pipe is not first
    assert "LoRA stickers/sft" in comparisons("stickers", stacks)


def test_small_pictures_of_the_page() -> None:
    uri = markup.small(Image.new("RGBA", (600, 300), (1, 2, 3, 4)), 100)
    import base64

    assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == (100, 50)
