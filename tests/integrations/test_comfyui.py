"""The node pack of integrations/comfyui, against stand-ins for ComfyUI's objects (`comfy_clip.py`, `comfy_model.py`).

ComfyUI itself was not run.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from comfy_clip import ComfyClip, runs_of
from comfy_model import ComfyModel
from soft_token_models import inputs, model_of, near, tokens_for

import longalign
from longalign.errors import LongalignError
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import render, scene

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "comfyui"
LONG = (
    "The background is navy. A fox is in the top left. A “red” dog (big) is in the middle.\n- A cat, which is small, is"
    " in the top right. A frog is below the fox. "
    + "A bee is in the bottom left, an owl is left of a fox, "
    * 6
)
TIME = torch.tensor([430.0, 430.0])
SHORT = "A fox is in the top left."
# ComfyUI's types of inputs with a widget; all others are connections
WIDGETS = {"STRING", "INT", "FLOAT", "BOOLEAN"}
KNOWN = WIDGETS | {"CLIP", "MODEL", "IMAGE", "CONDITIONING", "LONGALIGN_PREFERENCE"}


def load_pack(name: str = "longalign_nodes") -> ModuleType:
    """The pack, imported as ComfyUI imports a folder of custom_nodes: by its file, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


PACK = load_pack()
NODES: dict[str, Any] = PACK.NODE_CLASS_MAPPINGS


def run(node: str, **inputs: Any) -> Any:
    """Runs a node as ComfyUI does: a new object, its FUNCTION, inputs by name."""
    made = NODES[node]()
    return getattr(made, made.FUNCTION)(**inputs)


@cache
def pipe_of(family: str) -> Any:
    """A sticker pipeline. SD3's CLIP-L has the identity for its projection, as the published SD3."""
    pipe = longalign.load_pipeline(family)
    if family == "stickers-sd3":
        weight = pipe.text_encoder.text_projection.weight
        weight.data = torch.eye(len(weight))
    return pipe


def escaped(text: str) -> str:
    """Literal brackets as a user of ComfyUI writes them."""
    return text.replace("(", "\\(").replace(")", "\\)")


@pytest.mark.parametrize("name", NODES)
def test_the_interface_of_each_node(name: str) -> None:
    """What ComfyUI reads of a class: the inputs are parameters of the function, with the same defaults."""
    node = NODES[name]
    told = node.INPUT_TYPES()
    assert set(told) <= {"required", "optional", "hidden"}
    parameters = dict(inspect.signature(getattr(node, node.FUNCTION)).parameters)
    del parameters["self"]
    assert list(parameters) == [*told["required"], *told.get("optional", {})]
    for key, (kind, *options) in {**told["required"], **told.get("optional", {})}.items():
        assert isinstance(kind, tuple) or kind in KNOWN
        default = parameters[key].default
        if default is not inspect.Parameter.empty:
            assert options[0]["default"] == default
        if isinstance(kind, tuple):
            assert options[0]["default"] in kind
        assert key not in told.get("optional", {}) or default is not inspect.Parameter.empty
    assert all(kind in KNOWN for kind in node.RETURN_TYPES)
    assert len(getattr(node, "RETURN_NAMES", node.RETURN_TYPES)) == len(node.RETURN_TYPES)
    assert node.CATEGORY == "longalign" and node.DESCRIPTION and name in PACK.NODE_DISPLAY_NAME_MAPPINGS


@pytest.mark.parametrize("family", ["stickers", "stickers-sdxl", "stickers-sd3"])
@pytest.mark.parametrize("pooled", ["whole", "first"])
def test_conditioning_is_that_of_encode(family: str, pooled: Any) -> None:
    """States and pooled vectors of a prompt with curly quotes, brackets, lines and a sentence that is too long."""
    clip = ComfyClip(pipe_of(family))
    positive, negative, report = run(
        "LongalignEncode", clip=clip, prompt=escaped(LONG), negative="blurry, ugly", pooled=pooled
    )
    wanted = longalign.encode(pipe_of(family), LONG, "blurry, ugly", strategy="clip-cat", pooled=pooled)
    for [[states, told]], embeds, vector in (
        (positive, wanted.embeds, wanted.pooled),
        (negative, wanted.negative_embeds, wanted.negative_pooled),
    ):
        assert near(states, embeds)
        if vector is not None:
            assert near(told["pooled_output"], vector)
    assert report.startswith("prompt: 7 segments, 185 tokens, padded to 240")
    assert len(clip.calls) == (4 if family == "stickers-sd3" else 2)  # T5 apart, and all segments in one call


def test_other_settings_are_those_of_encode() -> None:
    """The rule of the published weights, and another length."""
    pipe, prompt = pipe_of("stickers"), LONG.partition("A bee")[0].replace("(big) ", "") * 2
    positive, _, _ = run(
        "LongalignEncode",
        clip=ComfyClip(pipe),
        prompt=prompt,
        segments="released",
        pad_star="released",
        length=90,
        strategy="segments",
    )
    wanted = longalign.encode(
        pipe,
        prompt,
        "",
        strategy="clip-cat:pad_star=released",
        segments="released",
        length=90,
    )
    assert near(positive[0][0], wanted.embeds)


def test_a_short_prompt_is_encoded_as_comfyui_does() -> None:
    clip = ComfyClip(pipe_of("stickers-sdxl"))
    positive, negative, report = run("LongalignEncode", clip=clip, prompt=SHORT, negative="")
    own, vector = clip.encode_from_tokens(clip.tokenize(SHORT), return_pooled=True)
    assert torch.equal(positive[0][0], own) and torch.equal(positive[0][1]["pooled_output"], vector)
    assert negative[0][0].shape == own.shape and "fit the window" in report


def test_sd3_without_its_t5() -> None:
    """Then ComfyUI's conditioning has CLIP's part alone."""
    clip = ComfyClip(pipe_of("stickers-sd3"), without_t5=True)
    positive, _, _ = run("LongalignEncode", clip=clip, prompt=escaped(LONG))
    wanted = longalign.encode(pipe_of("stickers-sd3"), LONG, "", strategy="clip-cat")
    assert positive[0][0].shape[1] == 240 and near(positive[0][0], wanted.embeds[:, :240])


def test_weights_reach_over_sentences() -> None:
    """``(fox. A red:1.5)``: each sentence gets its part, by ComfyUI's formula w·(z − e) + e.

    "A fox. A red frog." has the tokens a, fox, . and a, red, frog, . behind a start token each: positions 2 and 3, then
    5 and 6, move from the empty prompt's state e at their place (2, 3 and 1, 2) to half as far again.
    """
    clip = ComfyClip(pipe_of("stickers"))
    given = {"clip": clip, "strategy": "segments"}
    weighted = run("LongalignEncode", prompt="A (fox. A red:1.5) frog.", **given)[0][0][0][0]
    plain = run("LongalignEncode", prompt="A fox. A red frog.", **given)[0][0][0][0]
    empty = clip.encode_from_tokens(clip.tokenize(""))[0]
    wanted = plain.clone()
    for place, in_segment in ((2, 2), (3, 3), (5, 1), (6, 2)):
        wanted[place] = 1.5 * (plain[place] - empty[in_segment]) + empty[in_segment]
    assert near(weighted, wanted) and not near(weighted, plain, 1e-2)


@pytest.mark.parametrize(
    "prompt",
    [
        "a (b) c",
        "a (b:0.5) c",
        "((b) c:1.2) d",
        "(a (b:1.4) c)",
        "a \\(b\\) c",
        "(a:b) c",
        "(a \\(b:0.3\\):1.3)",
    ],
)
def test_weights_are_read_as_comfyui_reads_them(prompt: str) -> None:
    """Written again and read by the stand-in, each run keeps its text and weight."""
    text = sys.modules["longalign_nodes.weights"].read_weights(prompt)
    if prompt == "(a:b) c":  # ComfyUI reads no number behind the colon
        assert text.text == "a:b c" and text.weights == (1.1, 1.1, 1.1, 1.0, 1.0)
        return
    ours = [(letter, round(w, 6)) for letter, w in zip(text.text, text.weights, strict=True)]
    assert ours == [(letter, round(w, 6)) for said, w in runs_of(prompt) for letter in said]
    assert ours == [(letter, round(w, 6)) for said, w in runs_of(text.written()) for letter in said]


class Other:
    """A CLIP object of a model that is read by a T5 alone."""

    def tokenize(self, text: str, **_: Any) -> dict[str, Any]:
        return {"t5xxl": [[(1, 1.0, 0)]], "l": [[(1, 1.0, 0)]]}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"clip": None}, "there is no CLIP"),
        ({"clip": Other()}, "reads with l, t5xxl: segments are for SD 1.x"),
        ({"strategy": "segment"}, "strategy 'segment' is unknown: choose one of auto, segments, plain"),
        ({"length": 0}, "length must be at least 1"),
        ({"language": "english"}, "language"),
        ({"prompt": 3}, "a prompt must be text, not int"),
    ],
)
def test_wrong_inputs_of_the_encoder(inputs: dict[str, Any], message: str) -> None:
    given = {"clip": ComfyClip(pipe_of("stickers")), "prompt": SHORT, "negative": "", **inputs}
    with pytest.raises(LongalignError, match=message):
        run("LongalignEncode", **given)


def test_scores_by_sentence_with_marks() -> None:
    """Two pictures of a scene, one with a caption of another: scores are those of the model, the worst is marked."""
    prompt = text_of(caption(scene(0, split="test"), 0))
    pictures = [render(scene(i, split="test")) for i in (0, 1)]
    nodes = sys.modules["longalign_nodes.nodes"]
    image = torch.stack([nodes._tensor(p) for p in pictures])
    [preference] = run("LongalignLoadPreference", model="stickers")
    marks, report, score, worst = run("LongalignScore", preference=preference, image=image, prompt=prompt)
    wanted = preference.score(pictures, prompt)
    assert score == pytest.approx(float(wanted.overall.mean()), abs=1e-4)
    assert worst == pytest.approx(min(s.best for s in wanted.worst()), abs=1e-4)
    assert marks.dtype == torch.float32 and len(marks) == 2 and marks.shape[-1] == 3
    assert marks.min() >= 0 and marks.max() <= 1 and marks.shape[1] > marks.shape[2] == 576
    assert report.splitlines()[0].startswith("picture 1: ") and "false" in report
    # The red of a wrong sentence: in the picture of another scene there is more of it.
    red = [int(((m[576:] * 255).round() == torch.tensor([198, 40, 40])).all(-1).sum()) for m in marks]
    assert red[1] > red[0]


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        ("LongalignLoadPreference", {"model": " "}, "name a preference model"),
        ("LongalignLoadPreference", {"model": "stickers/nothing"}, "nothing"),
        (
            "LongalignScore",
            {"preference": 1, "image": None, "prompt": "a"},
            "connect the output of 'LongAlign: load",
        ),
        ("LongalignSoftTokens", {"model": None, "tokens": ""}, "name a file of soft tokens"),
    ],
)
def test_wrong_inputs_of_the_others(node: str, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(LongalignError, match=message):
        run(node, **inputs)


def test_wrong_images_and_an_empty_prompt() -> None:
    [preference] = run("LongalignLoadPreference", model="stickers")
    with pytest.raises(LongalignError, match=r"pictures, height, width, 3\), not \(1, 3, 8, 8\)"):
        run("LongalignScore", preference=preference, image=torch.zeros(1, 3, 8, 8), prompt="a")
    with pytest.raises(LongalignError, match="the prompt is empty"):
        run("LongalignScore", preference=preference, image=torch.zeros(1, 8, 8, 3), prompt=" ")


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3"])
@pytest.mark.parametrize("scale", [1.0, 0.7, 0.0])
@torch.no_grad()
def test_soft_tokens_act_as_by_our_hooks(family: str, scale: float, tmp_path: Path) -> None:
    """The prediction by ComfyUI's patches is that of `SoftTokens.attach`; the MODEL that was given stays plain."""
    module, given = model_of(family), inputs(family, t=TIME)
    tokens = tokens_for(module)
    file = tokens.save(tmp_path)
    plain = module(**given)[0]
    with tokens.attach(module, scale=scale):
        wanted = module(**given)[0]
    model = ComfyModel(module, family)
    [patched] = run("LongalignSoftTokens", model=model, tokens=str(file), scale=scale)
    assert near(patched.predict(given), wanted)
    assert near(wanted, plain) == (scale == 0)
    assert torch.equal(model.predict(given), plain)


def test_a_wrapper_that_is_there_is_called() -> None:
    """Another node's function wrapper runs within ours."""
    model = ComfyModel(model_of("sd15"), "sd15")
    calls = []
    model.set_model_unet_function_wrapper(
        lambda apply, args: calls.append(1) or apply(args["input"], args["timestep"], **args["c"])
    )
    nodes = sys.modules["longalign_nodes.soft_tokens"]
    nodes.with_soft_tokens(model, tokens_for(model.module), 0.5).predict(inputs("sd15", t=TIME))
    assert len(calls) == 2


def test_soft_tokens_of_another_model() -> None:
    nodes = sys.modules["longalign_nodes.soft_tokens"]
    tokens = tokens_for(model_of("sd15"))
    for family, title in (("sdxl", "SDXL"), ("flux", "Flux")):
        with pytest.raises(LongalignError, match=f"are for SD 1.x or 2.x, and the model is {title}"):
            nodes.with_soft_tokens(ComfyModel(model_of("sdxl"), family), tokens)
    with pytest.raises(LongalignError, match="between 0 and 1"):
        nodes.with_soft_tokens(ComfyModel(model_of("sd15"), "sd15"), tokens, 1.5)
    wide = longalign.SoftTokens.from_pretrained("stickers/softrepa")
    patched = nodes.with_soft_tokens(ComfyModel(model_of("sd15"), "sd15"), wide)
    with pytest.raises(LongalignError, match="128 wide, and the model reads text of"):
        patched.predict(inputs("sd15", t=TIME))


def test_the_example_workflow_fits_the_nodes() -> None:
    """Each link joins an output and an input of one type, and each of our nodes has a value for each widget."""
    workflow = json.loads((FOLDER / "workflow.json").read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, slot, target, place, kind in workflow["links"]:
        out, into = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in out["links"] and into["link"] == number and kind == out["type"] == into["type"]
    ours = [node for node in nodes.values() if node["type"] in NODES]
    assert {node["type"] for node in ours} == set(NODES)
    for node in ours:
        told = NODES[node["type"]].INPUT_TYPES()
        inputs = {**told["required"], **told.get("optional", {})}
        linked = {i["name"]: i["type"] for i in node["inputs"]}
        assert all(inputs[name][0] == kind for name, kind in linked.items())
        widgets = [key for key, (kind, *_) in inputs.items() if isinstance(kind, tuple) or kind in WIDGETS]
        for key, value in zip(widgets, node["widgets_values"], strict=True):
            kind = inputs[key][0]
            assert value in kind if isinstance(kind, tuple) else isinstance(value, str | int | float)
        assert [o["type"] for o in node["outputs"]] == list(NODES[node["type"]].RETURN_TYPES)
