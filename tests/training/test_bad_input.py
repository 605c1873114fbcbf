"""What may be wrong with what training is given: rows, recipes, LoRAs of earlier stages, a disk without room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from captioned_files import png
from file_limit import file_limit

from longalign.data.captioned import SkipLog
from longalign.data.entries import Failure
from longalign.errors import LongalignError
from longalign.training import fit, read_recipe
from longalign.training.checkpoint import newest_checkpoint, read_state
from longalign.training.recipe import Recipe
from longalign.weights import lora

ROWS = 40  # two bad ones are 5 %, three are more


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny pipeline as a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.tiny_sd15().save_pretrained(folder)
    return str(folder)


def pictures(folder: Path, corrupt: tuple[int, ...] = (), empty: tuple[int, ...] = ()) -> str:
    """`ROWS` pictures of one colour each, with captions in metadata.jsonl."""
    folder.mkdir()
    lines = []
    for i in range(ROWS):
        data = png((6 * i, 90, 200), (32, 32))
        (folder / f"{i:02d}.png").write_bytes(data[: len(data) // 2] if i in corrupt else data)
        lines.append({"file_name": f"{i:02d}.png", "text": "  " if i in empty else "A red house."})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder)


def recipe(model: str, data: str, objective: str = "supervised", **settings: Any) -> Recipe:
    """Two steps see every row once."""
    rows = {"prompts": "stickers"} if objective == "reward" else {"pictures": data}
    train = {"steps": 2, "batch_size": ROWS // 2, "lr": 1e-3, "log_every": 1, "checkpoint_every_steps": 1}
    given = {"objective": objective, "model": model, "data": rows, objective: settings, "train": train}
    return Recipe.from_mapping(given)


def small(model: str, data: str, **train: Any) -> Recipe:
    given = recipe(model, data, rank=2, length=24).to_mapping()
    return Recipe.from_mapping({**given, "train": {**given["train"], **train}})


def listed(folder: Path) -> list[str]:
    lines = (folder / "skipped.jsonl").read_text().splitlines()
    return [f"{Path(row['name']).name}: {row['reason']}" for row in map(json.loads, lines)]


def test_corrupt_pictures_and_empty_captions_are_skipped_counted_and_listed(
    model: str, tmp_path: Path
) -> None:
    """One of each among 40, met in the first epoch; the second meets them again, in a run that goes on."""
    data, out = pictures(tmp_path / "data", corrupt=(7,), empty=(30,)), tmp_path / "run"
    result = fit(small(model, data), out)
    corrupt, empty = sorted(listed(out))
    assert corrupt.startswith("07.png: cannot be read as a picture") and empty.endswith(
        "its caption is empty"
    )
    assert result.step == 2 and result.metrics["rows_skipped"] == 2
    again = fit(small(model, data, steps=4), out)
    assert (again.resumed_from, again.step) == (2, 4)
    assert sorted(listed(out)) == [corrupt, empty]


def test_past_five_per_cent_the_run_stops_and_says_so(model: str, tmp_path: Path) -> None:
    """Three of 40: in batches of five the third is met at some step, and the checkpoint from before it stays."""
    data, out = pictures(tmp_path / "data", corrupt=(7, 12), empty=(30,)), tmp_path / "run"
    with pytest.raises(
        LongalignError,
        match=r"3 of 40 rows cannot be used, more than 5%: .*All are listed in .*skipped\.jsonl",
    ) as caught:
        fit(small(model, data, steps=8, batch_size=5), out)
    assert "\n" not in str(caught.value)
    assert sorted(line[:7] for line in listed(out)) == ["07.png:", "12.png:", "30.png:"]
    kept = newest_checkpoint(out / "checkpoints")
    assert kept is not None and 1 <= read_state(kept)["step"] < 8
    assert not (out / "model").exists()


def test_a_list_of_skipped_rows_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    """A kill in mid-line: that row is listed again, on a line of its own, and the one before is not."""
    log = SkipLog(1000)
    log.open(tmp_path)
    log.add([Failure("a", "why"), Failure("b", "why")], 10)
    file = tmp_path / "skipped.jsonl"
    file.write_text(file.read_text()[:-9])
    again = SkipLog(1000)
    again.open(tmp_path)
    again.add([Failure("a", "why"), Failure("b", "why")], 10)
    names = [line[:10] for line in file.read_text().splitlines()]
    assert names == ['{"name": "', '{"name": "', '{"name": "'] and len(again) == 2
    assert [json.loads(file.read_text().splitlines()[i])["name"] for i in (0, 2)] == ["a", "b"]


def test_no_room_for_the_list_of_skipped_rows(tmp_path: Path) -> None:
    log = SkipLog(1000)
    log.open(tmp_path)
    with (
        file_limit(20),
        pytest.raises(LongalignError, match=r"Cannot write .*skipped\.jsonl: .*Free some space"),
    ):
        log.add([Failure("a picture", "its caption is empty")], 10)


@pytest.mark.parametrize("objective", ["supervised", "consistency", "reward"])
def test_a_lora_of_another_base_is_refused(objective: str, model: str, tmp_path: Path) -> None:
    """Of the same shapes, one of its base's weights a little larger. Nothing is written."""
    other = tiny.tiny_sd15().unet
    with torch.no_grad():
        other.mid_block.resnets[0].conv1.weight.mul_(1.05)
    lora.attach(other, 2)
    lora.save(other, tmp_path / "stage", base_name="another")
    given = recipe(
        model, pictures(tmp_path / "data"), objective, rank=2, start_from=[str(tmp_path / "stage")]
    )
    with pytest.raises(
        LongalignError, match=r"belongs to the base another \([0-9a-f]{12}\), and this model is .*tiny"
    ):
        fit(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_keeps_the_checkpoint_before(model: str, tmp_path: Path) -> None:
    """No room for a LoRA's tensors from the second checkpoint on; with room again the run goes on to its end."""
    data, out = pictures(tmp_path / "data"), tmp_path / "run"
    fit(small(model, data, steps=1), out)
    with (
        file_limit(20_000),
        pytest.raises(LongalignError, match=r"Cannot write the checkpoint .*step-00000002"),
    ):
        fit(small(model, data), out)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-00000001"]
    result = fit(small(model, data), out)
    assert (result.resumed_from, result.step) == (1, 2)
    written = sorted(p.name for p in (out / "model").iterdir())
    assert written == ["README.md", "longalign.json", "pytorch_lora_weights.safetensors"]


@pytest.mark.parametrize(
    ("name", "override", "says"),
    [
        ("stickers-sft", "supervised.rnak=3", "supervised.rnak: no such key; did you mean supervised.rank?"),
        ("stickers-sft", "data.picture=x", "data.picture: no such key; did you mean data.pictures?"),
        ("stickers-sft", "caption_dropout=0", "did you mean supervised.caption_dropout?"),
        ("sd15-lcm", "supervised.rank=3", "supervised: no such key"),
        ("sd15-lcm", "consistency.huber=1", "did you mean consistency.huber_c?"),
        ("sd15-lcm", "objective=consistent", "did you mean 'consistency'?"),
    ],
)
def test_unknown_keys_of_the_recipes(name: str, override: str, says: str) -> None:
    """Told with the nearest right one and the recipe's name, before anything is loaded."""
    with pytest.raises(LongalignError) as caught:
        read_recipe(name, [override])
    assert says in str(caught.value) and f"{name}: " in str(caught.value)
