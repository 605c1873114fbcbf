"""Soft tokens on disk: our files, and the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import _unet
from torch import Tensor, nn
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.diffusion.denoiser import Denoiser
from longalign.encoding import T5Branch, encode
from longalign.errors import LongalignError
from longalign.preference import Calibration, PreferenceModel
from longalign.preference.decomposition import Decomposition
from longalign.soft_tokens import FILE_NAME, SoftTokenConfig, SoftTokens
from longalign.soft_tokens.loading import attach_tokens
from longalign.stickers import token_names
from longalign.weights import longsd
from longalign.weights.convert import import_checkpoint
from longalign.weights.published_tokens import read_published
from longalign.weights.stack import (
    load_pipeline,
)

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "softrepa-sd15"

CONFIGS = [
    SoftTokenConfig("sd15", 8, stages=("down", "up"), base="some/base"),
    SoftTokenConfig("sdxl", 8, count=2, stages=("mid",), buckets=None),
    SoftTokenConfig("sd3", 8, layers=3, buckets=10, token_width=6),
]


def release(folder: Path, tokens: Tensor, table: Any = None) -> Path:
    """Files as the authors save them."""
    folder.mkdir(exist_ok=True)
    torch.save(nn.Parameter(tokens), folder / "dc_tokens.pth")
    if table is not None:
        torch.save(table, folder / "dc_t_tokens.pth")
    return folder


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.backbone)
@pytest.mark.parametrize("name", ["", "mine.safetensors"], ids=["folder", "file"])
def test_there_and_back(config: SoftTokenConfig, name: str, tmp_path: Path) -> None:
    tokens = SoftTokens(config)
    file = tokens.save(tmp_path / name if name else tmp_path)
    assert file == tmp_path / (name or FILE_NAME)
    again = SoftTokens.from_pretrained(file if name else tmp_path)
    assert again.config == config
    assert {k: tuple(v.shape) for k, v in again.state_dict().items()} == config.shapes
    assert all(torch.equal(v, tokens.state_dict()[k]) for k, v in again.state_dict().items())


def test_files_that_are_no_soft_tokens(tmp_path: Path) -> None:
    tokens = SoftTokens(CONFIGS[0])
    file = tokens.save(tmp_path)
    held = load_file(file)
    metadata = {"soft_tokens": tokens.config.to_json()}
    with pytest.raises(LongalignError, match="no such file"):
        SoftTokens.from_pretrained(tmp_path / "other.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(LongalignError, match="is damaged"):
        SoftTokens.from_pretrained(file)
    save_file(held, file)
    with pytest.raises(LongalignError, match="holds no soft tokens"):
        SoftTokens.from_pretrained(file)
    save_file(held, file, {"soft_tokens": "[]"})
    with pytest.raises(LongalignError, match="no configuration of soft tokens"):
        SoftTokens.from_pretrained(file)
    save_file({"tokens": held["tokens"]}, file, metadata)
    with pytest.raises(LongalignError, match="soft tokens lack 'time'"):
        SoftTokens.from_pretrained(file)
    save_file({**held, "tokens": held["tokens"][:, :3].contiguous()}, file, metadata)
    with pytest.raises(LongalignError, match=r"have 'tokens' of shape \(1, 3, 8\), not \(1, 4, 8\)"):
        SoftTokens.from_pretrained(file)
    held["time"][50, 0, 3] = torch.inf
    save_file(held, file, metadata)
    with pytest.raises(LongalignError, match="NaN or infinity among the values"):
        SoftTokens.from_pretrained(file)
    with torch.no_grad():
        tokens.tokens.fill_(torch.nan)
    with pytest.raises(LongalignError, match="NaN or infinity"):
        tokens.save(tmp_path / "nan")
    assert not (tmp_path / "nan").exists()


@pytest.mark.parametrize(
    ("shape", "table", "expected"),
    [
        ((4, 768), 768, SoftTokenConfig("sd15", 768, stages=("down",))),
        ((4, 2048), None, SoftTokenConfig("sdxl", 2048, stages=("down", "mid"), buckets=None)),
        ((5, 4, 1536), 5 * 1536, SoftTokenConfig("sd3", 1536, layers=5)),
        ((5, 4, 4096), 5 * 1536, SoftTokenConfig("sd3", 1536, layers=5, token_width=4096)),
        ((2, 8, 1536), None, SoftTokenConfig("sd3", 1536, count=8, layers=2, buckets=None)),
    ],
)
def test_the_published_layouts(shape: Any, table: int | None, expected: Any, tmp_path: Path) -> None:
    """SD3's table has one slice a block, side by side."""
    given = torch.randn(shape)
    time = None if table is None else nn.Embedding(100, table)
    tokens = read_published(release(tmp_path, given, time))
    assert tokens.config == expected
    assert torch.equal(tokens.tokens.reshape(shape), given)
    if time is not None:
        k, width = expected.layers - 1, expected.width
        assert torch.equal(tokens.time[57, k], time.weight[57, k * width : (k + 1) * width])  # type: ignore[index]


def test_published_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(LongalignError, match=r"shape \(4, 5\) are for no backbone that is known"):
        read_published(release(tmp_path, torch.zeros(4, 5)))
    with pytest.raises(LongalignError, match="make them readable by `longalign import` first"):
        SoftTokens.from_pretrained(tmp_path)
    with pytest.raises(
        LongalignError, match=r"time buckets have 'table' of shape \(100, 5\), not \(100, 768\)"
    ):
        read_published(release(tmp_path, torch.zeros(4, 768), nn.Embedding(100, 5)))
    with pytest.raises(LongalignError, match="NaN or infinity"):
        read_published(release(tmp_path / "nan", torch.full((4, 768), torch.nan)))
    with pytest.raises(LongalignError, match="holds no tokens"):
        read_published(release(tmp_path, torch.zeros(768)))


def test_a_pickle_with_anything_else_in_it_is_refused(tmp_path: Path) -> None:
    """Even a harmless module of torch: only an embedding may be in the second file, and none in the first."""
    folder = release(tmp_path, torch.zeros(4, 768), nn.Linear(2, 2))
    with pytest.raises(LongalignError, match=r"names torch\.nn\.modules\.linear\.Linear"):
        read_published(folder)
    torch.save(nn.Embedding(4, 768), folder / "dc_tokens.pth")
    with pytest.raises(LongalignError, match=r"refused, since this pickle names torch\.nn\.modules\.sparse"):
        read_published(folder)


def test_the_command(tmp_path: Path) -> None:
    release(tmp_path / "in", torch.zeros(4, 2048))
    done = CliRunner().invoke(app, ["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0 and "backbone sdxl" in done.output and "parameters 8192" in done.output
    assert SoftTokens.from_pretrained(tmp_path / "out").config.backbone == "sdxl"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the released pair is not here")
@torch.no_grad()
def test_names_of_the_command_line_work_everywhere(tmp_path: Path) -> None:
    """Embedded names, run folders, files, as text and as `Path`."""
    tokens = SoftTokens.from_pretrained("stickers/softrepa")
    tokens.save(tmp_path / "run" / "model")
    for name in (Path("stickers/softrepa"), tmp_path / "run", str(tmp_path / "run" / "model")):
        assert torch.equal(SoftTokens.from_pretrained(name).tokens, tokens.tokens)
    with pytest.raises(LongalignError, match="there are no embedded soft tokens stickers/dog"):
        SoftTokens.from_pretrained("stickers/dog")
    model = PreferenceModel.from_pretrained(Path("stickers/denscore"))
    model.save_pretrained(tmp_path / "trained" / "model")
    saved = PreferenceModel.from_pretrained(tmp_path / "trained")  # a run folder of `longalign train`
    torch.testing.assert_close(saved.text("A fox."), model.text("A fox."))
    assert model.decomposition is not None and model.calibration is not None
    for told in ("stickers/denscore", "stickers", tmp_path / "trained" / "model"):
        assert torch.equal(Decomposition.load(told).total, model.decomposition.total)
        assert Calibration.load(told) == model.calibration
    assert T5Branch.from_pretrained("stickers").adapter.config.in_dim == 96


def test_the_released_sd15_tokens(tmp_path: Path) -> None:
    """They import, go onto SD1.5's UNet, and are n equal tokens: their trainer starts them from one vector."""
    done = import_checkpoint(PUBLISHED, tmp_path / "out")
    assert done.facts["parameters"] == 79_872
    tokens = SoftTokens.from_pretrained(tmp_path / "out")
    raw = torch.load(PUBLISHED / "dc_tokens.pth", map_location="cpu", weights_only=True)
    with torch.serialization.safe_globals([nn.modules.sparse.Embedding]):
        table = torch.load(PUBLISHED / "dc_t_tokens.pth", map_location="cpu", weights_only=True).weight
    assert torch.equal(tokens(torch.tensor([431.0]))[0], raw + table[43])
    assert torch.equal(raw, raw[:1].expand(4, 768))
    with tokens.attach(longsd.empty_unet()):  # shapes alone
        pass
    unet, x, text = _unet(768), torch.randn(2, 4, 16, 16), torch.randn(2, 77, 768)
    plain = unet(x, 431, text).sample
    with tokens.attach(unet):
        full = unet(x, 431, text).sample
    assert full.isfinite().all() and not torch.allclose(full, plain)
    assert torch.equal(unet(x, 431, text).sample, plain)


@pytest.mark.parametrize("model", ["stickers", "stickers-sdxl", "stickers-sd3"])
def test_embedded_ones_fit_their_model(model: str) -> None:
    """Each is for the model that it is named after, has moved from where it started, and takes part in predictions."""
    pipe = load_pipeline(model, device="cpu")
    denoiser = Denoiser.of(pipe)
    x = torch.randn(
        1, denoiser.channels, denoiser.side, denoiser.side, generator=torch.Generator().manual_seed(0)
    )
    conditioning = encode(pipe, ["A fox is in the middle."])
    with torch.no_grad():
        plain = denoiser(x, 500, conditioning)
        names = token_names(model)
        assert "softrepa" in names
        for name in names:
            with attach_tokens(pipe, f"{model}/{name}") as attachment:
                assert attachment.tokens.config.base == model
                changed = (denoiser(x, 500, conditioning) - plain).square().mean()
            assert 1e-6 < changed / plain.square().mean() < 0.5
        assert torch.equal(denoiser(x, 500, conditioning), plain)
