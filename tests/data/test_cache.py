"""The cache of latents and text states: the same training as live data, and nothing computed twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from captioned_files import Some, imagefolder_jsonl, png
from framed_pictures import BUCKETS, Framed, framed
from safetensors import safe_open
from safetensors.torch import save_file
from small_cache import LENGTH, SIDE_PX, Long, builder
from typer.testing import CliRunner

from longalign.backbones.latents import encode_pixels
from longalign.cli.main import app
from longalign.data.buckets import Buckets
from longalign.data.cache import CacheBuilder, CacheReport
from longalign.data.cached import CachedPictures
from longalign.data.captioned import CaptionedPictures
from longalign.data.entries import CaptionedPicture
from longalign.data.row_encoder import digest
from longalign.data.text_states import TextSide, join
from longalign.diffusion.denoiser import Denoiser
from longalign.errors import LongalignError
from longalign.weights.fingerprint import fingerprint

# The rows of caches before there were buckets.
OLD_ROW = [
    ("row", "<i8"),
    ("picture", "S32"),
    ("picture_shard", "<u4"),
    ("text", "S32"),
    ("text_shard", "<u4"),
]
OLD_ROW += [("clip", "<u4"), ("sd3_t5", "<u4"), ("t5", "<u4"), ("cut", "?"), ("bytes", "<u4")]


def counts(report: CacheReport) -> tuple[int, int, int, int]:
    return report.rows, report.skipped, report.latents, report.texts


@pytest.mark.parametrize("strategy", ["clip-cat", "plain", "clip+t5"])
def test_float32_gives_back_what_was_computed(strategy: str, tmp_path: Path) -> None:
    """The whole in one shard, so that the encoders ran on the same batches: equal bit for bit."""
    pipe, t5 = tiny.tiny_sd15(), tiny.t5_branch() if "t5" in strategy else None
    source = Long(5)
    builder(tmp_path / "c", pipe, strategy, t5, at_once=5).build(source)
    cached, live = CachedPictures(tmp_path / "c"), CaptionedPictures(source, SIDE_PX)
    side = TextSide(pipe, strategy, LENGTH, t5)
    states = side.encode([live[i].text for i in range(5)])
    adapter = t5.adapter if t5 else None
    for (a, c), (b, d) in zip(
        join([cached[i].text for i in range(5)], cached.padding, adapter),
        join(states, side.padding, adapter),
        strict=True,
    ):
        assert a == b
        assert torch.equal(c.embeds, d.embeds) and torch.equal(c.negative_embeds, d.negative_embeds)
    latents = encode_pixels(pipe.vae, torch.stack([live[i].image for i in range(5)]))
    assert torch.equal(torch.stack([cached[i].image for i in range(5)]), latents)


def test_sdxl_keeps_pooled_vectors_and_zeros(tmp_path: Path) -> None:
    pipe = tiny.tiny_sdxl()
    builder(tmp_path / "c", pipe, at_once=8).build(Long(2))
    cached = CachedPictures(tmp_path / "c")
    [(_, short), (_, long)] = join([cached[0].text, cached[1].text], cached.padding, drop=[True, False])
    assert short.pooled is not None and not short.pooled.any() and not short.embeds.any()
    assert long.pooled is not None and long.pooled.shape == (1, 24) and long.pooled.any()


def test_latents_are_the_inverse_of_decoding() -> None:
    """(z − shift) · scale, which `Denoiser.decode` takes back."""
    pipe = tiny.tiny_sd15()
    pipe.vae.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    pixels = torch.rand(2, 3, 16, 16)
    latents = encode_pixels(pipe.vae, pixels)
    with torch.no_grad():
        z = pipe.vae.encode(2 * pixels - 1).latent_dist.mode()
        torch.testing.assert_close(latents, (z - 0.25) * 0.5)
        expected = (pipe.vae.decode(z).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(Denoiser.of(pipe).decode(latents), expected)
    eight_bits = (255 * pixels).round().byte()
    torch.testing.assert_close(encode_pixels(pipe.vae, eight_bits), encode_pixels(pipe.vae, eight_bits / 255))


def test_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    """8 rows, 8 pictures, 4 captions, in blocks of three rows, which have 3, 3 and 2 captions.

    Then a caption and a picture change, then the text encoder, then the VAE.
    """
    out, pipe = tmp_path / "c", tiny.tiny_sd15()
    assert counts(builder(out, pipe).build(Long(8))) == (8, 0, 8, 8)
    assert counts(builder(out, pipe).build(Long(8))) == (8, 0, 0, 0)

    class Changed(Long):
        def __getitem__(self, index: int) -> Any:
            found = super().__getitem__(index)
            if index == 5:
                return CaptionedPicture(found.image, "Another caption.", found.name)
            return (
                CaptionedPicture(super().__getitem__(100).image, found.text, found.name)
                if index == 6
                else found
            )

    assert counts(builder(out, pipe).build(Changed(8))) == (8, 0, 1, 1)
    cached = CachedPictures(out)
    assert len(cached) == 8 and not torch.equal(cached[6].image, cached[7].image)
    with torch.no_grad():
        next(iter(pipe.text_encoder.parameters()))[5, 0] += 1
    assert counts(builder(out, pipe).build(Long(8))) == (8, 0, 0, 8)
    with torch.no_grad():
        next(iter(pipe.vae.encoder.parameters())).mul_(1.1)
    assert counts(builder(out, pipe).build(Long(8))) == (8, 0, 8, 0)
    assert counts(builder(out, pipe, stored="bfloat16").build(Long(8))) == (8, 0, 8, 8)


def test_an_interrupted_cache_goes_on(tmp_path: Path) -> None:
    """Three rows a shard; broken off in row 7, so that six are done. An incomplete cache trains nothing."""
    out, pipe = tmp_path / "c", tiny.tiny_sd15()

    class Breaks(Long):
        def __getitem__(self, index: int) -> Any:
            if index == 7:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        builder(out, pipe).build(Breaks(8))
    with pytest.raises(LongalignError, match="not complete"):
        CachedPictures(out)
    assert counts(builder(out, pipe).build(Long(8))) == (8, 0, 2, 2)
    whole = tmp_path / "whole"
    builder(whole, pipe).build(Long(8))
    for i in range(8):
        assert torch.equal(CachedPictures(out)[i].image, CachedPictures(whole)[i].image)
        assert torch.equal(CachedPictures(out)[i].text.own, CachedPictures(whole)[i].text.own)


def test_bad_rows_are_left_out_and_listed(tmp_path: Path) -> None:
    """One of 40 is corrupt and one empty: 5 %, no more. With a third it stops."""
    out, pipe = tmp_path / "c", tiny.tiny_sd15()
    report = builder(out, pipe, at_once=40).build(Some(40, frozenset({3}), frozenset({7})))
    assert (report.rows, report.skipped) == (38, 2)
    names = [json.loads(line)["name"] for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert names == ["row 3", "row 7"]
    assert CachedPictures(out).rows["row"].tolist() == [i for i in range(40) if i not in (3, 7)]
    with pytest.raises(LongalignError, match="3 of 40 rows cannot be used"):
        builder(tmp_path / "d", pipe, at_once=40).build(Some(40, frozenset({3, 4}), frozenset({7})))


def test_bytes_are_counted(tmp_path: Path) -> None:
    """A caption with 4 states of width 32 in bfloat16: 256 bytes; 24 padded ones: 1,536. 8 × 8 × 4 latents: 512."""

    class Trees(Some):
        def __getitem__(self, index: int) -> Any:
            return CaptionedPicture(super().__getitem__(index).image, "A tree.", "x")  # type: ignore[union-attr]

    report = builder(tmp_path / "c", tiny.tiny_sd15(), stored="bfloat16").build(Trees(2))
    assert (report.text_bytes, report.padded_text_bytes, report.latent_bytes) == (
        4 * 64,
        24 * 64,
        8 * 8 * 4 * 2,
    )
    found = CachedPictures(tmp_path / "c")[0]
    assert found.image.dtype == torch.bfloat16 and found.image.shape == (4, 8, 8)


def test_a_cache_of_something_else_is_refused(tmp_path: Path) -> None:
    out, pipe = tmp_path / "c", tiny.tiny_sd15()
    builder(out, pipe).build(Long(2))
    cached, side = CachedPictures(out), TextSide(pipe, "clip-cat", LENGTH)
    cached.check(pipe.vae, side, SIDE_PX)
    with pytest.raises(LongalignError, match="made with size_px 16, and 32 is wanted"):
        cached.check(pipe.vae, side, 32)
    with pytest.raises(LongalignError, match="made with strategy"):
        cached.check(pipe.vae, TextSide(pipe, "plain", LENGTH), SIDE_PX)
    with torch.no_grad():
        for p in pipe.text_encoder.parameters():
            p.mul_(1.5)
    with pytest.raises(LongalignError, match="another CLIPTextModel"):
        cached.check(pipe.vae, side, SIDE_PX)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(LongalignError, match="already holds files, and no cache"):
        builder(tmp_path / "other", pipe)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    out, pipe = tmp_path / "c", tiny.tiny_sd15()
    builder(out, pipe).build(Long(4))
    shard = out / "latents" / "00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(
        LongalignError, match=r"00000\.safetensors: cannot be read .* run longalign cache again"
    ):
        CachedPictures(out)[0]
    with pytest.raises(LongalignError, match=r"00000\.safetensors: is no shard of a cache, or a damaged one"):
        builder(out, pipe)
    shard.unlink()
    assert counts(builder(out, pipe).build(Long(4))) == (4, 0, 3, 0)
    np.save(out / "rows.npy", np.zeros(3))
    with pytest.raises(LongalignError, match="cannot be read as a cache"):
        CachedPictures(out)


def framed_cache(
    out: Path, pipe: Any, buckets: Buckets | None = BUCKETS, stored: str = "float32"
) -> CacheBuilder:
    side = TextSide(pipe, "clip-cat", LENGTH)
    return CacheBuilder(out, pipe, side, 32, buckets=buckets, stored=stored)


def test_a_cache_keeps_buckets_and_frames(tmp_path: Path) -> None:
    """As live: latents bit for bit where the VAE saw the same batch, numbers of buckets up to their names, frames."""
    pipe, live = tiny.tiny_sd15(), framed(6)
    report = framed_cache(tmp_path / "c", pipe).build(Framed(6))
    # Two each of 16², 12 · 20 and 20 · 12 latents of 4 channels: (256 + 240 + 240) / 3 · 4 · 4 bytes.
    assert report.latent_bytes == round(736 / 3 * 16) and report.latents == 6
    assert report.buckets == "6 pictures in 3 buckets (height × width 40 × 24 to 24 × 40 px)"
    cached = CachedPictures(tmp_path / "c")
    assert cached.settings["bucket_step_px"] == 8
    assert cached.bucket_of is not None and cached.bucket_of.tolist() == [1, 0, 2] * 2
    for i in range(6):
        assert cached[i].frame == live[i].frame is not None
    pairs = torch.stack([live[i].image for i in (1, 4)])
    assert torch.equal(torch.stack([cached[i].image for i in (1, 4)]), encode_pixels(pipe.vae, pairs))


def test_an_old_cache_is_read_as_squares_and_goes_on_with_buckets(tmp_path: Path) -> None:
    """Its rows have neither buckets nor frames. The same command again computes the four that are not square."""
    out, pipe = tmp_path / "c", tiny.tiny_sd15()
    assert framed_cache(out, pipe, None).build(Framed(6)).buckets is None
    square = CachedPictures(out)[3].image
    rows = np.load(out / "rows.npy")
    # The key of a square picture is what it was before there were buckets, so that old latents are found.
    made_by = f"rgb on white, shorter side by Lanczos, centre 32 float32 {fingerprint(pipe.vae).sha256}"
    content = Framed(6)[0].content()  # type: ignore[union-attr]
    assert rows["picture"][0].decode() == digest(digest(made_by.encode()).encode(), content)
    np.save(
        out / "rows.npy", rows[[n for n in rows.dtype.names if n not in ("bucket", "frame")]].astype(OLD_ROW)
    )
    settings = json.loads((out / "cache.json").read_text())
    del settings["bucket_step_px"]
    (out / "cache.json").write_text(json.dumps({**settings, "version": 1}))
    with safe_open(out / "padding.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        notes = json.loads(file.metadata()["notes"])
    save_file(tensors, out / "padding.safetensors", notes)  # several notes, as earlier versions wrote them
    old = CachedPictures(out)
    assert old.bucket_of is None and old[1].frame is None and old[1].image.shape == (4, 16, 16)
    assert counts(framed_cache(out, pipe).build(Framed(6))) == (6, 0, 4, 0)
    assert torch.equal(CachedPictures(out)[3].image, square) and CachedPictures(out)[1].image.shape == (
        4,
        12,
        20,
    )
    assert counts(framed_cache(out, pipe).build(Framed(6))) == (6, 0, 0, 0)
    assert CachedPictures(out)[1].frame == (45, 60, 3, 0)  # from the header alone, since nothing was decoded


def test_the_command(tmp_path: Path) -> None:
    """On the embedded model; 96 px, clip-cat at its own 77 tokens."""
    data = imagefolder_jsonl(tmp_path / "data")
    arguments = ["cache", str(data), "--out", str(tmp_path / "c"), "--device", "cpu", "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and json.loads(done.stdout)["latents"] == 3
    cached = CachedPictures(tmp_path / "c")
    assert cached[0].image.shape == (8, 6, 6) and cached[0].text.own_shape == (77, 0)


def test_the_command_keeps_shapes_unless_told_otherwise(tmp_path: Path) -> None:
    """Pictures of 64 × 96 px, for a model of 96 px in steps of 32: 64 × 128, so 8 × 4 · 8 latents of 16 px each."""
    for i in range(2):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{i}.png").write_bytes(png((i, 0, 0), (96, 64)))
        (tmp_path / "data" / f"{i}.txt").write_text("A fox is in the middle.")

    def run(*more: str) -> str:
        arguments = ["cache", str(tmp_path / "data"), "--device", "cpu", *more]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    said = run("--out", str(tmp_path / "c"))
    assert (
        "2 pictures in 1 bucket (height × width 64 × 128 px); 2 smaller than the bucket and enlarged" in said
    )
    assert CachedPictures(tmp_path / "c")[0].image.shape == (8, 4, 8)
    assert "bucket" not in run("--out", str(tmp_path / "d"), "--no-buckets")
    assert CachedPictures(tmp_path / "d")[0].image.shape == (8, 6, 6)
