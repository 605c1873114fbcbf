"""Late interaction, calibration and verdicts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import IMAGE_PX, tiny_clip, tokenizer
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.errors import LongalignError
from longalign.preference import Calibration, LateHead, PreferenceModel, Preprocess, ZeroShot
from longalign.preference.calibration import expected_calibration_error
from longalign.preference.late import Tokens, max_sim
from longalign.scoring.data import Pair
from longalign.scoring.stream import Scored, score_pairs

TEXTS = ["A fox is in the middle.", "The background is navy."]


def late_model(
    late: LateHead | ZeroShot | None = None, calibration: Calibration | None = None
) -> PreferenceModel:
    torch.manual_seed(0)
    head = late or LateHead(48, 32, 16)
    return PreferenceModel(tiny_clip(), tokenizer(), Preprocess(IMAGE_PX), None, head, calibration)


def pictures(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, IMAGE_PX, IMAGE_PX, generator=torch.Generator().manual_seed(1))


def test_a_score_by_hand() -> None:
    """Two patches, e₁ and e₂; tokens e₁, −e₁ and e₂, of weights ½, ¼, ¼: ½·1 + ¼·max(−1, 0) + ¼·1 = ¾."""
    patches = torch.eye(2)[None]
    tokens = torch.tensor([[1.0, 0], [-1, 0], [0, 1]])[None, None]
    assert max_sim(patches, Tokens(tokens, torch.tensor([[[0.5, 0.25, 0.25]]]))).item() == 0.75


@pytest.mark.parametrize("kind", [lambda: LateHead(48, 32, 16), ZeroShot])
def test_scores_do_not_depend_on_the_batch(kind: type) -> None:
    """Sentences of other lengths are padded, and padding has no weight."""
    model = late_model(kind())
    x = pictures()
    both = model.score(x, [" ".join(TEXTS), TEXTS[1]])
    alone = model.score(x[:1], [TEXTS[0]])
    assert both.segments[0][0].late == pytest.approx(alone.segments[0][0].late, abs=1e-4)
    tokens = model.tokens(TEXTS)
    assert tokens.weights.sum(-1).tolist() == pytest.approx([1.0, 1.0])
    assert torch.allclose(tokens.embeddings.norm(dim=-1)[tokens.weights > 0], torch.ones(()))
    assert model.patches(x).norm(dim=-1).allclose(torch.ones(2, 16))


def test_zero_shot_is_the_pooled_text_at_its_nearest_patch() -> None:
    model = late_model(ZeroShot())
    x = pictures(1)
    expected = 100 * (model.patches(x)[0] @ model.text(TEXTS[:1])[0]).max()
    assert model.score(x, TEXTS[:1]).segments[0][0].late == pytest.approx(expected.item(), abs=1e-3)


def test_saved_and_loaded_again(tmp_path: Path) -> None:
    model = late_model(calibration=Calibration("late", 2.0, 1.0))
    model.save_pretrained(tmp_path)
    again = PreferenceModel.from_pretrained(tmp_path, device="cpu")
    assert again.calibration == model.calibration
    assert again.score(pictures(), TEXTS).rows() == model.score(pictures(), TEXTS).rows()
    pooled = PreferenceModel.from_pretrained(tmp_path, device="cpu", late="none")
    assert pooled.late is None and pooled.calibration is None
    zero = PreferenceModel.from_pretrained(tmp_path, device="cpu", late="zero-shot")
    assert isinstance(zero.late, ZeroShot) and zero.calibration is None
    (tmp_path / "late_head.safetensors").write_bytes(b"no")
    with pytest.raises(LongalignError, match="late head"):
        PreferenceModel.from_pretrained(tmp_path, device="cpu")


def test_what_does_not_belong_together() -> None:
    with pytest.raises(LongalignError, match="of another model"):
        late_model(LateHead(40, 32, 16))
    with pytest.raises(LongalignError, match="calibration is of the score score"):
        late_model(calibration=Calibration("score", 1.0, 0.0))
    with pytest.raises(LongalignError, match="no late head"):
        PreferenceModel(tiny_clip(), tokenizer(), Preprocess(IMAGE_PX)).tokens(TEXTS)


def test_a_verdict_by_hand() -> None:
    """Offset 1, temperature 2: a score of 1 is P = ½; one of 7 is σ(3) = 0.953 ≥ 1 − 0.05."""
    found = Calibration("late", 2.0, 1.0)
    assert found.probability(1.0) == 0.5
    assert found.probability(7.0) == pytest.approx(1 / (1 + math.exp(-3)))
    assert [found.verdict(found.probability(s)) for s in (7, 1, -5)] == ["true", "doubtful", "false"]


def test_a_calibration_finds_the_line_that_scores_were_drawn_from(tmp_path: Path) -> None:
    """Of normal scores with means ±2 and deviation 2, P(true) = σ(s): temperature 1, offset 0."""
    rng = np.random.default_rng(0)
    found = Calibration.fit(rng.normal(2, 2, 20_000), rng.normal(-2, 2, 20_000), "late")
    assert found.temperature == pytest.approx(1, abs=0.05) and found.offset == pytest.approx(0, abs=0.05)
    assert found.measured["ece"] < 0.02 and found.measured["wrong_true"] < 0.05
    found.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == found
    (tmp_path / "c.json").write_text('{"kind": "late"}')
    with pytest.raises(LongalignError, match="no calibration"):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(LongalignError, match="do not score higher"):
        Calibration.fit([0.0] * 5, [1.0] * 5, "late")


def test_calibration_error_by_hand() -> None:
    """P of 0.9 twice, one of them true: |0.9 − 0.5| in the only bin."""
    assert expected_calibration_error(np.array([0.9, 0.9]), np.array([1.0, 0.0])) == pytest.approx(0.4)


def test_the_lowest_is_marked_only_if_it_is_not_called_true() -> None:
    """Any score is above offset −10⁴, so everything is true; below 10⁴ everything is false."""
    pair = Pair(Image.new("RGB", (IMAGE_PX, IMAGE_PX), "red"), " ".join(TEXTS), "red")
    for offset, verdict in ((-1e4, "true"), (1e4, "false")):
        [item] = score_pairs(late_model(calibration=Calibration("late", 1.0, offset)), [pair])
        assert isinstance(item, Scored)
        assert {s.verdict for s in item.segments} == {verdict}
        assert item.suspect == (None if verdict == "true" else item.worst)


def test_the_embedded_model_calls_sentences_rightly_and_says_so(tmp_path: Path) -> None:
    """The first try of a new user (issue 14): one fox and no heart."""
    from longalign.stickers.world import Scene, Sticker, render

    file = tmp_path / "fox.png"
    render(Scene("navy", (Sticker("fox", 0), Sticker("pig", 4, "red")))).save(file)
    prompt = "The background is navy. A fox is in the top left. There is a heart in the middle."
    done = CliRunner().invoke(
        app, ["score", str(file), "--prompt", prompt, "--json", "--out", str(tmp_path / "run")]
    )
    assert done.exit_code == 0, done.output
    [row] = json.loads(done.stdout)["images"]
    assert [s["verdict"] for s in row["segments"]] == ["true", "true", "false"]
    page = (tmp_path / "run/report.html").read_text()
    assert page.count('class="flag low"') == 1 and "false (0%)" in page


def test_calibrating_on_captioned_pictures(tmp_path: Path) -> None:
    """No labels: own captions against those of other pictures."""
    from longalign.stickers.captions import caption, text_of
    from longalign.stickers.world import render, scene

    lines = []
    for i in range(12):
        render(scene(i, split="test")).save(tmp_path / f"{i}.png")
        lines.append(
            json.dumps({"image": f"{i}.png", "caption": text_of(caption(scene(i, split="test"), i))})
        )
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    out = tmp_path / "c.json"
    done = CliRunner().invoke(
        app,
        [
            "calibrate",
            "--data",
            str(tmp_path / "data.jsonl"),
            "--late",
            "zero-shot",
            "--model",
            "stickers/clip",
            "--out",
            str(out),
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    assert Calibration.load(out).kind == json.loads(done.stdout)["kind"] == "zero-shot"
    model = PreferenceModel.from_pretrained("stickers/clip", device="cpu", calibration=out)
    assert isinstance(model.late, ZeroShot)
