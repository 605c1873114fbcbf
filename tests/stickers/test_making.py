"""The tiny models, trained for a step or two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.diffusion.pipelines import (
    settings_of,
)
from longalign.errors import LongalignError
from longalign.stickers import folder, models
from longalign.stickers.captions import Fact
from longalign.stickers.files import pack
from longalign.stickers.making import patch_code
from longalign.stickers.making.parts import CLIP, T5, VAE, Part, fits, pixels, short_caption
from longalign.stickers.making.readout import ReadableCLIP, layout_of, sentence_of
from longalign.stickers.making.recipes import PARTS, SD15_PARTS, STEPS, part_recipe, train_part
from longalign.stickers.world import scene
from longalign.training import fit
from longalign.training.checkpoint import newest_checkpoint, read_parts
from longalign.training.weights import learning_rate
from longalign.weights.stack import (
    load_pipeline,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every part after one step of a few scenes."""
    out = tmp_path_factory.mktemp("stickers")
    with pytest.MonkeyPatch.context() as patch:
        for part in SD15_PARTS:
            patch.setattr(PARTS[part], "batch_size", 4)
            train_part(part, out, steps=1, cpu=True)
    return out


def test_all_parts_train_and_pack_into_a_pipeline(trained: Path, tmp_path: Path) -> None:
    size_bytes = pack(trained, tmp_path / "sd15", guidance=2.0)
    pipe = load_pipeline(str(tmp_path / "sd15"), device="cpu")
    assert settings_of(str(tmp_path / "sd15")).guidance == 2.0
    assert size_bytes < 40e6
    assert {f.stem for f in (tmp_path / "sd15" / "curves").iterdir()} == set(SD15_PARTS)
    assert set(PARTS) == set(STEPS)
    weights = pipe.unet.state_dict()["conv_in.weight"]
    from diffusers import UNet2DConditionModel

    for config in (tmp_path / "sd15").rglob("*.json"):
        assert str(tmp_path.parent) not in config.read_text()
    raw = UNet2DConditionModel.from_pretrained(trained / "unet").state_dict()["conv_in.weight"]
    assert torch.equal(weights, raw.half().float())  # fp16 on the disk


def test_a_resumed_run_is_the_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps at once, and killed in the third: the same weights, moments and averages to the bit."""
    monkeypatch.setattr(VAE, "batch_size", 2)
    recipe = part_recipe("vae", tmp_path, steps=4)
    often = replace(recipe, train=recipe.train.model_copy(update={"checkpoint_every_steps": 1}))
    monkeypatch.setattr("longalign.stickers.making.recipes.part_recipe", lambda *a, **k: often)

    class Killed(Exception):
        pass

    def kill(step: int, row: Any) -> None:
        if step == 3:  # its checkpoint is not written yet
            raise Killed

    train_part("vae", tmp_path / "whole", cpu=True)
    with pytest.raises(Killed):
        train_part("vae", tmp_path / "parts", cpu=True, on_step=kill)
    assert not (tmp_path / "parts" / "vae").exists()
    resumed = train_part("vae", tmp_path / "parts", cpu=True)
    assert resumed.resumed_from == 2
    states = []
    for run in ("whole", "parts"):
        checkpoint = newest_checkpoint(tmp_path / run / "runs" / "vae" / "checkpoints")
        assert checkpoint is not None and checkpoint.name == "step-00000004"
        states.append(read_parts(checkpoint))
    whole, parts = states
    assert {"modules", "optimizer", "ema"} <= set(whole)
    assert all(torch.equal(t, parts[part][name]) for part in whole for name, t in whole[part].items())
    assert not [f for f in tmp_path.rglob("*") if f.suffix in (".pt", ".bin", ".pkl")]


class Climbing(Part):
    """One weight that climbs by the learning rate, and a check that reports it."""

    batch_size = 1
    learning_rate = 0.1
    evaluations = 2

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.module = torch.nn.Linear(1, 1, bias=False).to(device)
        torch.nn.init.zeros_(self.module.weight)

    def loss(
        self, numbers: Any, share: float, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, float]]:
        return -self.module.weight.sum(), {"last": self.module.weight.item(), "share": share}

    def check(self) -> dict[str, float]:
        return {"averaged": self.module.weight.item()}

    def save(self, folder: Path) -> None:
        pass


def test_checks_see_the_averaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At half of the run and at its end. The weight climbs, so its average lags behind, and the run goes on from the
    weight itself: what the next step starts from is above the average. The last step begins at 39/40 of the run."""
    monkeypatch.setitem(PARTS._own, "climbing", Climbing)
    recipe = part_recipe("climbing", tmp_path, steps=40)
    often = recipe.train.model_copy(update={"log_every": 1})
    monkeypatch.setattr(
        "longalign.stickers.making.recipes.part_recipe",
        lambda *a, **k: replace(recipe, model="stickers", train=often),
    )
    train_part("climbing", tmp_path, steps=40, cpu=True)
    rows = [json.loads(line) for line in (tmp_path / "climbing.jsonl").read_text().splitlines()]
    half, end = [row for row in rows if row["kind"] == "evaluate"]
    trained = {row["step"]: row for row in rows if row["kind"] == "train"}
    assert (half["step"], end["step"]) == (20, 40)
    assert 0 < half["averaged"] < trained[20]["last"] < trained[21]["last"] < trained[40]["last"]
    assert half["averaged"] < end["averaged"] < trained[40]["last"]
    assert trained[40]["share"] == 39 / 40


def test_the_curve_is_written(trained: Path) -> None:
    [row] = [json.loads(line) for line in (trained / "unet.jsonl").read_text().splitlines()]
    assert row["step"] == 1 and np.isfinite(row["loss"])


def test_learning_rate_warms_up_and_ends_low(tmp_path: Path) -> None:
    """100 steps: 2 of warm-up (half, then the peak); half-way through the other 98 it is (1 + 0.01) / 2 of the peak."""
    train = part_recipe("vae", tmp_path, steps=100).train
    rates = [learning_rate(step, train) / VAE.learning_rate for step in (0, 1, 2, 51, 100)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.505, 0.01])


def test_a_step_is_one_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are stratified and captions contrasted over the whole batch; half a batch would be another loss."""
    monkeypatch.setattr(VAE, "batch_size", 2)
    recipe = part_recipe("vae", tmp_path, steps=1)
    train = recipe.train.model_copy(update={"micro_batch_size": 1})
    with pytest.raises(LongalignError, match="one micro-batch"):
        fit(replace(recipe, train=train), tmp_path / "run", cpu=True)


def test_a_missing_part_and_an_unknown_one(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match=r"'unte' is unknown; did you mean 'unet'\?"):
        part_recipe("unte", tmp_path, steps=1)
    with pytest.raises(LongalignError, match=r"has no text_encoder; .* train clip"):
        train_part("unet", tmp_path, steps=1, cpu=True)


def test_training_captions_fit_the_window() -> None:
    """Five stickers can need 80 tokens; what the models see never does."""
    from longalign.stickers.tokenizers import make_clip_tokenizer

    tokenizer = make_clip_tokenizer()
    rng = np.random.default_rng(0)
    for i in range(200):
        said = short_caption(scene(i, objects=(5, 5)), rng)
        assert fits(said)
        assert len(tokenizer(" ".join(s.text for s in said), verbose=False).input_ids) <= 77


def test_the_patch_code_is_linear_and_of_deviation_one() -> None:
    x = pixels([scene(i, objects=(4, 5)) for i in range(64)])
    code = patch_code.encode(x)
    assert code.shape == (64, 8, 6, 6)
    assert 0.8 < float(code.std()) < 1.2
    zero = patch_code.encode(torch.zeros_like(x))
    assert torch.allclose(patch_code.encode(x / 2) - zero, (code - zero) / 2, atol=1e-4)


def test_the_patch_code_keeps_two_thirds_of_the_variance() -> None:
    """The basis has orthogonal columns of one length; projecting back with its pseudo-inverse is the best rank 8."""
    mean, basis = patch_code.principal_components()
    gram = basis.T @ basis
    assert torch.allclose(gram, gram[0, 0] * torch.eye(8), atol=1e-5 * float(gram[0, 0]))
    x = pixels([scene(i, objects=(4, 5)) for i in range(64)])
    p = patch_code.PATCH_PX
    patches = x.reshape(64, 3, 6, p, 6, p).permute(0, 2, 4, 3, 5, 1).reshape(-1, 768)
    code = (patches - mean) @ basis
    back = code @ torch.linalg.pinv(basis) + mean
    left = (patches - back).square().sum() / (patches - mean).square().sum()
    assert 0.2 < float(left) < 0.45


def test_the_text_encoder_is_clips_text_tower() -> None:
    clip = models.make_clip().eval()
    text = models.text_encoder_of(clip).eval()
    ids = torch.tensor(CLIP(CPU, Path()).tokenizer(["A fox is in the top left."]).input_ids)
    assert torch.equal(text(ids).last_hidden_state, clip.text_model(ids).last_hidden_state)


def test_pooled_vectors_differ_between_texts() -> None:
    """With the default end id 49407, which no text here has, they would all be that of the start token."""
    part, rng = CLIP(CPU, Path()), np.random.default_rng(0)
    with torch.no_grad():
        features, _ = part.read_texts([short_caption(scene(i), rng) for i in range(2)])
    assert float((features[0] - features[1]).abs().max()) > 1e-3


def test_embeddings_keep_the_order_of_the_captions() -> None:
    """Texts are encoded in order of length and put back: alone or among others, the same embedding."""
    part, rng = CLIP(CPU, Path()), np.random.default_rng(0)
    captions = [short_caption(scene(i), rng) for i in range(5)]
    with torch.no_grad():
        together, _ = part.read_texts(captions)
        for i, caption in enumerate(captions):
            torch.testing.assert_close(part.read_texts([caption])[0][0], together[i], atol=1e-5, rtol=1e-4)


def test_right_answers_by_hand() -> None:
    """A fox (kind 0) on a blue disc (3) in the bottom left (6), on grey (1); everything else is the last answer."""
    said = [Fact(kind="fox", cell=6, disc="blue"), Fact(background="grey")]
    kinds, discs = [24] * 9, [5] * 9
    kinds[6], discs[6] = 0, 3
    assert layout_of(said) == [*kinds, *discs, 1]
    assert [sentence_of(f) for f in said] == [[6, 0, 3, 5], [9, 24, 5, 1]]


def test_a_readout_that_knows_has_no_loss() -> None:
    """With the right answers as logits (times 50) the cross entropy is nil, with others it is not."""
    said = Fact(kind="fox", cell=6, disc="blue")
    clip = ReadableCLIP(models.make_clip())
    with torch.no_grad():
        clip.sentence.weight.zero_()
        clip.sentence.bias.zero_()
        starts = np.cumsum([0, *clip.sentence_sizes[:-1]])
        clip.sentence.bias[torch.tensor(starts + sentence_of(said))] = 50.0
        states = torch.zeros(1, clip.sentence.in_features)
        assert float(clip.sentence_loss(states, [said])) < 1e-6
        assert float(clip.sentence_loss(states, [Fact(background="grey")])) > 100


def test_noise_schedule_ends_without_signal() -> None:
    scheduler = models.make_scheduler()
    assert float(scheduler.alphas_cumprod[-1]) < 1e-6
    assert scheduler.config.prediction_type == "v_prediction"


def test_t5_spans_can_be_put_back() -> None:
    """Replacing each sentinel of the source by its span of the target gives the text again."""
    part = T5(CPU, Path())
    ids = list(range(100, 140))
    source, target = part.corrupt(ids, np.random.default_rng(0))
    sentinels = set(part.sentinels)
    spans: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in sentinels:
            spans[token] = current = []
        else:
            current.append(token)
    restored = [t for token in source[:-1] for t in spans.get(token, [token])]
    assert restored == ids and len(source) < len(ids)


def test_shipped_weights_are_complete_and_small() -> None:
    parts = {
        "vae",
        "clip",
        "text_encoder",
        "tokenizer",
        "unet",
        "scheduler",
        "t5",
        "t5_tokenizer",
        "adapter",
        "curves",
    }
    assert parts <= {p.name for p in folder().iterdir()}
    assert sum(f.stat().st_size for f in folder().rglob("*") if f.is_file()) < 40e6
    assert not [f for f in folder().rglob("*") if f.suffix in (".bin", ".pt", ".pkl")]


def test_a_preference_run_packs_into_an_embedded_model(tmp_path: Path) -> None:
    """In half precision it embeds as the run's model does, and its recipe names no folder of the machine."""
    from longalign.preference import PreferenceModel
    from longalign.stickers.making.pack_run import pack_run

    trained = PreferenceModel.from_pretrained("stickers/clip", device="cpu")
    run = tmp_path / "run"
    trained.save_pretrained(run / "model")
    (run / "config.yaml").write_text(f"command: train\nobjective: preference\nout: {tmp_path}\n")
    (run / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(LongalignError, match="no trained model"):
        pack_run(tmp_path, tmp_path / "nothing")
    assert pack_run(run, tmp_path / "packed") < 6e6
    packed = PreferenceModel.from_pretrained(
        tmp_path / "packed", device="cpu", tokenizer=str(folder() / "tokenizer")
    )
    text = ["A fox is in the top left."]
    assert torch.allclose(packed.text(text), trained.text(text), atol=1e-3)
    assert packed.decomposition is not None
    assert (tmp_path / "packed" / "recipe.yaml").read_text() == "objective: preference\n"


def test_the_command_trains_a_part_and_resumes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps give a curve of one line; the same command again finds nothing left to do."""
    monkeypatch.setattr(VAE, "batch_size", 2)
    command = ["stickers", "train", "vae", "--steps", "2", "--device", "cpu", "--out", str(tmp_path)]
    for _ in range(2):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        [row] = (tmp_path / "vae.jsonl").read_text().splitlines()
        assert json.loads(row)["step"] == 2
    assert (tmp_path / "vae" / "config.json").is_file()
    wrong = CliRunner().invoke(app, ["stickers", "train", "veo", "--out", str(tmp_path)])
    assert "part 'veo' is unknown; did you mean 'vae'? There are all, vae, clip" in str(wrong.exception)
