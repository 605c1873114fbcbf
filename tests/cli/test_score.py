"""`longalign score` and `longalign decompose` as they are typed: output, messages and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_clip import tiny_model
from typer.testing import CliRunner, Result

from longalign import preference
from longalign.cli.main import app
from longalign.errors import LongalignError
from longalign.preference.decomposition import fit_prompts
from longalign.scoring.data import Failure
from longalign.scoring.parts import read_part
from longalign.scoring.stream import Scored
from longalign.stickers.files import render_folder

PROMPT = "A fox is in the top left. The background is navy."


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    render_folder(folder, 4, split="test")
    return folder


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A minute model in place of any other; the list has the settings that it was asked for with."""
    asked: list[dict[str, Any]] = []

    def load(name: str = "stickers", **settings: Any) -> preference.PreferenceModel:
        asked.append({"name": name, **settings})
        return tiny_model()

    monkeypatch.setattr(preference.PreferenceModel, "from_pretrained", load)
    return asked


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner(env={"COLUMNS": "140"}).invoke(app, [str(a) for a in arguments], input=stdin)


def test_one_picture_marks_the_worst_sentence_without_colour(scenes: Path) -> None:
    done = run("score", scenes / "000000.png", "--prompt", "A [b]fox[/b]. A pig. A crab.")
    assert done.exit_code == 0 and done.output.count("◀ lowest") == 1 and "A [b]fox[/b]." in done.output
    assert "overall" in done.output and "█" in done.output


def test_json_of_a_ranking_is_one_document(scenes: Path, tiny: list[dict[str, Any]]) -> None:
    done = run("score", scenes / "000000.png", scenes / "000001.png", "--prompt", "-", "--json", stdin=PROMPT)
    found = json.loads(done.stdout)
    assert [len(i["segments"]) for i in found["images"]] == [2, 2] and sorted(found["order"]) == [0, 1]
    best = max((0, 1), key=lambda i: found["images"][i]["segments"][0]["score"])
    assert found["best"][0] == best and len(found["best"]) == 2 and done.exit_code == 0
    assert tiny[0]["name"] == "stickers"


def test_several_pictures_are_ranked_on_the_terminal(scenes: Path) -> None:
    done = run("score", *sorted(scenes.glob("*.png")), "--prompt", PROMPT)
    assert done.exit_code == 0 and done.output.count("★") == 3  # one a sentence, one in the legend


def test_a_data_set_with_an_unreadable_picture_ends_with_1(scenes: Path, tmp_path: Path) -> None:
    lines = (scenes / "metadata.jsonl").read_text().splitlines()
    rows = [{**json.loads(line), "file_name": str(scenes / json.loads(line)["file_name"])} for line in lines]
    rows.append({"file_name": "missing.png", "text": "A fox."})
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("score", "--data", data, "--worst", "2", "--relative", "--out", tmp_path / "run")
    assert done.exit_code == 1 and "skipped missing.png: no such image file" in done.stderr
    assert "4 pairs" in done.stdout and "lowest sentences" in done.stdout
    assert [type(r) for r in read_part(tmp_path / "run/scores/00000.parquet")] == [Scored] * 4 + [Failure]
    again = run("score", "--data", data, "--json")
    found = json.loads(again.stdout)
    assert len(found["pairs"]) == found["scored"] == 4 and found["failed"] == len(found["failures"]) == 1
    assert again.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["score"], "no prompt"),
        (["score", "a.png"], "a.png: no such image file"),
        (["score", "a.png", "--prompt", " "], "prompt 1 is empty"),
        (["score", "--prompt", "A fox."], "no image given"),
        (["score", "a.png", "--prompt", "A fox.", "--data", "x"], "brings its own"),
        (["score", "--data", "none.jsonl"], "no such file or folder"),
        (
            ["score", "none.png", "--prompt", "A fox."],
            "nothing could be scored: 1 failed, such as none.png",
        ),
        (["score", "a.png", "--prompt", "x", "--decomposition", "none"], "none: no such decomposition file"),
        (["decompose", "a.txt", "b.safetensors"], "not both at once"),
        (["decompose", "none.txt"], "no such file or folder"),
    ],
)
def test_wrong_input_is_said_in_words(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`main` prints these as one line and exits with 2."""
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert isinstance(done.exception, LongalignError) and says in str(done.exception), done.exception


def test_decompose_reads_merges_and_serves_score(scenes: Path, tmp_path: Path) -> None:
    texts = tmp_path / "p.txt"
    texts.write_text("A fox. A pig.\nA crab.\nA heart.\nA ghost.\n")
    for i in range(2):
        options = ("--shard", f"{i}/2", "--pictures", "0", "--out", tmp_path / f"v{i}")
        assert run("decompose", texts, *options).exit_code == 0
    files = [tmp_path / f"v{i}" / "decomposition.safetensors" for i in range(2)]
    done = run("decompose", *files, "--data", scenes, "--out", tmp_path / "v", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["prompts"] == 4 and found["eta"]["n"] == 4
    expected = fit_prompts(tiny_model(), texts.read_text().splitlines())
    assert found["source"] == expected.source
    assert found["mean_length"] == pytest.approx(expected.mean_length, abs=1e-6)
    judged = run(
        *(
            "score",
            scenes / "000000.png",
            "--prompt",
            PROMPT,
            "--json",
            "--decomposition",
            found["decomposition"],
        )
    )
    [image] = json.loads(judged.stdout)["images"]
    assert image["overall"] == pytest.approx(image["aligned"] + image["eta"] * image["irrelevant"], abs=1e-3)


def test_help_teaches() -> None:
    for command in ("score", "decompose"):
        done = run(command, "--help")
        assert done.exit_code == 0 and f"longalign {command}" in done.output and len(done.output.split()) > 60
