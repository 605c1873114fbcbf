"""Published files: read without running them, checked, converted and written back."""

from __future__ import annotations

import collections
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from file_limit import file_limit
from safetensors.torch import load_file
from tiny import WIDTH, _unet
from tiny_clip import tiny_model
from torch import Tensor, nn
from typer.testing import CliRunner

from longalign.cli.main import app
from longalign.encoding.adapter import TextAdapter
from longalign.errors import LongalignError
from longalign.preference import PreferenceModel
from longalign.safe_files import read_pickle
from longalign.soft_tokens import SoftTokens
from longalign.weights import longsd, lora
from longalign.weights.convert import export_lora, import_checkpoint
from longalign.weights.fingerprint import fingerprint
from longalign.weights.lora_file import FILE_NAME, LoraFile, Pair

FIRST = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def matrices(unet: nn.Module, rank: int = 2, seed: int = 0) -> list[Tensor]:
    """A list as the release has it, for any UNet, with random numbers."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for layer in lora.target_layers(unet).values():
        out, *rest = layer.weight.shape
        shapes = (out, rank, *(1 for _ in rest[1:])), (rank, *rest)
        made += [(0.1 * torch.randn(shape, generator=generator)).half() for shape in shapes]
    return made


@pytest.fixture(scope="module")
def sd15() -> nn.Module:
    return longsd.empty_unet()


@pytest.fixture(scope="module")
def listed(sd15: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of SD1.5's shapes at rank 2."""
    path = tmp_path_factory.mktemp("longsd") / "s28750_lora_vis.pt"
    torch.save(matrices(sd15), path)
    return path


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A pipeline folder with nothing but a tiny UNet in it, as far as configurations go."""
    _unet(WIDTH).save_pretrained(tmp_path / "base" / "unet")
    return str(tmp_path / "base")


def test_the_order_of_sd15s_layers(sd15: nn.Module) -> None:
    """Down blocks, up blocks, middle: as diffusers registers them, and so the published lists were written.

    Transformers: 6 down, 9 up, 1 middle = 16, each with 2 × (q, k, v, out) and GEGLU.proj: 144 layers. ResnetBlock2D:
    8 down, 12 up, 2 middle = 22, each with conv1, time_emb_proj, conv2 (66), and conv_shortcut where widths differ:
    down 2 (320 → 640 → 1280), up all 12. Together 144 + 66 + 14 = 224.
    """
    names = list(lora.target_layers(sd15))
    assert len(names) == 224 and sum("conv_shortcut" in n for n in names) == 14
    assert names[0] == FIRST and names[-1] == "mid_block.resnets.1.conv2"
    assert names[3:9] == [FIRST.replace("attn1.to_q", x) for x in (
        "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0", "ff.net.0.proj"
    )]  # fmt: skip
    assert names[18:21] == [f"down_blocks.0.resnets.0.{x}" for x in ("conv1", "time_emb_proj", "conv2")]
    assert [n.partition(".")[0] for n in (names[79], names[80], names[208], names[209])] == [
        "down_blocks", "up_blocks", "up_blocks", "mid_block"
    ]  # fmt: skip
    assert next(iter(sd15.parameters())).is_meta


def test_there_and_back_at_rank_32_bit_for_bit(sd15: nn.Module, tmp_path: Path) -> None:
    """28,291,072 numbers, the size of the published files."""
    before = matrices(sd15, 32)
    assert sum(m.numel() for m in before) == 28_291_072
    file = LoraFile(longsd.from_list(before, sd15))
    file.write(tmp_path)
    after = longsd.to_list(LoraFile.read(tmp_path), sd15)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(before, after, strict=True))


def test_there_and_back_through_files_with_the_adapter(listed: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    adapter = TextAdapter(6, 7, 8).half()
    adapter.save_pretrained(tmp_path / "a")
    done = import_checkpoint(listed, tmp_path / "long", adapter=tmp_path / "a")
    assert done.kind == "lora" and (done.facts["layers"], done.facts["rank"]) == (224, 2)
    assert done.facts["adapter"] == [6, 7, 8] and done.facts["base"] is None
    of_adapter = ["config.json", "diffusion_pytorch_model.safetensors"]
    assert [p.name for p in done.files] == ["README.md", *of_adapter, "longalign.json", FILE_NAME]
    export_lora(tmp_path / "long", tmp_path / "back.pt")
    before, after = (torch.load(p, weights_only=True) for p in (listed, tmp_path / "back.pt"))
    assert type(after) is list
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(before, after, strict=True))
    again = TextAdapter.from_pretrained(tmp_path / "back_adapter", torch_dtype=torch.float16)
    assert all(torch.equal(v, adapter.state_dict()[k]) for k, v in again.state_dict().items())


def test_the_matrices_end_up_where_they_belong(tmp_path: Path, base: str) -> None:
    """Each layer computes W x + up(down(x)), here applied by hand with the list's own matrices."""
    unet = _unet(WIDTH)
    made = matrices(unet, 3)
    torch.save(made, tmp_path / "x.pt")
    import_checkpoint_of(unet, tmp_path / "x.pt", tmp_path / "lora")
    lora.load(unet, tmp_path / "lora")
    generator = torch.Generator().manual_seed(1)
    for i, (name, layer) in enumerate(lora.target_layers(_unet(WIDTH)).items()):
        up, down = (m.float() for m in made[2 * i : 2 * i + 2])
        if isinstance(layer, nn.Conv2d):
            x = torch.randn(1, layer.in_channels, 5, 5, generator=generator)
            extra = nn.functional.conv2d(nn.functional.conv2d(x, down, None, layer.stride, layer.padding), up)
        else:
            x = torch.randn(2, layer.in_features, generator=generator)
            extra = x @ down.T @ up.T
        with torch.no_grad():
            assert torch.allclose(unet.get_submodule(name)(x), layer(x) + extra, atol=1e-5), name
    export_lora(tmp_path / "lora", tmp_path / "y.pt", base=base)
    assert all(
        torch.equal(a, b) for a, b in zip(made, torch.load(tmp_path / "y.pt", weights_only=True), strict=True)
    )


def import_checkpoint_of(unet: nn.Module, path: Path, folder: Path) -> None:
    """What `import_checkpoint` does with a base, here with a model that is no whole pipeline."""
    LoraFile(longsd.read(path, unet), base=fingerprint(unet, "tiny")).write(folder)


def test_import_for_a_base_with_stages(tmp_path: Path) -> None:
    """On the embedded model: an SFT LoRA, and one that was trained after that was merged."""
    pipe_unet = longsd.unet_shapes("stickers")
    for seed, name in enumerate(("sft", "rft")):
        torch.save(matrices(pipe_unet, 2, seed), tmp_path / f"{name}.pt")
    done = import_checkpoint(tmp_path / "sft.pt", tmp_path / "sft", base="stickers")
    assert done.facts["base"].startswith("stickers (")
    done = import_checkpoint(tmp_path / "rft.pt", tmp_path / "rft", base="stickers", after=[tmp_path / "sft"])
    assert done.facts["base"].startswith("stickers + sft (")
    from longalign.weights.stack import (
        load_pipeline,
    )

    unet = load_pipeline("stickers", device="cpu").unet
    with pytest.raises(
        LongalignError, match=r"belongs to the base stickers \+ sft \(.* this model is stickers \("
    ):
        lora.load(unet, tmp_path / "rft", base_name="stickers")
    lora.load(unet, tmp_path / "sft")
    lora.merge(unet)
    lora.load(unet, tmp_path / "rft")


def test_a_scale_goes_into_up(tmp_path: Path, base: str) -> None:
    """alpha 8 at rank 2 is scale 4: the list has 4 · up, and the same down."""
    unet = _unet(WIDTH)
    pairs = longsd.from_list(matrices(unet), unet)
    LoraFile(pairs, alpha=8).write(tmp_path / "lora")
    export_lora(tmp_path / "lora", tmp_path / "x.pt", base=base)
    up, down = torch.load(tmp_path / "x.pt", weights_only=True)[:2]
    first = next(iter(pairs.values()))
    assert torch.equal(up, 4 * first.up) and torch.equal(down, first.down)


def test_what_the_list_cannot_hold_is_not_exported(tmp_path: Path, base: str) -> None:
    unet = _unet(WIDTH)
    pairs = longsd.from_list(matrices(unet), unet)
    first = next(iter(pairs))
    LoraFile(pairs).write(tmp_path / "lora")
    with pytest.raises(
        LongalignError, match=r"its layers are not those of the UNet \(it lacks .*Name its base"
    ):
        export_lora(tmp_path / "lora", tmp_path / "x.pt")
    LoraFile({k: v for k, v in pairs.items() if k != first}).write(tmp_path / "part")
    with pytest.raises(LongalignError, match=f"it lacks {first}"):
        export_lora(tmp_path / "part", tmp_path / "x.pt", base=base)
    large = Pair(torch.full_like(pairs[first].up, 7e4, dtype=torch.float32), pairs[first].down)
    LoraFile({**pairs, first: large}).write(tmp_path / "large")
    with pytest.raises(LongalignError, match=f"{first} has numbers that float16 does not hold"):
        export_lora(tmp_path / "large", tmp_path / "x.pt", base=base)
    with pytest.raises(LongalignError, match=r"is a \.safetensors file: give --out such a name"):
        export_lora(tmp_path / "lora", tmp_path / "x.pt", form="kohya")
    with pytest.raises(LongalignError, match="holds no pytorch_lora_weights"):
        export_lora(tmp_path, tmp_path / "x.pt")
    with pytest.raises(LongalignError, match="there is no such model folder"):
        export_lora(tmp_path / "lora", tmp_path / "x.pt", base=str(tmp_path / "nothing"))
    assert not (tmp_path / "x.pt").exists()


def test_lists_that_do_not_fit(sd15: nn.Module) -> None:
    made = matrices(sd15)

    def refused(matrices: Any, match: str) -> None:
        with pytest.raises(LongalignError, match=match):
            longsd.from_list(matrices, sd15, "x.pt")

    refused(made[:-1], "x.pt: an odd number of matrices, 447: up and down come in pairs")
    refused(made[:-2], "x.pt: 223 layers, and the UNet has 224: is it another model's")
    refused([made[1], made[0], *made[2:]],
            rf"layer 0, {FIRST}, with weight \(320, 320\): up \(2, 320\) and down \(320, 2\) do not fit")  # fmt: skip
    refused([*made[:-1], made[-1][:, :1]], r"layer 223, mid_block\.resnets\.1\.conv2, .* down \(2, 1, 3, 3\)")
    other = [torch.zeros(320, 3).half(), torch.zeros(3, 320).half()]
    refused([*made[:2], *other, *made[4:]], "attn1.to_k has rank 3, others 2")
    refused({"state": 1}, "holds no list of LoRA matrices")
    refused([1, 2], "holds no list of LoRA matrices")


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize(
    ("make", "named"),
    [(lambda mark: Evil(mark), r"posix\.system"), (lambda mark: eval, "eval"),
     (lambda mark: nn.Embedding(2, 2), r"torch\.nn\.modules\.sparse\.Embedding"),
     (lambda mark: collections.ChainMap(), r"collections\.ChainMap")],
)  # fmt: skip
def test_a_pickle_with_code_is_refused_and_the_code_named(tmp_path: Path, make: Any, named: str) -> None:
    torch.save([torch.ones(2), make(tmp_path / "it-ran")], tmp_path / "bad.pt")
    with pytest.raises(LongalignError, match=rf"bad\.pt: refused, since this pickle names {named} "):
        import_checkpoint(tmp_path / "bad.pt", tmp_path / "out")
    assert not (tmp_path / "it-ran").exists() and not (tmp_path / "out").exists()


def test_classes_on_the_list_and_no_others(tmp_path: Path) -> None:
    torch.save(nn.Embedding(2, 3), tmp_path / "table.pt")
    assert read_pickle(tmp_path / "table.pt", allow=(nn.Embedding,)).weight.shape == (2, 3)
    with pytest.raises(LongalignError, match="refused"):  # allowed for that one call
        read_pickle(tmp_path / "table.pt")


def test_damaged_and_unknown_files(listed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refused(source: Path, match: str, **settings: Any) -> None:
        with pytest.raises(LongalignError, match=match):
            import_checkpoint(source, out, **settings)
        assert not out.exists()

    data = listed.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "cut.pt", r"cut\.pt: is damaged, or is not a torch checkpoint")
    refused(tmp_path / "none.pt", "no such file or folder")
    (tmp_path / "x.onnx").write_bytes(b"?")
    refused(tmp_path / "x.onnx", "unknown format. What can be imported: a .pt list")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "unknown format")
    (tmp_path / "two").mkdir()
    for name in ("a.pt", "b.pt"):
        (tmp_path / "two" / name).symlink_to(listed)
    refused(tmp_path / "two", r"holds a\.pt, b\.pt: name one of the files")
    refused(listed, "need the name of their base", after=[tmp_path])
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, r"config\.json: cannot be read")
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(LongalignError, match="exists and is not an empty folder"):
        import_checkpoint(listed, out)
    assert [p.name for p in out.iterdir()] == ["mine"]


def test_a_full_disk(listed: Path, tmp_path: Path) -> None:
    """Importing leaves no folder, exporting no file."""
    with file_limit(100_000), pytest.raises(LongalignError, match="Cannot write"):
        import_checkpoint(listed, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    import_checkpoint(listed, tmp_path / "out")
    with file_limit(100_000), pytest.raises(LongalignError, match="Cannot write"):
        export_lora(tmp_path / "out", tmp_path / "x.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("pickled", [False, True])
def test_an_adapter_folder(tmp_path: Path, pickled: bool) -> None:
    adapter = TextAdapter(6, 7, 8)
    adapter.save_pretrained(tmp_path / "s28750_adapter", safe_serialization=not pickled)
    done = import_checkpoint(tmp_path / "s28750_adapter", tmp_path / "out")
    assert done.kind == "adapter" and done.facts == {"adapter": [6, 7, 8]}
    again = TextAdapter.from_pretrained(tmp_path / "out")
    assert all(torch.equal(v, adapter.state_dict()[k]) for k, v in again.state_dict().items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, "int_dim": 9}))
    with pytest.raises(
        LongalignError, match=r"weights have 'ff1.net.0.proj.weight'|have 'ff1.net.2.weight' of"
    ):
        import_checkpoint(tmp_path / "out", tmp_path / "again")
    with pytest.raises(LongalignError, match="only a LoRA has a base"):
        import_checkpoint(tmp_path / "s28750_adapter", tmp_path / "again", base="stickers")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_clip_folder_is_checked_and_loses_its_pickle(tmp_path: Path, pickled: bool) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "denscore")
    weights = load_file(tmp_path / "denscore" / "model.safetensors")
    if pickled:  # older versions of transformers saved positions, too
        (tmp_path / "denscore" / "model.safetensors").unlink()
        weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        torch.save(weights, tmp_path / "denscore" / "pytorch_model.bin")
    done = import_checkpoint(tmp_path / "denscore", tmp_path / "out")
    assert done.kind == "clip" and done.facts["pickled"] is pickled
    assert not list((tmp_path / "out").glob("*.bin"))
    found, texts = PreferenceModel.from_pretrained(tmp_path / "out", device="cpu"), ["A fox."]
    assert torch.allclose(found.text(texts), model.text(texts), atol=1e-6)
    config = json.loads((tmp_path / "denscore" / "config.json").read_text())
    (tmp_path / "denscore" / "config.json").write_text(json.dumps({**config, "projection_dim": 5}))
    with pytest.raises(
        LongalignError, match=r"weights have '\w*_projection.weight' of shape \(24, \d+\), not \(5,"
    ):
        import_checkpoint(tmp_path / "denscore", tmp_path / "again")


def test_softrepas_tokens(tmp_path: Path) -> None:
    """A pickled Parameter, and a pickled embedding; the second need not be there."""
    tokens, table = nn.Parameter(torch.randn(4, 768)), nn.Embedding(100, 768)
    folder = tmp_path / "softrepa"
    folder.mkdir()
    torch.save(tokens, folder / "dc_tokens.pth")
    assert import_checkpoint(folder, tmp_path / "alone").facts["time buckets"] is None
    torch.save(table, folder / "dc_t_tokens.pth")
    done = import_checkpoint(folder / "dc_tokens.pth", tmp_path / "both")
    assert done.kind == "soft-tokens" and done.facts == {
        "backbone": "sd15", "tokens": [1, 4, 768], "time buckets": 100, "parameters": 79_872
    }  # fmt: skip
    found = SoftTokens.from_pretrained(tmp_path / "both")
    assert torch.equal(found.tokens[0], tokens) and found.time is not None
    assert torch.equal(found.time[:, 0], table.weight) and found.config.stages == ("down",)
    torch.save(torch.ones(3), folder / "dc_t_tokens.pth")
    with pytest.raises(LongalignError, match="holds no table of time buckets"):
        import_checkpoint(folder, tmp_path / "bad")
    torch.save([Evil(tmp_path / "it-ran")], folder / "dc_tokens.pth")
    with pytest.raises(LongalignError, match=r"names posix\.system"):
        import_checkpoint(folder, tmp_path / "bad")


def test_the_commands(listed: Path, tmp_path: Path) -> None:
    """`import` and `export`, for people and for machines."""

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    shown = json.loads(run("import", listed, "--out", tmp_path / "long", "--json"))
    written = ("README.md", "longalign.json", FILE_NAME)
    assert shown["layers"] == 224 and shown["files"] == [str(tmp_path / "long" / name) for name in written]
    shown = run("export", tmp_path / "long", "--format", "longsd", "--out", tmp_path / "x.pt")
    assert shown.splitlines() == ["longsd: layers 224, rank 2", f"  {tmp_path / 'x.pt'}"]
    with pytest.raises(LongalignError, match="format 'x' is unknown"):
        run("export", tmp_path / "long", "--format", "x", "--out", tmp_path / "x.pt")
    assert all("Example" in run(command, "--help") for command in ("import", "export"))
