"""Prompts of an evaluation with their names and records: the files of benchmarks, and a world's split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longalign.data.prompt_rows import PromptRow, read_prompt_rows
from longalign.errors import LongalignError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def test_lines_are_named_by_their_place(tmp_path: Path) -> None:
    """Blank lines are not counted; equal prompts are two."""
    rows = read_prompt_rows(write(tmp_path / "p.txt", "a fox", "", "a pig", "a fox"))
    assert rows == [PromptRow(f"0000{i}", text, {}) for i, text in enumerate(["a fox", "a pig", "a fox"])]


def test_jsonl_keeps_its_records_and_names(tmp_path: Path) -> None:
    rows = [{"id": 7, "text": "one", "tag": ["x"]}, {"id": "b", "text": "one"}]
    file = write(tmp_path / "p.jsonl", *rows)
    assert read_prompt_rows(file) == [PromptRow("7", "one", rows[0]), PromptRow("b", "one", rows[1])]
    assert [row.id for row in read_prompt_rows(file, limit=1)] == ["7"]


def test_dpg_bench(tmp_path: Path) -> None:
    """As a folder of texts; and its table of questions, in which two of three rows are of one prompt."""
    (tmp_path / "dpg" / "prompts").mkdir(parents=True)
    for name, text in (("b10", "A fox.\n"), ("b9", "A pig. ")):
        write(tmp_path / "dpg" / "prompts" / f"{name}.txt", text)
    for folder in (tmp_path / "dpg", tmp_path / "dpg" / "prompts"):
        assert [(row.id, row.prompt) for row in read_prompt_rows(folder)] == [
            ("b10", "A fox."),
            ("b9", "A pig."),
        ]
    table = write(
        tmp_path / "dpg.csv",
        "item_id,text,proposition_id,dependency",
        'b9,"A pig, pink.",1,0',
        'b9,"A pig, pink.",2,1',
        "b10,A fox.,1,0",
    )
    pig, fox = read_prompt_rows(table)
    assert (pig.id, pig.prompt, fox.id) == ("b9", "A pig, pink.", "b10")
    assert [question["dependency"] for question in pig.record["rows"]] == ["0", "1"]


def test_tables_of_csv_tsv_and_parquet(tmp_path: Path) -> None:
    """PartiPrompts' TSV has ``Prompt``. Columns of pictures (bytes) are left out of records."""
    write(tmp_path / "parti.tsv", "Prompt\tCategory", "a fox\tAnimals")
    assert read_prompt_rows(tmp_path / "parti.tsv") == [
        PromptRow("00000", "a fox", {"Prompt": "a fox", "Category": "Animals"})
    ]
    pyarrow = pytest.importorskip("pyarrow")
    columns = {"idx": [3, 4], "prompt": ["a", "b"], "image": [{"bytes": b"x"}] * 2, "jpg": [b"x"] * 2}
    (tmp_path / "set").mkdir()
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), tmp_path / "set" / "p.parquet")
    expected = [
        PromptRow("3", "a", {"idx": 3, "prompt": "a"}),
        PromptRow("4", "b", {"idx": 4, "prompt": "b"}),
    ]
    assert read_prompt_rows(tmp_path / "set") == read_prompt_rows(tmp_path / "set" / "p.parquet") == expected


def test_lists_in_json(tmp_path: Path) -> None:
    """LongT2IBench's list has a row a picture: two of its three are of one prompt. Also: lists, and texts by name."""
    longt2i = [
        {"en_prompt_text": text, "img_path": f"imgs/{i}.png", "Align ratio": 0.5}
        for i, text in enumerate(["A long one.", "Another.", "A long one."])
    ]
    (tmp_path / "test.json").write_text(json.dumps(longt2i, indent=1))
    first, second = read_prompt_rows(tmp_path / "test.json")
    assert (first.id, first.prompt, second.prompt) == ("00000", "A long one.", "Another.")
    assert [row["img_path"] for row in first.record["rows"]] == ["imgs/0.png", "imgs/2.png"]
    for whole, expected in (
        (["a", "b"], [("00000", "a"), ("00001", "b")]),
        ({"prompts": ["a", "b"]}, [("00000", "a"), ("00001", "b")]),
        ({"x": "a", "y": {"prompt": "b"}}, [("x", "a"), ("y", "b")]),
        ([{"prompt_id": 5, "long_prompt": "a"}], [("5", "a")]),
    ):
        (tmp_path / "p.json").write_text(json.dumps(whole))
        assert [(row.id, row.prompt) for row in read_prompt_rows(tmp_path / "p.json")] == expected


def test_held_out_captions_of_a_world() -> None:
    """Their record names the picture: the same index of the same series has this caption. Seven to nine stickers make
    at least eight sentences; ranges take turns."""
    from longalign.worlds import world

    rows = read_prompt_rows("stickers:4:objects=7-9,1:seed=2", limit=3)
    pictures = world("stickers").pictures(4, "test", 2, ((7, 9), (1, 1)))
    assert [row.prompt for row in rows] == [pictures.text(i) for i in range(3)]
    assert [row.prompt.count(".") >= 8 for row in rows] == [True, False, True]
    assert rows[1].id == "00001" and rows[1].record == {
        "world": "stickers",
        "index": 1,
        "split": "test",
        "seed": 2,
        "objects": [1, 1],
    }
    assert read_prompt_rows("stickers:4:split=train")[0].prompt != read_prompt_rows("stickers:4")[0].prompt


BAD = [
    (["stickers"], "say how many prompts of the world stickers: stickers:1000"),
    (["stickers:0"], "say how many"),
    (["stickers:2:object=1-2"], "option 'object' is unknown; did you mean 'objects'"),
    (["stickers:2:objects=9-7"], "ranges such as 7-9"),
    (["stickers:2:objects=30-40"], "has no such pictures"),
    (["stickers:2:split=tests"], "has no such pictures"),
    (["stickers:2:seed=x"], "seed should be a number"),
    (["stickers:2:seed"], "seed needs one value"),
    (["nowhere.txt"], "no such file or folder"),
    (["stickers:2", 0], "limit of prompts must be 1 or more"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD)
def test_bad_names_say_what_to_write(arguments: list[Any], says: str) -> None:
    with pytest.raises(LongalignError, match=says):
        read_prompt_rows(*arguments)


BAD_FILES = [
    ("p.jsonl", ['{"id": 1, "prompt": "a"}', "", '{"id": 1, "prompt": "b"}'], "line 3: the name 1 .*line 1"),
    ("p.jsonl", ['{"id": 1, "prompt": "a"}', '{"prompt": "b"}'], "line 2: id should be text or a number"),
    ("p.jsonl", ['{"prompt": "a"}', '{"prompt": " "}'], "line 2: the prompt is empty"),
    ("p.jsonl", ['{"prompt": "a"}', '{"tag": "b"}'], 'line 2: no "prompt" in this .*tag'),
    ("p.csv", ["id,prompt", "1,a", "2,b,c"], "line 3: has more cells than the header"),
    ("p.csv", ["id,prompt"], "has no prompts"),
    ("p.json", ["[1]"], "entry 1: should be text or an object"),
    ("p.json", ["[]"], "has no prompts"),
]


@pytest.mark.parametrize(("name", "lines", "says"), BAD_FILES)
def test_bad_rows_are_named(tmp_path: Path, name: str, lines: list[str], says: str) -> None:
    with pytest.raises(LongalignError, match=says):
        read_prompt_rows(write(tmp_path / name, *lines))


def test_folders_without_one_list(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match=r"holds no prompts: no \.txt files"):
        read_prompt_rows(tmp_path)
    write(tmp_path / "a.jsonl", {"prompt": "a"})
    write(tmp_path / "b.csv", "prompt", "b")
    with pytest.raises(LongalignError, match=r"several lists \(a\.jsonl, b\.csv\)"):
        read_prompt_rows(tmp_path)


def test_the_real_files() -> None:
    """DPG-Bench has 1,065 prompts, GenEval 553, whose records say what has to be in the picture."""
    if not SHARED.is_dir():
        pytest.skip("the benchmarks are not beside this repository")
    dpg = read_prompt_rows(SHARED / "dpg-bench")
    assert len(dpg) == 1065 and len({row.id for row in dpg}) == 1065 and dpg[2].id == "10"
    assert dpg[2].prompt.startswith("On a rustic wooden table, three ripe eggplants")
    geneval = read_prompt_rows(SHARED / "geneval")
    assert len(geneval) == 553
    assert geneval[0] == PromptRow(
        "00000",
        "a photo of a bench",
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    )
