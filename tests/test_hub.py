"""Names of models: looked up once, at once, with a message that says what to do."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from longalign.data.recaption import Captioner
from longalign.errors import LongalignError
from longalign.hub import find_on_hub, reason_of
from longalign.metrics.features import Features
from longalign.objectives.reward.sampling import load_prompts
from longalign.preference import PreferenceModel
from longalign.published import how_to_get
from longalign.recipes import recipe_names, recipe_text
from longalign.weights.convert import import_checkpoint
from longalign.weights.lora_file import LoraFile
from longalign.weights.stack import load_pipeline


def answers(monkeypatch: pytest.MonkeyPatch, result: Any) -> list[str]:
    """Stands in for the hub: gives `result`, or raises it; the list has what was asked for."""
    asked: list[str] = []

    def look(url: str, timeout: float) -> Any:
        asked.append(url)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", look)
    return asked


def bare(kind: type[Exception]) -> Exception:
    """An error of the hub, whose constructor wants a response of one HTTP library or another."""
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("load", "name", "says"),
    [
        (load_pipeline, "sticker", "there is no model 'sticker'; did you mean 'stickers'?"),
        (load_pipeline, "sticker-sdxl", "did you mean 'stickers-sdxl'?"),
        (load_pipeline, "nomodel", "it is no folder here, the embedded ones are stickers, stickers-sdxl"),
        (PreferenceModel.from_pretrained, "sticker", "preference model 'sticker'; did you mean 'stickers'?"),
        (Features.from_pretrained, "nothing", "it is no folder here"),
        (Captioner.from_pretrained, "nomodel", "a name on the hub has the form OWNER/NAME"),
        (
            Captioner.from_pretrained,
            "stickers",
            "'stickers' does not caption pictures: name an image-text-to-text",
        ),
    ],
)
def test_a_wrong_name_costs_no_look_at_the_hub(
    load: Callable[[str], Any], name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answers(monkeypatch, AssertionError("asked"))
    with pytest.raises(LongalignError) as found:
        load(name)
    assert says in str(found.value) and not asked


def test_names_on_the_hub_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub says in words of this package; the nearest embedded name is named."""
    cases = [
        (
            bare(errors.RepositoryNotFoundError),
            "neither a folder here nor a public model",
        ),
        (bare(errors.GatedRepoError), "accept it on the model's page, then log in"),
        (bare(errors.EntryNotFoundError), "has no config.json, so it is no model of this kind"),
        (OSError("Name or service not known"), "the hub cannot be reached (Name or service not known)"),
    ]
    for error, says in cases:
        asked = answers(monkeypatch, error)
        with pytest.raises(LongalignError) as found:
            find_on_hub("sticker/denscore", "config.json", "model", ["stickers/denscore"])
        assert says in str(found.value) and len(asked) == 1
        assert asked[0].endswith("sticker/denscore/resolve/main/config.json")
    with pytest.raises(LongalignError, match=r"did you mean 'stickers/denscore'\?$"):
        find_on_hub("sticker/denscore", "config.json", "model", ["stickers/denscore"])
    answers(monkeypatch, object())
    assert find_on_hub("someone/model", "config.json", "model") is False


def test_offline_says_so_and_takes_what_is_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = answers(monkeypatch, OSError("unreachable"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: str(tmp_path))
    assert find_on_hub("someone/model", "config.json", "model") is True and len(asked) == 1
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_on_hub("someone/model", "config.json", "model") is True and len(asked) == 1
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: None)
    with pytest.raises(LongalignError, match="in the hub's cache on this machine, and HF_HUB_OFFLINE is set"):
        find_on_hub("someone/model", "config.json", "model")


@pytest.mark.parametrize("load", [load_pipeline, PreferenceModel.from_pretrained, Captioner.from_pretrained])
def test_a_machine_without_network_answers_within_seconds(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The true look-up, at an address that refuses: no retries, no pages of them."""
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_url", lambda name, file: f"http://127.0.0.1:9/{name}/resolve/main/{file}"
    )
    began = time.monotonic()
    with pytest.raises(LongalignError, match="the hub cannot be reached"):
        load("nobody/nothing-of-the-kind")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("models/sd15-t5", "with the subfolders t5 and t5_tokenizer (T5-large) and adapter"),
        ("/data/models/denscore", "CLIPModel folder; fit its V once by `longalign decompose"),
        ("softrepa-sd15", "dc_tokens.pth"),
        ("there/s28750_lora_vis.pt", "LongAlign's release"),
        ("data/prompts.jsonl", "data.prompts=FILE"),
        ("runs/sd15-sft/model", "train it with --out runs/sd15-sft"),
    ],
)
def test_a_missing_published_file_says_how_to_get_it(path: str, says: str) -> None:
    assert says in how_to_get(path)
    assert how_to_get("photo.png") == how_to_get("prompts.txt") == how_to_get("stickers/denscore") == ""


def test_recipes_say_how_to_get_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of every loader, without a look at the hub; each name of the recipes is in docs/published.md."""
    asked = answers(monkeypatch, AssertionError("asked"))
    monkeypatch.chdir(tmp_path)
    for load, name in (
        (load_pipeline, "models/sd15-t5"),
        (PreferenceModel.from_pretrained, "models/denscore"),
        (PreferenceModel.from_pretrained, "models/HPS_v2_compressed.pt"),
        (LoraFile.read, "runs/sd15-sft/model"),
        (load_prompts, "data/prompts.jsonl"),
        (lambda source: import_checkpoint(source, tmp_path / "out"), "softrepa-sd15"),
        (lambda source: import_checkpoint(source, tmp_path / "out"), "s28750_lora_vis.pt"),
    ):
        with pytest.raises(LongalignError) as found:
            load(name)
        assert how_to_get(name) and how_to_get(name) in str(found.value)
    assert not asked
    table = (Path(__file__).parents[1] / "docs" / "published.md").read_text("utf-8")
    text = "".join(map(recipe_text, recipe_names()))
    for name in set(re.findall(r"(?<![\w/])models/[\w.-]*\w", text)):
        assert how_to_get(name) and f"`{name}`" in table


def test_a_tokenizer_is_looked_up_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """`score --tokenizer no/model` took 47 s and printed twelve retries."""
    asked = answers(monkeypatch, OSError("no network"))
    with pytest.raises(LongalignError, match=r"no tokenizer in no/model: .* hub cannot be reached \(no net"):
        PreferenceModel.from_pretrained("stickers", tokenizer="no/model")
    assert len(asked) == 1
    with pytest.raises(LongalignError, match=r"no tokenizer in nomodel: .* has the form OWNER/NAME"):
        PreferenceModel.from_pretrained("stickers", tokenizer="nomodel")
    assert len(asked) == 1


def test_reasons_are_one_line() -> None:
    assert reason_of(KeyError("_class_name")) == "'_class_name' is missing in one of its files"
    assert reason_of(OSError("first\nsecond")) == "first" and reason_of(RuntimeError()) == "RuntimeError"
