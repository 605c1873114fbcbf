"""Preference pairs from files: what is read, and what is refused."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preference_files import ROW, picture, write

from longalign.data.jsonl import JsonlPairs
from longalign.data.pairs import (
    PreferenceData,
)
from longalign.data.preferences import (
    load_pairs,
)
from longalign.errors import LongalignError
from longalign.stickers.raters import RaterPairs


def test_jsonl(tmp_path: Path) -> None:
    data = load_pairs(str(write(tmp_path, ROW, "", {**ROW, "preferred": 0.5, "caption_a": None})))
    assert isinstance(data, JsonlPairs) and len(data) == 2
    first = data[0]
    assert first.image_a.shape == (4, 6, 3) and first.image_a[0, 0].tolist() == [10, 0, 255]
    assert first.image_b.shape == (5, 3, 3)
    assert (first.prompt, first.preferred) == ("A fox.", 1.0)
    assert (first.caption_a, first.caption_b) == ("A fox sits. It is red.", "A pig.")
    assert data[1].preferred == 0.5 and data[1].caption_a is None
    assert data.texts(0) == ["A fox sits. It is red.", "A pig."]
    assert data.without_captions() == f"{tmp_path / 'pairs.jsonl'}, line 3"
    bare = {key: ROW[key] for key in ("image_a", "image_b", "preferred", "prompt")}
    assert JsonlPairs(write(tmp_path, bare)).texts(0) == ["A fox."]
    assert JsonlPairs(write(tmp_path, ROW)).without_captions() is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {k: v for k, v in ROW.items() if k != "preferred"},
            r'line 2: no "preferred" in this object \(it has: image_a',
        ),
        ({**ROW, "prompt": None}, 'line 2: no "prompt"'),
        ({**ROW, "preferred": "a"}, "line 2, preferred: must be 1 .* not 'a'"),
        ({**ROW, "preferred": True}, "line 2, preferred: must be 1"),
        ({**ROW, "preferred": 2}, "line 2, preferred: must be 1"),
        ({**ROW, "caption_b": 3}, "line 2, caption_b: must be a string, not 3"),
        ({**ROW, "image_b": "none.png"}, "line 2, image_b: .*none.png: no such image file"),
        ([1], "line 2: must be an object with image_a"),
        ("{", "line 2: is no JSON"),
    ],
)
def test_jsonl_names_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(LongalignError, match=message):
        JsonlPairs(write(tmp_path, ROW, row))


def test_jsonl_without_anything_to_learn(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match=r"all 2 pairs are ties, so there is no preference to learn"):
        JsonlPairs(write(tmp_path, {**ROW, "preferred": 0.5}, {**ROW, "preferred": 0.5}))
    with pytest.raises(LongalignError, match="holds no pair"):
        JsonlPairs(write(tmp_path, ""))
    data = JsonlPairs(write(tmp_path, ROW))
    (tmp_path / "pictures/b.png").write_bytes(b"no picture")
    with pytest.raises(LongalignError, match=r"line 1, image_b: .*b.png: is no picture"):
        data[0]


def test_sources_by_name(tmp_path: Path) -> None:
    stickers = load_pairs("stickers", split="validation", seed=3, count=7)
    assert isinstance(stickers, RaterPairs) and (len(stickers), stickers.split, stickers.seed) == (
        7,
        "validation",
        3,
    )
    with pytest.raises(LongalignError, match="no such file or folder of preference pairs"):
        load_pairs(str(tmp_path / "none.jsonl"))
    (tmp_path / "pairs.csv").write_text("image_a,image_b")
    with pytest.raises(LongalignError, match=r"read from .jsonl, .parquet or .arrow"):
        load_pairs(str(tmp_path / "pairs.csv"))


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pairs.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LongalignError, match="pip install pyarrow"):
        load_pairs(str(tmp_path / "pairs.parquet"))


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    picture(value, (16, 16)).save(file, "PNG")
    return file.getvalue()


def table(n: int = 5, **changes: list[Any]) -> Any:
    """Pick-a-Pic's columns; row i shows pictures of red i and 100 + i. Preferred: a, b, tie, a, b."""
    pa = pytest.importorskip("pyarrow")
    labels = [1.0, 0.0, 0.5, 1.0, 0.0][:n]
    columns = {
        "caption": [f"prompt {i}" for i in range(n)],
        "jpg_0": [jpeg(i) for i in range(n)],
        "jpg_1": [jpeg(100 + i) for i in range(n)],
        "label_0": labels,
        "label_1": [1 - y for y in labels],
        "caption_0": [f"Long {i}." for i in range(n)],
        "caption_1": [f"Longer {i}." for i in range(n)],
        **changes,
    }
    return pa.table({name: column for name, column in columns.items() if column is not None})


def save(found: Any, path: Path) -> PreferenceData:
    """As parquet in row groups of two, or as `datasets` saves Arrow files."""
    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(found, path, row_group_size=2)
    else:
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, found.schema) as writer:
            writer.write_table(found, max_chunksize=2)
    return load_pairs(str(path))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_pick_a_pic(tmp_path: Path, suffix: str) -> None:
    """Row 1 has no label, so of the five rows 0, 2, 3, 4 are left."""
    data = save(table(has_label=[True, False, True, True, True]), tmp_path / f"pairs{suffix}")
    assert len(data) == 4
    for index, row in enumerate([0, 2, 3, 4]):
        pair = data[index]
        assert pair.image_a[0, 0].tolist() == [row, 0, 255] and pair.image_b[0, 0].tolist() == [
            100 + row,
            0,
            255,
        ]
        assert pair.preferred == [1.0, 0.0, 0.5, 1.0, 0.0][row]
        assert (pair.prompt, pair.caption_a, pair.caption_b) == (
            f"prompt {row}",
            f"Long {row}.",
            f"Longer {row}.",
        )
        assert data.texts(index) == [f"Long {row}.", f"Longer {row}."]
    assert data.without_captions() is None


def test_a_folder_of_files_and_pictures_of_datasets(tmp_path: Path) -> None:
    save(table(), tmp_path / "0.arrow")
    as_datasets = [{"bytes": jpeg(7), "path": None}] * 2
    save(table(2, jpg_0=as_datasets, caption_1=None), tmp_path / "1.arrow")
    data = load_pairs(str(tmp_path))
    assert len(data) == 7 and data[5].prompt == "prompt 0"
    assert data[5].image_a[0, 0].tolist() == [7, 0, 255]
    assert data[0].caption_b is None  # a column that one file lacks is read from none
    assert data.without_captions() == f"{tmp_path}: no column 'caption_1'"
    assert np.array_equal(data[6].image_b, data[1].image_b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_0": None}, "no column 'label_0'; Pick-a-Pic's are caption, jpg_0"),
        ({"label_0": [0.5] * 5, "label_1": [0.5] * 5}, "all 5 pairs are ties"),
        (
            {"label_1": [1.0] * 5},
            "row group 0, row 0: label_0 and label_1 must be shares that add up to 1, not 1.0 and",
        ),
        ({"label_0": [None] * 5}, "row 0: label_0 and label_1"),
        ({"has_label": [False] * 5}, "holds no pair"),
    ],
)
def test_pick_a_pic_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LongalignError, match=message):
        save(table(**changes), tmp_path / "pairs.parquet")


def test_pick_a_pic_names_the_row(tmp_path: Path) -> None:
    data = save(table(jpg_1=[jpeg(0)] * 3 + [b"no picture", b""]), tmp_path / "pairs.parquet")
    with pytest.raises(
        LongalignError, match=r"pairs.parquet, row group 1, row 1, jpg_1: cannot be read as a picture"
    ):
        data[3]
    with pytest.raises(LongalignError, match="row group 2, row 0, jpg_1: holds no picture"):
        data[4]
    save(table(caption_1=["x", "x", "", "x", None]), tmp_path / "pairs.parquet")
    assert str(load_pairs(str(tmp_path / "pairs.parquet")).without_captions()).endswith("row group 1, row 0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LongalignError, match=r"no .parquet or .arrow file in this folder"):
        load_pairs(str(tmp_path / "empty"))
    (tmp_path / "pairs.parquet").write_bytes(b"none of it")
    with pytest.raises(LongalignError, match=r"pairs.parquet: cannot be read"):
        load_pairs(str(tmp_path / "pairs.parquet"))
