"""Metrics that ask a vision-language model, and GenEval's rules."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import tiny_model
from tiny_vlm import save_detector, save_llava, save_text_encoder

from longalign.data.vision_language import VisionLanguageModel
from longalign.errors import LongalignError
from longalign.metrics import METRICS, dpg
from longalign.metrics.detector import Detection
from longalign.metrics.dpg import Dpg, DpgOptions, Question, Questions, picture_value, scores_of
from longalign.metrics.geneval import (
    COLOURS,
    TAGS,
    Geneval,
    GenevalOptions,
    class_name,
    faults,
    relations,
    things,
)
from longalign.metrics.metric import SENTENCES, Metric, PictureBatch, Tools
from longalign.metrics.prompt_bootstrap import PromptBootstrap
from longalign.metrics.text_embedder import TextEmbedder
from longalign.metrics.tit import Tit, TitOptions
from longalign.metrics.vlm import filled
from longalign.metrics.vqascore import VqaScore, VqaScoreOptions

PICTURES = [
    Image.new("RGB", (20, 16), "red"),
    Image.new("RGB", (16, 16), "blue"),
    Image.new("RGB", (16, 24), "green"),
]
QUESTIONS = [
    "Does this figure show a fox ?",
    "fox",
    "Is there a red disc or a blue dog ? Please answer yes or no .",
]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def vlm(llava: Path) -> VisionLanguageModel:
    return VisionLanguageModel.from_pretrained(str(llava), device="cpu")


def batch(prompts: Sequence[str], tools: Tools | None = None, records: Any = None) -> PictureBatch:
    return PictureBatch(PICTURES[: len(prompts)], prompts, tools or Tools(device="cpu"), records)


# Vision-language models


def test_probabilities_are_those_of_single_questions(vlm: VisionLanguageModel) -> None:
    """A batch of padded questions, against one plain forward pass a question without padding: within 1e-5."""
    found = vlm.probabilities(PICTURES, QUESTIONS, ("Yes", "No"), batch_size=2)
    assert vlm.probability_of(PICTURES, QUESTIONS, batch_size=3) == pytest.approx(
        found[:, 0].tolist(), abs=1e-6
    )
    yes, no = (vlm.processor.tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No"))
    for picture, question, mine in zip(PICTURES, QUESTIONS, found, strict=True):
        text = f"USER: <image> {question} ASSISTANT:"
        inputs = vlm.processor(text=[text], images=[picture], return_tensors="pt")
        with torch.no_grad():
            p = vlm.model(**inputs).logits[0, -1].softmax(-1)
        assert torch.allclose(mine, p[[yes, no]], rtol=1e-5, atol=1e-6)
    assert found.std(0).min() > 1e-3, "the questions differ"


def test_descriptions_are_what_the_model_writes(vlm: VisionLanguageModel) -> None:
    """Greedy, of a padded batch, and token by token without padding."""
    found = vlm.describe(PICTURES[:2], "Please show a fox", max_new_tokens=4)
    for picture, mine in zip(PICTURES[:2], found, strict=True):
        ids = vlm.processor(
            text=["USER: <image> Please show a fox ASSISTANT:"], images=[picture], return_tensors="pt"
        )
        new: list[int] = []
        for _ in range(4):
            text = torch.cat([ids["input_ids"], torch.tensor([new], dtype=torch.long)], 1)
            with torch.no_grad():
                logits = vlm.model(input_ids=text, pixel_values=ids["pixel_values"]).logits
            new.append(int(logits[0, -1].argmax()))
            if new[-1] == 3:
                break
        assert mine == vlm.processor.decode(new, skip_special_tokens=True).strip()


def test_a_model_without_a_chat_template(tmp_path: Path) -> None:
    """The text is taken as it stands; the mark of the picture is put before it where the processor does not."""
    plain = VisionLanguageModel.from_pretrained(str(save_llava(tmp_path, chat=False)), device="cpu")
    assert not plain.has_chat_template
    assert plain.probability_of(PICTURES[:1], ["fox"]) == plain.probability_of(PICTURES[:1], ["<image>\nfox"])


def test_what_a_vision_language_model_refuses(vlm: VisionLanguageModel, tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="no token for the answer 'Perhaps'"):
        vlm.probability_of(PICTURES[:1], ["fox"], "Perhaps")
    with pytest.raises(LongalignError, match="no token for the answer ''"):
        vlm.first_token("")
    with pytest.raises(LongalignError, match="cannot be loaded to read pictures"):
        VisionLanguageModel.from_pretrained(str(save_text_encoder(tmp_path)))
    # A prompt that holds the mark of a picture does not break the count of pictures.
    assert vlm.probability_of(PICTURES[:1], ["a <image> fox"]) == vlm.probability_of(PICTURES[:1], ["a  fox"])


@pytest.mark.parametrize(
    ("name", "told"),
    [("vqascore", "vision-language model"), ("tit", "text encoder"), ("geneval", "object detector")],
)
def test_no_model_is_downloaded_unasked(name: str, told: str) -> None:
    with pytest.raises(LongalignError, match=rf"{name}: no {told} is given: --set {name}\.\w+=NAME"):
        METRICS[name](Tools(device="cpu"))


def test_templates_leave_braces_of_prompts_alone() -> None:
    assert filled("{a} and {b} in {c}", "m", a="{b}", b="x") == "{b} and x in {c}"
    with pytest.raises(LongalignError, match=r"has no place \{text\}"):
        filled("Is it so?", "m", text="")


# VQAScore


def test_vqascore_of_prompts_and_sentences(llava: Path, vlm: VisionLanguageModel) -> None:
    tools = Tools(device="cpu")
    metric = VqaScore(tools, VqaScoreOptions(model=str(llava)))
    prompts = ["There is a fox. The disc is red.", "A blue dog."]
    values = metric.measure(batch(prompts, tools))
    ask = 'Does this figure show "{}"? Please answer yes or no.'
    texts = [prompts[0], "There is a fox.", "The disc is red.", prompts[1]]
    pictures = [PICTURES[0]] * 3 + [PICTURES[1]]
    by_hand = vlm.probability_of(pictures, [ask.format(text) for text in texts], batch_size=1)
    assert values[0]["vqascore"] == pytest.approx(by_hand[0], rel=1e-4)
    assert values[0][SENTENCES] == pytest.approx(by_hand[1:3], rel=1e-4)
    assert values[1]["vqascore"] == pytest.approx(by_hand[3], rel=1e-4)
    assert values[1][SENTENCES] == [values[1]["vqascore"]], "a single sentence is the prompt"
    assert (
        "template 'Does this figure" in metric.what
        and str(llava) in metric.what
        and "P('Yes')" in metric.what
    )
    again = VqaScore(tools, VqaScoreOptions(model=str(llava), sentences=False))
    assert again.vlm is metric.vlm, "the same model of the same evaluation is loaded once"
    assert SENTENCES not in again.measure(batch(prompts, tools))[0]
    assert VqaScore(Tools(device="cpu"), VqaScoreOptions(model=str(llava))).vlm is not metric.vlm
    with pytest.raises(LongalignError, match=r"no place \{text\}"):
        VqaScore(tools, VqaScoreOptions(model=str(llava), template="Is it?"))


# TIT-Score


def test_tit_compares_description_and_prompt(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = Tools(device="cpu")
    encoder = str(save_text_encoder(tmp_path))
    metric = Tit(tools, TitOptions(model=str(llava), embedder=encoder, max_new_tokens=3))
    prompts = ["There is a red fox", "a dog", "the disc"]
    monkeypatch.setattr(metric.vlm, "describe", lambda images, *_: ["a dog", "a dog", ""][: len(images)])
    values = metric.measure(batch(prompts, tools))
    a, b = TextEmbedder.from_pretrained(encoder, device="cpu")(["There is a red fox", "a dog"])
    assert values[0]["tit"] == pytest.approx(float(a @ b), abs=1e-5)
    assert values[1]["tit"] == pytest.approx(1, abs=1e-5), "the same text twice"
    assert math.isnan(values[2]["tit"]), "nothing was written"
    assert (values[0]["description"], values[0]["prompt"]) == ("a dog", prompts[0])
    assert "mean pooling" in metric.what and metric.reads == "the first 64 tokens"
    assert metric.share_read(["a fox " * 64]) == "50.0% of the tokens"


@pytest.mark.parametrize(
    ("stated", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode_max_tokens": True}, "max"),
    ],
)
def test_pooling_is_what_the_folder_states(tmp_path: Path, stated: dict[str, object], pooling: str) -> None:
    """Of texts of different lengths, against the states of each text alone."""
    embedder = TextEmbedder.from_pretrained(str(save_text_encoder(tmp_path, stated)), device="cpu")
    assert (embedder.pooling, embedder.window_tokens) == (pooling, 6)
    texts = ["a fox", "there is a red fox or a blue dog", "disc"]
    take: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "mean": lambda h: h.mean(0), "cls": lambda h: h[0], "lasttoken": lambda h: h[-1], "max": lambda h: h.amax(0)
    }  # fmt: skip
    for mine, text in zip(embedder(texts), texts, strict=True):
        ids = embedder.tokenizer(text, return_tensors="pt").input_ids[:, :6]
        with torch.no_grad():
            h = take[pooling](embedder.model(ids).last_hidden_state[0])
        assert torch.allclose(mine, h / h.norm(), atol=1e-5)


def test_text_encoders_that_are_unknown_here(tmp_path: Path) -> None:
    weighted = {"pooling_mode_weightedmean_tokens": True}
    for name, stated, module, told in (
        ("a", weighted, "Normalize", "pooled by pooling_mode_weightedmean_tokens"),
        ("b", {"pooling_mode": "mean"}, "Dense", "module 'Dense'"),
    ):
        with pytest.raises(LongalignError, match=told):
            TextEmbedder.from_pretrained(str(save_text_encoder(tmp_path / name, stated, module)))
    with pytest.raises(LongalignError, match="one of mean, cls"):
        TextEmbedder.from_pretrained(str(save_text_encoder(tmp_path / "c")), pooling="sum")


# DPG-Bench

TREE = [
    Question(1, (), "entity - whole", "Is there a fox?"),
    Question(2, (1,), "attribute - color", "Is the fox red?"),
    Question(4, (3,), "relation - spatial", "Is the disc under the fox?"),
    Question(3, (2,), "attribute - state", "Does the fox sit?"),
    Question(5, (), "global", "Is it a photo?"),
]


def test_a_tree_under_both_rules() -> None:
    """Answers: 1 yes, 2 no, 4 yes, 3 yes, 5 yes.

    2 is no, so 3 below it scores 0, and 4 below 3, too: 1 and 5 are left, 2/5. The published scorer meets 4 before 3 is
    zeroed, so 4 keeps its 1: 3/5.
    """
    answers = [True, False, True, True, True]
    assert scores_of(TREE, answers) == [1, 0, 0, 0, 1]
    assert scores_of(TREE, answers, "official") == [1, 0, 1, 0, 1]


def test_pictures_of_a_grid_and_categories() -> None:
    """Two pictures: the one above (2/5), and one with all right (5/5): mean 0.7; official (3/5 + 5/5)/2 = 0.8.

    Attributes: of the first none, of the second both of two: 2/4. Official: the last picture alone, as answered. In the
    other order the last one answers "no, yes" to its attributes, of which the second is not zeroed: 1/2.
    """
    worse, best = [True, False, True, True, True], [True] * 5
    value = picture_value(TREE, [worse, best])
    assert value["dpg"] == pytest.approx(70)
    assert (value["dpg_attribute_right"], value["dpg_attribute_asked"]) == (2, 4)
    assert value["categories"]["attribute - color"] == [1, 2] and value["dpg_other_asked"] == 0
    official = picture_value(TREE, [best, worse], "official")
    assert official["dpg"] == pytest.approx(80)
    assert (official["dpg_attribute_right"], official["dpg_attribute_asked"]) == (1, 2)


def table(path: Path, rows: Sequence[Sequence[object]]) -> str:
    head = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*head.split(","), "question_natural_language"])
        for item, text, number, parents, category, question in rows:
            writer.writerow([item, text, "", number, parents, "", "", f"{category} (x)", question])
    return str(path)


ROWS = [
    ("a", "There is a fox.", 1, "0", "entity - whole", "Is there a fox ?"),
    ("a", "There is a fox.", 2, "1", "attribute - color", "red ?"),
    ("b", "A dog.", 1, "0", "entity - whole", "Is there a dog ?"),
    ("b", "A dog.", 2, "1, 3", "attribute - color", "blue ?"),
    ("b", "A dog.", 3, "0", "other - count", "disc ?"),
]


class Answers:
    """Answers "yes" to questions that hold one of these words, and counts."""

    def __init__(self, yes: str) -> None:
        self.yes, self.asked = yes.split(), 0

    def __call__(self, images: Sequence[Image.Image], questions: Sequence[str], *_: Any) -> torch.Tensor:
        self.asked += len(questions)
        yes = [any(word in question for word in self.yes) for question in questions]
        return torch.tensor([[0.6, 0.4] if y else [0.4, 0.6] for y in yes]).reshape(-1, 2)


def test_dpg_of_pictures(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fox, blue and disc are "yes". a: 1/2. b: the dog is missing, so blue counts nothing: 1/3. Mean 41.67.

    Entities: 1 of 2. Official: the first row is skipped, so a's second question has no parent, and a is dropped.
    """
    tools = Tools(device="cpu")
    file = table(tmp_path / "q.csv", ROWS)
    metric = Dpg(tools, DpgOptions(model=str(llava), questions=file))
    monkeypatch.setattr(metric.vlm, "probabilities", Answers("fox blue disc"))
    two = batch(["There is a fox.", "Another text"], tools, [{}, {"item_id": "b"}])
    values = metric.measure(two)
    assert [v["dpg"] for v in values] == pytest.approx([50, 100 / 3])
    assert values[1]["answers"] == [[False, True, True]]
    numbers = {k: np.array([float(v[k]) for v in values]) for k in values[0] if k.startswith("dpg")}
    cells = metric.cells(numbers, PromptBootstrap(["a", "b"], 50))
    assert cells["dpg"].value == pytest.approx(125 / 3)
    assert (cells["dpg_entity"].value, cells["dpg_attribute"].value) == (50, 0)
    assert math.isnan(cells["dpg_relation"].value)
    official = Dpg(tools, DpgOptions(model=str(llava), questions=file, rules="official", pictures=4))
    values = official.measure(two)
    assert math.isnan(values[0]["dpg"]) and "question 1 is missing" in values[0]["reason"]
    assert values[1]["dpg"] == pytest.approx(100 / 3) and len(values[1]["answers"]) == 4
    assert "official rules" in official.what
    quarters = dpg.grid_of(Image.effect_noise((8, 6), 50), 4)
    assert [q.size for q in quarters] == [(4, 3)] * 4
    with pytest.raises(LongalignError, match="no questions for the prompt 'What'"):
        metric.measure(batch(["What"], tools))


def test_dpg_asks_the_model(llava: Path, tmp_path: Path, vlm: VisionLanguageModel) -> None:
    tools = Tools(device="cpu")
    metric = Dpg(tools, DpgOptions(model=str(llava), questions=table(tmp_path / "q.csv", ROWS[:2])))
    found = metric.measure(batch(["There is a fox."], tools))[0]["answers"][0]
    asked = [f"{q} Please answer yes or no." for q in ("Is there a fox ?", "red ?")]
    p = vlm.probabilities([PICTURES[0]] * 2, asked, ("Yes", "No"))
    assert found == (p[:, 0] > p[:, 1]).tolist()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("a", "t", 1, "9", "entity", "q")], "question 1 depends on 9, which the item does not have"),
        ([("a", "t", 1, "2", "e", "q"), ("a", "t", 2, "1", "e", "q")], "depends on itself"),
        ([("a", "t", "one", "0", "e", "q")], "row 2: proposition_id 'one'"),
    ],
)
def test_tables_that_are_damaged(tmp_path: Path, rows: Any, told: str) -> None:
    with pytest.raises(LongalignError, match=told):
        Questions(table(tmp_path / "q.csv", rows))


def test_dpg_options_that_are_wrong(tmp_path: Path) -> None:
    file = table(tmp_path / "q.csv", ROWS)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for options, told in (
        (DpgOptions(), "no questions are given"),
        (DpgOptions(questions=str(tmp_path / "none.csv")), "cannot be read"),
        (DpgOptions(questions=str(tmp_path / "other.csv")), "has no column item_id"),
        (DpgOptions(questions=file, rules="mine"), "one of fixed, official"),
        (DpgOptions(questions=file, pictures=3), "choose 1 or 4"),
        (DpgOptions(questions=file), "no vision-language model is given"),
    ):
        with pytest.raises(LongalignError, match=told):
            Dpg(Tools(device="cpu"), options)


# GenEval


def dog(
    score: float = 0.95, box: tuple[float, float, float, float] = (0, 0, 10, 10), name: str = "dog"
) -> Detection:
    return Detection(name, score, box)


def wrong(record: dict[str, Any], *found: Detection, colour: str = "red") -> list[str]:
    threshold = 0.9 if record.get("tag") == "counting" else 0.3
    return faults(record, things(found, threshold), lambda mine, _: [colour] * len(mine))


def test_things_that_must_be_there() -> None:
    """Above 0.3, or above 0.9 where a prompt counts; not at it."""
    two = {"tag": "two_object", "include": [{"class": "dog", "count": 1}, {"class": "couch", "count": 1}]}
    assert wrong(two, dog(0.31), dog(0.5, name="sofa")) == []
    assert wrong(two, dog(0.3), dog(0.5, name="sofa")) == ["expected 1 dog, found 0"]
    counting = {
        "tag": "counting",
        "include": [{"class": "dog", "count": 2}],
        "exclude": [{"class": "dog", "count": 3}],
    }
    assert wrong(counting, dog(), dog(0.91)) == []
    assert wrong(counting, dog(), dog(0.9)) == ["expected 2 dog, found 1"]
    assert wrong(counting, dog(), dog(), dog()) == ["expected fewer than 3 dog, found 3"]
    assert len(things([dog()] * 20, 0.3)["dog"]) == 16, "at most sixteen of a class"


def test_colours_of_the_surest_things() -> None:
    record = {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}]}
    assert wrong(record, dog()) == []
    assert wrong(record, dog(), colour="blue") == ["expected 1 red dog, found blue"]
    seen: list[Sequence[Detection]] = []
    sure, unsure = dog(0.9), dog(0.5)
    faults(record, things([unsure, sure], 0.3), lambda mine, _: [*map(str, seen.append(mine) or ["red"])])  # type: ignore[func-returns-value]
    assert seen == [[sure]], "as many as are wanted, the surest"


def test_relations_of_boxes() -> None:
    """Boxes of 10 × 10: centres count from a distance of 0.1·(10 + 10) = 2 on.

    At (3, 0) the clear distance is 1 of 3, 0.33 < 0.5: no relation. At (5, 0) it is 3 of 5: right of. At (20, 20) both
    are 18 of 28.3 = 0.64: right of and below. At (20, 12): 18/23.3 = 0.77 and 10/23.3 = 0.43: right of.
    """
    origin = (0.0, 0.0, 10.0, 10.0)

    def at(x: float, y: float) -> set[str]:
        return relations((x, y, x + 10, y + 10), origin)

    assert at(2, 0) == at(0, 0) == at(3, 0) == set()
    assert at(5, 0) == at(20, 12) == {"right of"} and at(-5, 0) == {"left of"}
    assert at(20, 20) == {"right of", "below"} and at(0, -9) == {"above"}


def test_places_refer_to_an_earlier_thing() -> None:
    record = {
        "tag": "position",
        "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
    }
    cat = dog(0.8, (50, 0, 60, 10), "cat")
    assert wrong(record, cat, dog()) == []
    assert wrong(record, dog(0.8, (50, 0, 60, 10)), dog(0.9, (0, 0, 10, 10), "cat")) == [
        "expected dog left of cat"
    ]
    assert wrong(record, dog()) == ["expected 1 cat, found 0", "nothing that dog could be left of"]
    with pytest.raises(LongalignError, match="is no record of GenEval"):
        wrong(
            {"tag": "position", "include": [{"class": "dog", "count": 1, "position": ["left of", 3]}]}, dog()
        )


def geneval(tmp_path: Path, names: tuple[str, ...] = ("bench", "mouse")) -> Geneval:
    tools = Tools(device="cpu")
    tools.add_preference("a clip", tiny_model())
    return Geneval(
        tools, GenevalOptions(model=str(save_detector(tmp_path, names)), clip="a clip", threshold=0.2)
    )


def test_geneval_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny detector finds something of its own everywhere; then detections are put in.

    One of two single objects is right. The third picture is asked for one mouse and not two; its second one scores 0.5,
    which is not there where a prompt counts. So tasks have 0.5 and 1, mean 0.75.
    """
    metric = geneval(tmp_path)
    found = metric.detector(PICTURES[:2], 0.0)
    assert len(found[0]) == 5 and {d.name for d in found[0]} <= {"bench", "mouse"}
    assert all(0 <= d.score <= 1 and -20 <= d.box[0] <= 40 for of in found for d in of)

    class Puts:
        names = metric.detector.names

        def __call__(self, images: Sequence[Image.Image], threshold: float) -> list[list[Detection]]:
            of = {
                "red": [dog(name="mouse")],
                "blue": [dog(0.5, name="bench")],
                "green": [dog(name="mouse"), dog(0.5, name="mouse")],
            }
            return [of[next(k for k, v in zip(of, PICTURES, strict=True) if v is image)] for image in images]

    monkeypatch.setattr(metric, "detector", Puts())
    mouse = {"class": "computer mouse", "count": 1}
    records = [
        {"tag": "single_object", "include": [mouse]},
        {"tag": "single_object", "include": [mouse]},
        {"tag": "counting", "include": [mouse], "exclude": [{**mouse, "count": 2}]},
    ]
    values = metric.measure(batch(["m", "n", "o"], metric.tools, records))
    assert [v["geneval"] for v in values] == [1, 0, 1]
    assert values[1]["faults"] == ["expected 1 computer mouse, found 0"]
    keys = [c.key for c in Geneval.columns]
    numbers = {k: np.array([v.get(k, np.nan) for v in values]) for k in keys if any(k in v for v in values)}
    cells = metric.cells(numbers, PromptBootstrap(["m", "n", "o"], 50))
    assert cells["geneval"].value == pytest.approx(0.75) and cells["geneval_single_object"].value == 0.5
    assert math.isnan(cells["geneval_colors"].value)


def test_colours_are_classified_by_the_clip(tmp_path: Path) -> None:
    """Against the formula: unit mean over three wordings, largest cosine with the crop."""
    metric = geneval(tmp_path)
    model = metric.memory.model
    box = (2.0, 3.0, 14.0, 12.0)
    picture = Image.effect_noise((20, 16), 90).convert("RGB")
    found = metric._colours_in(picture)([Detection("bench", 1, box)], "bench")
    with torch.no_grad():
        image = model.image_prepared(model.preprocess.picture(picture.crop((2, 3, 14, 12))))[0]
        means = []
        for c in COLOURS:
            texts = [f"a photo of a {c} bench", f"a photo of a {c}-colored bench", f"a photo of a {c} object"]
            mean = model.text(texts, truncate=True).mean(0)
            means.append(mean / mean.norm())
    assert found == [COLOURS[int((torch.stack(means) @ image).argmax())]]
    assert len(metric._colours_in(picture)([Detection("bench", 1, (19.9, 15.9, 30.0, 40.0))], "bench")) == 1


def test_prompts_that_geneval_cannot_judge(tmp_path: Path) -> None:
    metric = geneval(tmp_path)
    with pytest.raises(LongalignError, match="has no record of GenEval"):
        metric.measure(batch(["a fox"], metric.tools))
    record = {"tag": "single_object", "include": [{"class": "toaster", "count": 1}]}
    with pytest.raises(LongalignError, match="does not know 'toaster'"):
        metric.measure(batch(["a toaster"], metric.tools, [record]))


COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,"
    "snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,"
    "fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)


def test_the_published_prompts_have_classes_of_coco() -> None:
    """Every class of GenEval's own file is one of COCO's, under the name that detectors have for it."""
    file = Path(__file__).resolve().parents[3] / "shared" / "data" / "geneval" / "evaluation_metadata.jsonl"
    if not file.is_file():
        pytest.skip("GenEval's prompts are not at hand")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["tag"] for row in rows} == set(TAGS)
    assert {w["class"] for row in rows for w in row["include"]} == {
        class_name(label) for label in COCO.split(",")
    }
    assert all(faults(row, {}, lambda mine, _: []) for row in rows), "no thing is there"


def test_new_metrics_are_in_the_table() -> None:
    for name in ("vqascore", "tit", "dpg", "geneval"):
        assert issubclass(METRICS[name], Metric) and METRICS[name].name == name
