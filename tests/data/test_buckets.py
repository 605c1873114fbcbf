"""Aspect-ratio buckets: their arithmetic by hand, and what becomes of pictures that fit none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from captioned_files import Some, png
from framed_pictures import SIZES, Framed
from PIL import Image

from longalign.backbones import backbone_named
from longalign.backbones.sd import empty_unet
from longalign.data.buckets import Assignment, Buckets, Frame, cover, grouped, size_of
from longalign.data.captioned import CaptionedPictures
from longalign.data.entries import CaptionedPicture, Failure
from longalign.diffusion.denoiser import Denoiser
from longalign.errors import LongalignError


def test_the_sizes_of_sd15_by_hand() -> None:
    """512² = 262,144 px. 256 high: 1024 wide; 320: 819, so 768; 384: 682, so 640; 448: 585, so 576. 960, 896 and 832
    wide: 273, 292 and 315 high, so 256; 704 wide: 372, so 320. And the same the other way round.
    """
    wide = [(256, 1024), (256, 960), (256, 896), (256, 832), (320, 768), (320, 704), (384, 640), (448, 576)]
    found = Buckets(512, 64).sizes
    assert list(found) == [*wide, (512, 512), *((w, h) for h, w in reversed(wide))]


def test_the_sizes_of_sdxl_are_those_of_its_paper() -> None:
    """Appendix I, with the largest only of each side: area within a tenth of 1024², sides from 512 to 2048."""
    found = set(Buckets(1024, 64).sizes)
    assert {
        (512, 2048),
        (640, 1536),
        (768, 1344),
        (832, 1216),
        (896, 1152),
        (1024, 1024),
        (1216, 832),
    } <= found
    assert all(0.87 * 1024**2 < h * w <= 1024**2 and min(h, w) >= 512 for h, w in found)
    assert found == {(w, h) for h, w in found}


def test_sides_that_a_model_cannot_take_are_left_out() -> None:
    """At most 640 px: 256 high would be 1024 wide, and is 640; 320 the same; nothing is longer."""
    assert Buckets(512, 64, 640).sizes[:4] == ((256, 640), (320, 640), (384, 640), (448, 576))


def test_the_step_suits_the_model() -> None:
    """SD1.5's UNet halves its latents three times: multiples of 8 · 2³ = 64. The tiny one: 2 · 2 = 4 px, of 32 / 8."""
    sd15: Any = SimpleNamespace(backbone=backbone_named("sd15"), module=empty_unet(), vae_factor=8)
    assert Buckets.of(sd15, 512) == Buckets(512, 64) and Buckets.of(sd15, 768, 128).step_px == 128
    with pytest.raises(
        LongalignError, match=r"bucket_step_px 100: .* are multiples of 64: take 128, or leave"
    ):
        Buckets.of(sd15, 512, 100)
    small = Denoiser.of(tiny.tiny_sd15())
    assert small.backbone.sizes_px(small.module, small.vae_factor) == (4, None)
    assert Buckets.of(small, 32) == Buckets(32, 4)
    assert Buckets.of(small, 96) == Buckets(96, 12)


def test_the_nearest_bucket_and_the_frame_by_hand() -> None:
    """1000 × 1500 is as 1 : 1.5. ln(640/384) − ln 1.5 = 0.105 and ln 1.5 − ln(576/448) = 0.154, so 384 × 640.

    It covers that at the scale 640/1500, where it is 426.7 px high: 21 px are cut off above, and below.
    """
    buckets = Buckets(512, 64)
    assert buckets.nearest((1000, 1500)) == (384, 640) and buckets.nearest((1500, 1000)) == (640, 384)
    assert buckets.nearest((500, 520)) == (512, 512)
    assert buckets.nearest((10, 900)) == (256, 1024) and buckets.nearest((900, 10)) == (1024, 256)
    assert Frame.of((1000, 1500), (384, 640)) == (1000, 1500, 21, 0)
    assert Frame.of((1000, 1500), (512, 512)) == (1000, 1500, 0, 128)  # 768 wide, so (768 − 512) / 2


def test_a_picture_covers_its_bucket() -> None:
    """6 px high, 12 wide, with 3 red columns at the left; to 4 × 4: the middle 6, where no red is. To 4 × 8: all."""
    image = Image.new("RGB", (12, 6), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 3, 6))
    assert cover(image, (4, 4))[0].max() < 20  # Lanczos rings a little
    found = cover(image, (4, 8))
    assert found.shape == (3, 4, 8) and found[0, :, 0].min() > 240 and found[0, :, 4:].max() < 20


def test_sizes_are_read_from_headers(tmp_path: Path) -> None:
    """A JPEG that its EXIF tag turns (6: by a quarter), a PNG of which the pixels are missing, and no picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    turned = CaptionedPicture(tmp_path / "turned.jpg", "x", "x")
    assert size_of(turned) == (30, 20) and turned.picture().size == (20, 30)
    assert size_of(CaptionedPicture(png((1, 2, 3), (40, 50))[:60], "x", "x")) == (50, 40)
    assert size_of(CaptionedPicture(b"no picture", "x", "x")) is None
    assert size_of(CaptionedPicture(tmp_path / "none.png", "x", "x")) is None
    assert size_of(Failure("x", "why")) is None
    assert size_of(CaptionedPicture(Image.new("L", (7, 9)), "x", "x")) == (9, 7)


def test_rows_are_assigned_and_counted() -> None:
    """Side 32, step 8. Heights × widths 64 × 64, 20 × 50, 30 × 300, unreadable, 60 × 36.

    They go to 32 × 32, 16 × 40…: ln 2.5 lies between 16 × 48 (3) and 24 × 40 (1.67) and nearer to 3. 30 × 300 is longer
    than 16 × 64. The unreadable row has the bucket of the next. None but 20 × 50 is smaller than its bucket? It covers
    16 × 48 at 0.96, so not even that; a sixth of 12 × 12 is.
    """
    sizes = [(64, 64), (20, 50), (30, 300), None, (60, 36), (12, 12)]

    class Mixed(Some):
        def __getitem__(self, index: int) -> CaptionedPicture | Failure:
            size = sizes[index]
            if size is None:
                return CaptionedPicture(b"no picture", "x", "x")
            return CaptionedPicture(png((0, 0, 0), size[::-1]), "x", "x")

    found = Assignment.of(Mixed(len(sizes)), Buckets(32, 8))
    assert [found.size(i) for i in range(6)] == [(32, 32), (16, 48), (16, 64), (40, 24), (40, 24), (32, 32)]
    assert (found.enlarged, found.beyond) == (1, 1)
    assert str(found) == (
        "6 pictures in 4 buckets (height × width 40 × 24 to 16 × 64 px); 1 smaller than the bucket and enlarged; "
        "1 longer than every bucket and cropped at both ends"
    )
    nothing = Assignment.of(Some(2, frozenset({0, 1})), Buckets(32, 8))
    assert str(nothing) == "2 pictures in 1 bucket (height × width 32 × 32 px)"


def test_rows_have_the_size_of_their_bucket_and_know_their_frame() -> None:
    source = Framed(6)
    data = CaptionedPictures(source, 32, "x", Assignment.of(source, Buckets(32, 8)))
    assert [tuple(data[i].image.shape[1:]) for i in range(3)] == [(32, 32), (24, 40), (40, 24)]
    assert [data[i].frame for i in range(3)] == [(*SIZES[0], 0, 0), (*SIZES[1], 3, 0), (*SIZES[2], 0, 0)]
    squares = CaptionedPictures(source, 32)
    assert squares.bucket_of is None and squares[1].image.shape == (3, 32, 32)
    assert squares[1].frame == (*SIZES[1], 0, 5)  # 32 high, 42.7 wide


def test_a_bad_row_is_replaced_by_one_of_its_bucket() -> None:
    """Rows 0, 3, 6 … are square, 1, 4, 7 … wide, 2, 5, 8 … high. Bad: 1, so 4 comes for it. With 4, 7 and 10 bad too
    no wide one is left, and the next row of another bucket, 2, is cut to the wide one's size.
    """

    class Damaged(Framed):
        def __getitem__(self, index: int) -> Any:
            found = super().__getitem__(index)
            if index not in self.bad:
                return found
            return CaptionedPicture(found.image[:60], found.text, found.name)  # the header is whole

    def row(bad: set[int]) -> Any:
        source = Damaged(12, frozenset(bad))
        return CaptionedPictures(source, 32, "x", Assignment.of(source, Buckets(32, 8)))[1]

    assert row({1}).text == Framed(12)[4].text and [f.name for f in row({1}).skipped] == ["row 1"]  # type: ignore[union-attr]
    last = row({1, 4, 7, 10})
    assert last.text == Framed(12)[2].text and last.image.shape == (3, 24, 40)  # type: ignore[union-attr]
    assert [f.name for f in last.skipped] == ["row 1", "row 4", "row 7", "row 10"]


def test_groups_of_one_bucket() -> None:
    assert grouped(np.array([5, 1, 5, 1]), [3, 2, 0]) == [[3], [2, 0]]
    assert grouped(None, range(3)) == [[0, 1, 2]] and grouped(None, []) == []


def test_stickers_have_no_buckets() -> None:
    """Their scenes are square, so nothing is drawn in search of a size."""
    from longalign.data.sources import named_source
    from longalign.objectives.pictures.loading import load_pictures
    from longalign.objectives.pictures.settings import PictureDataSettings

    assert named_source("stickers", count=3).square
    settings = PictureDataSettings(count=3)
    data = load_pictures("stickers", settings, 96, Buckets(96, 32), split="train", seed=0)
    assert data.bucket_of is None and torch.equal(data[0].image, CaptionedPictures(data.source, 96)[0].image)  # type: ignore[union-attr]


def test_files_have_buckets_unless_they_are_turned_off(tmp_path: Path) -> None:
    from longalign.objectives.pictures.loading import load_pictures
    from longalign.objectives.pictures.settings import PictureDataSettings

    for i, (height, width) in enumerate(SIZES):
        Image.new("RGB", (width, height)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("A picture.")
    settings = PictureDataSettings(pictures=str(tmp_path))
    assert settings.buckets and settings.bucket_step_px is None and not settings.flip
    data = load_pictures(str(tmp_path), settings, 32, Buckets(32, 8), split="train", seed=0)
    assert data.bucket_of is not None and len(set(data.bucket_of.tolist())) == 3
    assert load_pictures(str(tmp_path), settings, 32, None, split="train", seed=0).bucket_of is None
