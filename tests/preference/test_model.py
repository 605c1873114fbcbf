"""`PreferenceModel`: embeddings, and the scores of images against texts of any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import IMAGE_PX, WIDTH, tiny_clip, tiny_model, tokenizer
from torch.nn.functional import normalize
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from longalign.data.entries import Failure
from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.preference import PreferenceModel, Preprocess, Scores, segment_mean, to_pixels
from longalign.preference.decomposition import Decomposition, fit_prompts
from longalign.scoring.data import Pair
from longalign.scoring.stream import score_pairs
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import render, scene

SCENES = [scene(i, objects=(1 + i % 9, 1 + i % 9)) for i in range(9)]
PROMPTS = [text_of(caption(s, i)) for i, s in enumerate(SCENES)]
IMAGES = [render(s) for s in SCENES]
LONG = " ".join(PROMPTS[-2:])


@pytest.fixture(scope="module")
def model() -> PreferenceModel:
    return tiny_model()


def noise(n: int, height: int = 40, width: int = 50) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def published(model: PreferenceModel, image: Image.Image, text: str) -> float:
    """The score of one pair as model cards compute it: everything padded to 77 tokens, no batches."""
    ids = model.tokenizer(text, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    pixels = model.preprocess.picture(image)
    with torch.no_grad():
        output = model.clip(**ids, pixel_values=pixels)
    a, b = normalize(output.image_embeds, dim=-1), normalize(output.text_embeds, dim=-1)
    return 100 * (a @ b.T).item()


@torch.no_grad()
def test_embeddings_are_unit_and_those_of_the_model(model: PreferenceModel) -> None:
    """Batched by length and without pads they are still those of padding to 77 with a mask, one by one."""
    texts = ["A fox is in the centre.", "", PROMPTS[1], "A fox is in the centre."]
    found = model.text(texts)
    assert found.shape == (4, WIDTH)
    assert torch.allclose(found.norm(dim=-1), torch.ones(4)) and torch.equal(found[0], found[3])
    for text, row in zip(texts, found, strict=True):
        ids = model.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt")
        alone = normalize(model.clip.get_text_features(**ids).pooler_output, dim=-1)[0]
        assert torch.allclose(row, alone, atol=1e-6)
    assert (found[0] - found[1]).norm() > 0.1  # so texts do differ
    assert torch.allclose(model.image(noise(3)).norm(dim=-1), torch.ones(3))


def test_every_distinct_text_is_encoded_once(model: PreferenceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    real = model.clip.get_text_features
    monkeypatch.setattr(
        model.clip,
        "get_text_features",
        lambda input_ids: rows.append(len(input_ids)) or real(input_ids=input_ids),
    )
    model.score([IMAGES[0], IMAGES[1], IMAGES[2]], [LONG, LONG, PROMPTS[0]])
    pieces = {s.text for p in (LONG, PROMPTS[0]) for s in model.segments(p)}
    # and the first 77 tokens of each distinct prompt, unless they are a segment already
    assert sum(rows) == len(pieces | {LONG, PROMPTS[0]})


def test_too_long_a_text_is_never_cut_silently(
    model: PreferenceModel, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(LongalignError, match=r"tokens is too long for a window of 77: '[A-Z]"):
        model.text(["A fox.", LONG])
    first = model.text([LONG], truncate=True)
    ids = model.tokenizer(LONG, truncation=True, max_length=77, return_tensors="pt")["input_ids"]
    alone = normalize(model.clip.get_text_features(input_ids=ids).pooler_output, dim=-1)
    assert torch.allclose(first, alone, atol=1e-6)
    model.text_mean([LONG])
    model.score([IMAGES[0]], [LONG])
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_another_segmenters_long_segments_are_not_cut_either() -> None:
    """The rule of the published weights cuts at full stops alone, however long that makes a piece."""
    model = tiny_model()
    model.segmenter = Segmenter("released")
    assert [s.text for s in model.score([IMAGES[0]], ["A fox? A cat"]).segments[0]] == ["A fox.", " A cat."]
    with pytest.raises(LongalignError, match="too long for a window of 77"):
        model.score([IMAGES[0]], ["a fox, " * 40])


@torch.no_grad()
def test_segment_mean_by_hand(model: PreferenceModel) -> None:
    """Two texts of 2 and 1 segments: ((1, 0) + (0, 1)) / 2 = (½, ½), which is shorter than 1, and (0, 1)."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert segment_mean(rows, [2, 1]).tolist() == [[0.5, 0.5], [0.0, 1.0]]
    of_long = model.text([s.text for s in model.segments(LONG)]).mean(0)
    assert torch.allclose(model.text_mean(["A fox.", LONG])[1], of_long, atol=1e-6)
    assert model.text_mean([]).shape == model.text([]).shape == (0, WIDTH)


def test_scores_are_those_of_a_loop_over_pairs(model: PreferenceModel) -> None:
    """`single` is the published score of the pair; `overall` the mean of the published scores of its sentences."""
    found = model.score(IMAGES, PROMPTS, batch_size=4)
    assert len(found) == 9 and found.aligned is found.aligned_cosine is found.irrelevant is found.eta is None
    for i, (image, prompt) in enumerate(zip(IMAGES, PROMPTS, strict=True)):
        assert found.single[i].item() == pytest.approx(published(model, image, prompt), abs=1e-4)
        pieces = [segment.text for segment in model.segments(prompt)]
        assert [segment.text for segment in found.segments[i]] == pieces
        alone = [published(model, image, piece) for piece in pieces]
        assert [segment.score for segment in found.segments[i]] == pytest.approx(alone, abs=1e-4)
        assert found.overall[i].item() == pytest.approx(np.mean(alone), abs=1e-4)
        assert found.worst()[i].text == pieces[int(np.argmin(alone))]


def test_the_decomposition_takes_the_score_apart(model: PreferenceModel) -> None:
    """overall = aligned + η·irrelevant; aligned = cosine·|c⊥|; segments' aligned scores average to the whole's."""
    v = fit_prompts(model, PROMPTS)
    found = model.score(IMAGES, PROMPTS, decomposition=v)
    assert found.aligned is not None and found.aligned_cosine is not None
    assert found.irrelevant is not None and found.eta is not None
    assert torch.allclose(found.aligned + found.eta * found.irrelevant, found.overall, atol=1e-4)
    with torch.no_grad():
        c, x = (
            model.text_mean(PROMPTS),
            model.image_prepared(torch.cat([model.preprocess.picture(i) for i in IMAGES])),
        )
    c_perp, eta = v.split(c)
    assert torch.allclose(found.eta, eta, atol=1e-6)
    assert torch.allclose(found.aligned_cosine * c_perp.norm(dim=-1), found.aligned, atol=1e-4)
    assert torch.allclose(found.aligned, 100 * (x * c_perp).sum(-1), atol=1e-4)
    assert torch.allclose(found.irrelevant, 100 * x @ v.V.float(), atol=1e-4)
    by_segment = [np.mean([segment.aligned for segment in of_image]) for of_image in found.segments]
    assert by_segment == pytest.approx(found.aligned.tolist(), abs=1e-4)
    assert [s.best for s in found.worst()] == [
        min(s.aligned for s in of_image) for of_image in found.segments
    ]


def test_the_models_own_decomposition_is_the_default() -> None:
    v = Decomposition.fit(torch.eye(WIDTH)[:3])
    model = PreferenceModel(tiny_clip(), tokenizer(), Preprocess(IMAGE_PX), v)
    ours, given = model.score(IMAGES[:2], PROMPTS[:2]), tiny_model().score(
        IMAGES[:2], PROMPTS[:2], decomposition=v
    )  # fmt: skip
    assert ours.rows() == given.rows() and "aligned_cosine" in ours.rows()[0]


def test_neither_batch_nor_neighbours_change_a_score(model: PreferenceModel) -> None:
    """One image a batch or all; a tensor or pictures or files, of several sizes."""
    together = model.score(IMAGES, PROMPTS)
    for batch_size in (1, 4):
        apart = model.score(IMAGES, PROMPTS, batch_size=batch_size)
        assert torch.allclose(apart.overall, together.overall, atol=1e-4)
    stacked = torch.stack([_pixels(image.resize((IMAGE_PX, IMAGE_PX))) for image in IMAGES])
    small = model.score([image.resize((IMAGE_PX, IMAGE_PX)) for image in IMAGES], PROMPTS)
    assert torch.allclose(model.score(stacked, PROMPTS).overall, small.overall, atol=1e-4)
    other_size = model.score([IMAGES[0], IMAGES[1].resize((64, 50))], PROMPTS[:2])
    assert torch.allclose(other_size.overall[0], together.overall[0], atol=1e-4)
    assert len(model.score([], [])) == 0 and model.score([], []).rows() == []


def test_files_and_an_empty_prompt(model: PreferenceModel, tmp_path: Path) -> None:
    """A prompt without text is one empty segment."""
    IMAGES[0].save(tmp_path / "a.png")
    found = model.score([tmp_path / "a.png", str(tmp_path / "a.png")], ["", PROMPTS[0]])
    assert [segment.text for segment in found.segments[0]] == [""]
    assert torch.allclose(found.overall[1:], model.score([IMAGES[0]], [PROMPTS[0]]).overall, atol=1e-4)
    (tmp_path / "broken.png").write_text("")
    with pytest.raises(LongalignError, match=r"broken\.png"):
        model.score([tmp_path / "broken.png"], ["x"])


@pytest.mark.parametrize("kind", ["picture", "file", "path", "tensor"])
def test_one_image_and_one_text_are_one_score(model: PreferenceModel, tmp_path: Path, kind: str) -> None:
    """And of several images one text is the text of each: it is not read letter by letter."""
    file = tmp_path / "a.png"
    IMAGES[0].save(file)
    image = {"picture": IMAGES[0], "file": str(file), "path": file, "tensor": to_pixels(IMAGES[0])}[kind]
    wanted = model.score(image[None] if kind == "tensor" else [IMAGES[0]], [PROMPTS[0]])
    found = model.score(image, PROMPTS[0])
    assert len(found) == 1 and torch.allclose(found.overall, wanted.overall, atol=1e-4)
    three = model.score([IMAGES[0]] * 3, "abc")
    assert [[s.text for s in of_image] for of_image in three.segments] == [["abc"]] * 3
    one = model.text("A fox.")
    assert one.shape == (1, WIDTH) and torch.equal(one, model.text(["A fox."]))
    assert torch.equal(model.text_mean("A fox. A dog."), model.text_mean(["A fox. A dog."]))


@pytest.mark.parametrize("size", [(640, 480), (301, 517), (32, 32), (20, 33), (9, 14), (2000, 300)])
def test_scores_of_pictures_are_those_of_the_published_processor(
    model: PreferenceModel, tmp_path: Path, size: tuple[int, int]
) -> None:
    """transformers' own processor, which rounds to 8 bits: cosines equal within 1e-5, down- and upscaled.

    Without the rounding, as for gradients, the input is another one.
    """
    rng = np.random.default_rng(sum(size))
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    theirs = CLIPImageProcessorPil(**model.preprocess.to_config())(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        seen = normalize(model.clip.get_image_features(pixel_values=theirs).pooler_output, dim=-1)
        wanted = 100 * float(seen[0] @ model.text([PROMPTS[0]], truncate=True)[0])
    for found in (model.score(image, PROMPTS[0]), model.score(tmp_path / "a.png", PROMPTS[0])):
        assert float(found.single[0]) == pytest.approx(wanted, abs=1e-3)  # scores are × 100
    [pair] = score_pairs(model, [Pair(image, PROMPTS[0], "a")])
    assert not isinstance(pair, Failure) and pair.scores["single"] == pytest.approx(wanted, abs=1e-3)
    ours = model.preprocess.picture(image)
    assert float((ours - theirs).abs().max()) < 1e-5
    if min(size) != IMAGE_PX:
        assert float((model.preprocess(to_pixels(image)[None]) - theirs).abs().max()) > 1e-3


def test_rows_are_plain(model: PreferenceModel) -> None:
    row = model.score([IMAGES[0]], ["A fox is in the centre. A cat is in the top left."]).rows()[0]
    assert set(row) == {"overall", "single", "segments"} and isinstance(row["overall"], float)
    assert [set(segment) for segment in row["segments"]] == [{"text", "score"}] * 2


def test_the_gradient_reaches_the_pixels(model: PreferenceModel) -> None:
    """Through preprocessing and model, against finite differences in float64."""
    double = PreferenceModel(tiny_clip().double().requires_grad_(False), tokenizer(), Preprocess(IMAGE_PX))
    text = double.text(["A fox is in the centre."])[0]
    x = (0.3 + 0.4 * noise(1, 36, 36)).double().requires_grad_()
    score = double.image(x)[0] @ text
    assert score.dtype == torch.float64
    gradient = torch.autograd.grad(score, x)[0]
    step = 1e-5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    change = (double.image(x + step)[0] - double.image(x - step)[0]) @ text / 2
    assert change.item() == pytest.approx((gradient * step).sum().item(), rel=1e-4) and gradient.norm() > 0


def test_training_reaches_the_weights_of_both_towers() -> None:
    """`image` and `text` leave gradients on, for those who train."""
    model = tiny_model()
    (model.image(noise(2)) * model.text(["A fox.", "A cat."])).sum().backward()
    assert model.clip.text_projection.weight.grad is not None
    assert model.clip.visual_projection.weight.grad is not None
    assert not model.score([IMAGES[0]], ["A fox."]).overall.requires_grad


def test_half_precision_still_gives_unit_vectors() -> None:
    model = PreferenceModel(tiny_clip().to(torch.bfloat16), tokenizer(), Preprocess(IMAGE_PX))
    for embedded in (model.image(noise(2)), model.text(["A fox."])):
        assert embedded.dtype == torch.float32
        assert torch.allclose(embedded.norm(dim=-1), torch.ones(len(embedded)), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "prompts", "why"),
    [
        (noise(2), ["one"], "2 images but 1 prompt: give as many of both, or one text for all images"),
        (255 * noise(1), ["x"], "from 0 to 1, these are from"),
        (float("nan") * noise(1), ["x"], "from 0 to 1"),
        (noise(1)[:, :1], ["x"], r"must be \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["x"], "divide bytes by 255"),
        ([Image.new("RGB", (0, 3))], ["x"], "0 × 3 pixels"),
    ],
)
def test_input_that_is_refused(
    model: PreferenceModel, images: torch.Tensor, prompts: list[str], why: str
) -> None:
    with pytest.raises(LongalignError, match=why):
        model.score(images, prompts)


def test_parts_that_do_not_belong_together() -> None:
    with pytest.raises(LongalignError, match="prepared at 16 px, but the model sees 32 px"):
        PreferenceModel(tiny_clip(), tokenizer(), Preprocess(16))
    with pytest.raises(LongalignError, match="pools at token 49407, but its tokenizer ends a text with 720"):
        PreferenceModel(tiny_clip(eos_token_id=49407), tokenizer(), Preprocess(IMAGE_PX))
    with pytest.raises(LongalignError, match="has 721 tokens, but the model knows 100"):
        PreferenceModel(
            tiny_clip(vocab_size=100, eos_token_id=2, bos_token_id=1, pad_token_id=2),
            tokenizer(),
            Preprocess(IMAGE_PX),
        )
    with pytest.raises(LongalignError, match="V has width 3, but the embeddings have width 24"):
        tiny_model().score(IMAGES[:1], PROMPTS[:1], decomposition=Decomposition.fit(torch.eye(3)))


def test_scores_know_how_many_they_are() -> None:
    assert len(Scores(torch.zeros(3), torch.zeros(3), [[], [], []])) == 3


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
