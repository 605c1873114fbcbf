"""SDXL and SD3 of the sticker world: what they borrow from SD1.5 says the same there, and their folders are whole."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, T5EncoderModel

import longalign
from longalign.diffusion.pipelines import (
    settings_of,
)
from longalign.encoding import T5Branch
from longalign.errors import LongalignError
from longalign.stickers import MODELS, assembly, folder
from longalign.stickers import sdxl_sd3_models as backbones
from longalign.stickers.assembly import assembled, digest, trained_on
from longalign.stickers.files import pack_denoiser
from longalign.stickers.making import sdxl_sd3 as further
from longalign.stickers.making.recipes import train_part
from longalign.stickers.models import make_t5, text_encoder_of, text_layers
from longalign.stickers.world import CELL_PX, SCENE_PX
from longalign.studies.check import strategies_of
from longalign.weights.stack import (
    load_pipeline,
)
from longalign.worlds import (
    resolve_model,
)

CPU = torch.device("cpu")
NAMES = ("sdxl", "sd3")
TEXTS = ["A fox is in the top left. It is grey.", "The background is green.", ""]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both denoisers after one step on two scenes."""
    out = tmp_path_factory.mktemp("further")
    with pytest.MonkeyPatch.context() as patch:
        for part in (further.SDXL, further.SD3):
            patch.setattr(part, "batch_size", 2)
            patch.setattr(part, "evaluations", 0)
        patch.setattr(further.SDXL, "map_captions", 8)
        for name in NAMES:
            train_part(name, out, steps=1, cpu=True)
    return out


@pytest.fixture(scope="module")
def weights(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `stickers/weights` is in the package: SD1.5 whole, the others with what is their own."""
    weights = tmp_path_factory.mktemp("weights")
    (weights / "sd15").symlink_to(folder(), target_is_directory=True)
    for name in NAMES:
        assert pack_denoiser(name, trained, weights / name, guidance=2.5) < 3.2e6
    return weights


@pytest.fixture(scope="module")
def pipes(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return {name: load_pipeline(str(assembled(name, weights)), device="cpu") for name in NAMES}


def half(module: Any) -> Any:
    """Rounded to fp16, as it is stored."""
    return module.half().float().eval()


def embedded_clip() -> CLIPModel:
    return CLIPModel.from_pretrained(folder() / "clip", dtype=torch.float32).eval()


@torch.no_grad()
def test_behind_an_idle_layer_stand_the_towers_own_last_states() -> None:
    """Four layers: the states before the fourth are those behind the third, and the fourth adds nothing."""
    clip = embedded_clip()
    longer, tower = text_encoder_of(clip, idle_layers=1).eval(), text_encoder_of(clip).eval()
    ids = torch.tensor([[719, 5, 300, 600, 720, 720]])
    told = longer(ids, output_hidden_states=True)
    states, final = told.hidden_states[-2], tower(ids).last_hidden_state
    assert len(text_layers(longer)) == len(text_layers(tower)) + 1
    assert torch.equal(told.last_hidden_state, final)
    assert torch.equal(clip.text_model.final_layer_norm(states), final)


@torch.no_grad()
def test_a_pooled_vector_is_clips_own_embedding() -> None:
    clip, ids = embedded_clip(), torch.tensor([[719, 5, 300, 720], [719, 80, 200, 720]])
    own = clip.get_text_features(input_ids=ids).pooler_output
    for idle in (0, 1):
        text = text_encoder_of(clip, idle_layers=idle, projection=True).eval()
        assert torch.equal(text(ids).text_embeds, own)


@torch.no_grad()
def test_a_widened_t5_says_the_same_in_its_last_channels() -> None:
    """96 channels in 384. The norms' weights are halved, which fp16 holds exactly."""
    torch.manual_seed(0)
    narrow = half(T5EncoderModel(make_t5().config))
    ids = torch.randint(3, 200, (2, 12))
    own = narrow(ids).last_hidden_state
    wide = half(backbones.widened_t5(narrow))(ids).last_hidden_state
    assert wide.shape == (2, 12, 384) and float(own.std()) > 0.1
    assert torch.equal(wide[..., :288], torch.zeros(2, 12, 288))
    assert torch.allclose(wide[..., 288:], own, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(folder() / "unet", torch_dtype=torch.float32).eval()


def ask(unet: UNet2DConditionModel, states: torch.Tensor, pooled_seed: int | None = None) -> torch.Tensor:
    """The prediction for one noise at two times; with a pooled vector where the UNet wants one."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 6, 6, generator=generator)
    added = None
    if pooled_seed is not None:
        vector = torch.randn(2, 128, generator=torch.Generator().manual_seed(pooled_seed))
        added = {"text_embeds": vector, "time_ids": torch.full((2, 6), 96.0)}
    with torch.no_grad():
        return unet(x, torch.tensor([700, 300]), states, added_cond_kwargs=added, return_dict=False)[0]


def test_sdxl_begins_as_sd15_when_the_second_clip_counts_for_nothing(unet: UNet2DConditionModel) -> None:
    """A = [1 0], b = 0: the same numbers, whatever the second CLIP, the pooled vector and the time ids say."""
    first, second = torch.randn(2, 2, 77, 128).unbind(0)
    only_first = torch.cat([torch.eye(128), torch.zeros(128, 128)], dim=1)
    with torch.no_grad():
        wide = backbones.sdxl_unet(unet, only_first, torch.zeros(128)).eval()
    told = ask(wide, torch.cat([first, second], dim=-1), pooled_seed=5)
    own = ask(unet, first)
    assert torch.allclose(told, own, atol=1e-5, rtol=1e-5)  # products of other lengths: not to the bit
    assert float((ask(unet, second) - own).abs().max()) > 0.01


def test_sdxl_begins_as_sd15_on_a_linear_map_of_the_states(unet: UNet2DConditionModel) -> None:
    """b in K is the same for every key of a query and drops out; in V it goes through W_out into the bias."""
    states = torch.randn(2, 77, 256)
    weight, bias = torch.randn(128, 256) / 16, torch.randn(128)
    with torch.no_grad():
        wide = backbones.sdxl_unet(unet, weight, bias).eval()
    wanted = ask(unet, states @ weight.T + bias)
    assert torch.allclose(ask(wide, states, pooled_seed=0), wanted, atol=1e-4, rtol=1e-4)
    assert float((ask(unet, states @ weight.T) - wanted).abs().max()) > 0.01


def test_a_linear_map_is_found_again() -> None:
    weight, bias, states = torch.randn(3, 5), torch.randn(3), torch.randn(50, 5)
    found, constant = backbones.map_between(states, states @ weight.T + bias)
    assert torch.allclose(found, weight, atol=1e-5) and torch.allclose(constant, bias, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_training_reads_what_encode_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32: the states and pooled vectors of the pipeline's own encoding, T5 padded to its 256."""
    monkeypatch.setattr(further, "autocast", lambda device: contextlib.nullcontext())
    reader = further.Reader(name, CPU)
    states, pooled = reader.clip(TEXTS) if name == "sdxl" else reader.joint(TEXTS, 256)
    told = longalign.encode(backbones.text_parts(name, folder()), TEXTS, strategy="plain")
    assert told.pooled is not None
    assert states.shape == told.embeds.shape == (3, 77 if name == "sdxl" else 333, states.shape[-1])
    assert torch.allclose(states, told.embeds, atol=1e-4) and torch.allclose(pooled, told.pooled, atol=1e-4)


def test_a_flow_that_knows_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """(x_σ − x_0)/σ = ((1 − σ) x_0 + σ ε − x_0)/σ = ε − x_0, the target."""
    monkeypatch.setattr(further.SD3, "batch_size", 2)
    part = further.SD3(CPU, folder())
    x0 = part.draw(range(2), 0.0)[1]

    def knows(hidden_states: torch.Tensor, timestep: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        return ((hidden_states - x0) / (timestep / 1000)[:, None, None, None],)

    part.module = knows
    assert float(part.loss(range(2), 0.0, np.random.default_rng(0))[0]) < 1e-6
    part.module = lambda hidden_states, **_: (torch.zeros_like(hidden_states),)
    assert float(part.loss(range(2), 0.0, np.random.default_rng(0))[0]) > 0.5


def test_noise_levels_go_down_as_sampling_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shift 3: u = ½ becomes 1.5/2 = ¾, so half of the levels lie above; the scheduler's middle step of many, too."""
    part = object.__new__(further.SD3)
    part.device, part.flow = CPU, backbones.make_flow_scheduler()
    sigma = part.sigmas(part.batch_size, np.random.default_rng(0))
    assert len(sigma) == 2 * part.batch_size and float(sigma.min()) > 0 and float(sigma.max()) <= 1
    assert float(sigma.median()) == pytest.approx(0.75, abs=0.02)
    part.flow.set_timesteps(1000)
    assert float(part.flow.sigmas[500]) == pytest.approx(0.75, abs=0.01)


def test_places_are_saved_with_the_weights_and_large_enough() -> None:
    """A trained table comes back in the ordinary class; what it adds differs between any two places."""
    torch.manual_seed(0)
    model = backbones.trainable_places(backbones.make_transformer())
    table = model.pos_embed.pos_embed
    assert isinstance(table, torch.nn.Parameter) and table.shape == (1, 36, 96)
    ordinary = backbones.make_transformer()
    ordinary.load_state_dict(model.state_dict())
    assert torch.equal(ordinary.pos_embed.cropped_pos_embed(6, 6), table)
    assert float(torch.pdist(table[0].detach()).min()) > 5


def test_assembling_draws_no_random_numbers(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training seeds itself and then loads its model: what it draws later must not depend on the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = torch.get_rng_state()
    assembled("sd3", weights)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_assembled_folders_draw(name: str, pipes: dict[str, Any]) -> None:
    """Both classes of pipeline, encoded past 77 tokens, in one step."""
    pipe = pipes[name]
    prompt = " ".join(["The fox is in the top left.", "A heart is in the centre."] * 8)  # 8 · 17 tokens
    conditioning = longalign.encode(pipe, [prompt, prompt], length=77)
    assert conditioning.family == name
    assert not any(conditioning.truncation)
    parts = [154] if name == "sdxl" else [154, 154]  # 16 sentences of 8 or 9 tokens, <sot> in place of <eot>
    assert conditioning.embeds.shape == (2, sum(parts), 256 if name == "sdxl" else 384)
    kwargs = conditioning.pipeline_kwargs()
    images = pipe(**kwargs, num_inference_steps=1, guidance_scale=2.0, output_type="pt").images
    assert images.shape == (2, 3, SCENE_PX, 3 * CELL_PX) and bool(torch.isfinite(images).all())


@pytest.mark.parametrize("name", NAMES)
def test_assembled_pipelines_encode_by_themselves(name: str, pipes: dict[str, Any]) -> None:
    """`encode` with strategy plain is the pipeline's own `encode_prompt`."""
    pipe = pipes[name]
    own = pipe.encode_prompt(TEXTS[0], **({} if name == "sdxl" else {"prompt_2": None, "prompt_3": None}))
    told = longalign.encode(pipe, TEXTS[0], strategy="plain")
    assert torch.allclose(told.embeds, own[0], atol=1e-5) and told.pooled is not None
    assert torch.allclose(told.pooled, own[2], atol=1e-5)


def test_all_that_sdxl_shares_is_sd15s(pipes: dict[str, Any]) -> None:
    stored = UNet2DConditionModel.from_pretrained(folder() / "unet").state_dict()
    for key, value in pipes["sdxl"].unet.state_dict().items():
        if not backbones.OWN.search(key):
            assert torch.equal(value, stored[key])
    clip = CLIPTextModel.from_pretrained(folder() / "text_encoder").state_dict()
    for key, value in pipes["sdxl"].text_encoder.state_dict().items():
        assert key not in clip or torch.equal(value, clip[key])


def test_an_assembled_folder_tells_its_settings(weights: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    where = assembled("sdxl", weights)
    assert where.parent == tmp_path / "longalign" / "stickers"
    assert assembled("sdxl", weights) == where and len(list(where.parent.iterdir())) == 1
    settings = settings_of(str(where))
    assert (settings.guidance, settings.length, settings.oracle) == (2.5, 77, "stickers")
    assert strategies_of(str(where)) == ("plain", "clip-cat")
    assert "t5-mlp" in strategies_of("stickers")


def test_where_no_cache_can_be_a_temporary_folder_serves(weights: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    where = assembled("sdxl", weights)
    assert where.parent == assembly.temporary_folder() and (where / "model_index.json").is_file()


def test_the_name_changes_with_every_part(weights: Path, tmp_path: Path) -> None:
    """Files here stand for weights; only their bytes and names count."""
    copy = tmp_path / "weights"
    for name in NAMES:
        shutil.copytree(weights / name, copy / name)
    shared = {part for parts in assembly.SHARED.values() for part in parts}
    for part in shared:
        (copy / "sd15" / part).mkdir(parents=True)
        (copy / "sd15" / part / "file").write_text("a")
    for name in NAMES:
        before = digest(name, copy)
        assert digest(name, copy) == before
        for part in shared:
            (copy / "sd15" / part / "file").write_text("b")
            assert (digest(name, copy) != before) == (part in assembly.SHARED[name])
            (copy / "sd15" / part / "file").write_text("a")
        (copy / name / "longalign.json").write_text("{}")
        assert digest(name, copy) != before


PLACE = """
import sys, time
from pathlib import Path
from longalign.stickers.assembly import _placed
def make(out):
    for i in range(20):
        (out / f"{i}.txt").write_text("x" * 1000)
        time.sleep(0.01)
print(_placed(Path(sys.argv[1]), make))
"""


def test_two_processes_at_once_make_one_whole_folder(tmp_path: Path) -> None:
    final = tmp_path / "sdxl-0"
    commands = [[sys.executable, "-c", PLACE, str(final)]] * 2
    processes = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]
    assert [p.communicate(timeout=60)[0].strip() for p in processes] == [str(final)] * 2
    assert [p.returncode for p in processes] == [0, 0]
    assert [f.name for f in tmp_path.iterdir()] == ["sdxl-0"]
    assert len(list(final.glob("*.txt"))) == 20


def test_a_folder_that_lost_a_file_is_made_again(tmp_path: Path) -> None:
    made = []

    def make(out: Path) -> None:
        made.append(out)
        (out / "a").write_text("a")

    final = tmp_path / "folder"
    for _ in range(2):
        assembly._placed(final, make)
    assert len(made) == 1
    (final / "a").unlink()
    assembly._placed(final, make)
    assert len(made) == 2 and (final / "a").read_text() == "a" and list(tmp_path.iterdir()) == [final]


def test_a_failed_attempt_leaves_nothing(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        (out / "half").write_text("")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        assembly._placed(tmp_path / "folder", fail)
    assert not list(tmp_path.iterdir())


def test_names_of_embedded_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        LongalignError, match=r"no embedded model stickers-flux; .* stickers, stickers-sdxl, stickers-sd3"
    ):
        resolve_model("stickers-flux")
    assert resolve_model("someone/stickers-flux") == "someone/stickers-flux"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stickers-mine").mkdir()
    assert resolve_model("stickers-mine") == "stickers-mine"
    monkeypatch.setattr("longalign.stickers.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(LongalignError, match=r"stickers-sd3 is not shipped in this version; train it .* sd3"):
        resolve_model("stickers-sd3")
    assert resolve_model("stickers") == str(tmp_path / "weights" / "sd15")


def test_packing_wants_weights_trained_beside_what_is_embedded(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match="no sd3 in it yet"):
        pack_denoiser("sd3", tmp_path, tmp_path / "out")
    stale = shutil.copytree(trained, tmp_path / "stale")
    base = {**trained_on("sdxl", folder()), "unet": "0"}
    (stale / "sdxl" / assembly.BASE).write_text(json.dumps(base))
    with pytest.raises(LongalignError, match="beside another unet than the embedded one"):
        pack_denoiser("sdxl", stale, tmp_path / "out")


@pytest.mark.parametrize("name", NAMES)
def test_shipped_denoisers_belong_to_the_shipped_parts(name: str) -> None:
    """Whoever replaces SD1.5's UNet or CLIP has to train these again."""
    own = folder().parent / name
    assert json.loads((own / assembly.BASE).read_text()) == trained_on(name, folder())
    assert resolve_model(next(told for told, n in MODELS.items() if n == name)) == str(folder(name))


@pytest.mark.parametrize("name", ["sd15", *NAMES])
def test_diffusers_alone_draws_with_an_embedded_folder_as_it_is(name: str) -> None:
    """`DiffusionPipeline.from_pretrained(folder)`, without a word on precision: all parts in float32, our picture."""
    told = next(t for t, n in MODELS.items() if n == name)
    theirs, ours = DiffusionPipeline.from_pretrained(folder(name)), load_pipeline(told, device="cpu")
    modules = {part: m for part, m in theirs.components.items() if isinstance(m, torch.nn.Module)}
    assert {part: m.dtype for part, m in modules.items()} == dict.fromkeys(modules, torch.float32)
    drawn = [
        pipe(
            "A fox is in the middle.",
            num_inference_steps=3,
            guidance_scale=2.0,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images
        for pipe in (theirs, ours)
    ]
    assert np.array_equal(*drawn) and drawn[0].std() > 0.03


def test_a_t5_branch_has_one_precision() -> None:
    branch = T5Branch.from_pretrained(folder())
    assert branch.encoder.dtype == branch.adapter.dtype == torch.float32
