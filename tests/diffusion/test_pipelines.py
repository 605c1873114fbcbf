"""Pipelines by name, and what is said when a folder is none."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from longalign.diffusion.pipelines import (
    ModelSettings,
    load_tokenizer,
    settings_of,
)
from longalign.errors import LongalignError
from longalign.runtime import (
    pick_device,
    pick_dtype,
)
from longalign.stickers import folder
from longalign.weights.stack import (
    load_pipeline,
)
from longalign.worlds import (
    resolve_model,
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder(), tmp_path / "model"))


def test_stickers_is_an_ordinary_folder(capfd: pytest.CaptureFixture[str]) -> None:
    """The embedded model loads by name and by path as the same pipeline, and without chatter."""
    by_name, by_path = load_pipeline("stickers", device="cpu"), load_pipeline(str(folder()), device="cpu")
    assert type(by_name).__name__ == type(by_path).__name__ == "StableDiffusionPipeline"
    assert by_name.unet.dtype == torch.float32
    weights = by_name.unet.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in by_path.unet.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_stickers_knows_its_judge_and_its_defaults() -> None:
    settings = settings_of("stickers")
    assert settings.oracle == "stickers" and settings.guidance is not None
    assert ModelSettings().length == 240 and ModelSettings().oracle is None


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(LongalignError, match=f"the part '{part}' .* is missing"):
        load_pipeline(str(copy))


def test_missing_weights_inside_a_part_are_an_error(copy: Path) -> None:
    for file in (copy / "unet").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(LongalignError, match="cannot be loaded"):
        load_pipeline(str(copy))


def test_pickled_weights_are_not_read(copy: Path) -> None:
    """A .bin beside no safetensors file is left alone, whatever is in it."""
    for file in (copy / "unet").glob("*.safetensors"):
        file.unlink()
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(LongalignError, match="cannot be loaded"):
        load_pipeline(str(copy))


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="no model_index"):
        load_pipeline(str(tmp_path))
    with pytest.raises(LongalignError, match="no such model folder"):
        load_pipeline(str(tmp_path / "none"))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(LongalignError, match="is no JSON"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{}", "names no pipeline (no text under _class_name); save the pipeline again"),
        ("[1, 2]", "should be a JSON object, not a list"),
        ('"StableDiffusionPipeline"', "should be a JSON object, not a str"),
        ('{"_class_name": null}', "names no pipeline"),
        ('{"_class_name": ["my_pipeline", "Mine"]}', "names no pipeline"),
        (
            '{"_class_name": "StableDifusionPipeline"}',
            "has no pipeline 'StableDifusionPipeline'; did you mean 'Sta",
        ),
        (
            '{"_class_name": "StableDiffusionPipeline", "unet": []}',
            "'unet' should be [library, class], not []",
        ),
    ],
)
def test_a_damaged_index_is_said_in_words(tmp_path: Path, index: str, says: str) -> None:
    """`--model FOLDER`, whatever is in its model_index.json: one line that says what to do, and no traceback."""
    (tmp_path / "model_index.json").write_text(index)
    for load in (load_pipeline, load_tokenizer):
        with pytest.raises(LongalignError, match=re.escape(says)):
            load(tmp_path)


def test_a_damaged_part_and_a_file_are_said_in_words(copy: Path) -> None:
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(LongalignError, match=r"is a file, and a model is a folder .*from_single_file"):
        load_pipeline(file)
    file.write_bytes(b"no weights")
    with pytest.raises(LongalignError, match=r"^model '.*' cannot be loaded: "):
        load_pipeline(copy)
    (copy / "unet" / "config.json").write_text("{}")
    with pytest.raises(LongalignError, match=r"^model '.*' cannot be loaded: "):
        load_pipeline(copy)


def test_a_path_is_as_good_as_a_name() -> None:
    """Of a pipeline that was loaded from a `Path`, too, as diffusers allows it."""
    assert settings_of(folder()) == settings_of("stickers") and settings_of(folder()).oracle == "stickers"
    assert load_tokenizer(folder()).model_max_length == 77
    assert load_pipeline(folder(), device="cpu").unet.dtype == torch.float32


def test_settings_file_of_a_folder(copy: Path) -> None:
    (copy / "longalign.json").write_text(json.dumps({"guidance": 9.0, "length": 154}))
    assert settings_of(str(copy)) == ModelSettings(guidance=9.0, length=154, oracle=None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{oops", "longalign.json: is no JSON"),
        ("[]", "longalign.json: should be a JSON object, not a list"),
        ('{"guidence": 2}', "setting 'guidence' is unknown; did you mean 'guidance'?"),
        ('{"guidance": "2"}', "guidance should be float or null, not '2'"),
        ('{"length": 77.5}', "length should be int, not 77.5"),
        ('{"length": true}', "length should be int, not True"),
        ('{"flowedit": []}', "flowedit should be Mapping or null, not []"),
    ],
)
def test_a_damaged_settings_file_is_said_in_words(tmp_path: Path, text: str, says: str) -> None:
    """Each ended in a traceback (JSONDecodeError or TypeError)."""
    (tmp_path / "longalign.json").write_text(text)
    with pytest.raises(LongalignError, match=re.escape(says)):
        settings_of(tmp_path)


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    """`"guidance": 2` is JSON's 2.0; a byte order mark is no fault."""
    (tmp_path / "longalign.json").write_text('\ufeff{"guidance": 2, "oracle": null}', encoding="utf-8")
    assert settings_of(tmp_path) == ModelSettings(guidance=2)


@pytest.mark.parametrize("name", ["AutoencoderKL", "DDIMScheduler", "logging"])
def test_a_class_that_is_no_pipeline_is_said_so(tmp_path: Path, name: str) -> None:
    """Not "type object 'AutoencoderKL' has no attribute '_get_signature_types'"."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(LongalignError, match=f"has no pipeline '{name}'"):
        load_pipeline(str(tmp_path))


def test_tokenizer_alone() -> None:
    assert load_tokenizer("stickers").model_max_length == 77
    assert resolve_model("someone/model") == "someone/model"


def test_device_and_dtype() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_dtype("auto", "cpu") is torch.float32 and pick_dtype("auto", "cuda:1") is torch.float16
    with pytest.raises(LongalignError, match="dtype 'int8' is unknown"):
        pick_dtype("int8", "cpu")
    with pytest.raises(LongalignError, match="device 'abacus' cannot be used"):
        pick_device("abacus")
