"""Pixels → model input as Pillow makes it, differentiable; and image files of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from longalign.errors import LongalignError
from longalign.preference import Preprocess, crop, load_image, to_pixels
from longalign.preference.preprocess import resize
from longalign.stickers.world import render, scene

SIZES = [(40, 40), (100, 37), (37, 101), (32, 32), (32, 57), (9, 14), (200, 201)]


def picture(width: int, height: int, kind: str = "noise") -> Image.Image:
    """Noise of black and white overshoots most; a sticker scene has flat areas and hard edges."""
    if kind == "scene":
        return render(scene(3)).resize((width, height), Image.Resampling.NEAREST)
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(255 * rng.integers(0, 2, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["noise", "scene"])
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(
    "config",
    [
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        {"size": 36, "crop_size": 32, "resample": 2},
        {"size": {"height": 32, "width": 32}, "do_center_crop": False, "do_normalize": False},
    ],
)
def test_agrees_with_the_models_own_processor(width: int, height: int, kind: str, config: dict) -> None:
    """Within 2/255 a pixel: Pillow rounds to 8 bits after each direction."""
    if height > width and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow took the rows first then, here too")
    image = picture(width, height, kind)
    theirs = CLIPImageProcessorPil(**config)(image, return_tensors="pt")["pixel_values"]
    prepare = Preprocess.from_config(config)
    ours = prepare(to_pixels(image)[None])
    assert ours.shape == theirs.shape == (1, 3, 32, 32)
    off = (ours - theirs) * torch.tensor(prepare.std).view(3, 1, 1)
    assert off.abs().max() <= 2 / 255


def test_a_picture_of_the_right_size_is_only_normalised() -> None:
    image = picture(32, 32)
    prepare = Preprocess(32, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert torch.equal(prepare(to_pixels(image)[None]), 2 * to_pixels(image)[None] - 1)


def test_pad_puts_the_picture_in_the_middle_of_black() -> None:
    """HPSv2.1: 64 × 32 px goes to 32 × 16, with 8 rows of 0 above and below, before normalisation."""
    prepare = Preprocess(32, "pad", mean=(0.0,) * 3, std=(1.0,) * 3)
    x = prepare(torch.ones(1, 3, 32, 64))[0]
    assert torch.allclose(x[:, 8:24], torch.ones(3, 16, 32), atol=1e-6)
    assert not x[:, :8].any() and not x[:, 24:].any()
    assert Preprocess(32, "pad")(torch.zeros(1, 3, 64, 32)).amax((-2, -1)).shape == (1, 3)
    assert prepare(torch.ones(1, 3, 1, 1000)).shape == (1, 3, 32, 32)  # a row that rounds to none stays one


def test_gradients_are_those_of_finite_differences() -> None:
    """Far from 0 and 1 nothing is cut off, so preprocessing is linear there."""
    generator = torch.Generator().manual_seed(0)
    x = 0.4 + 0.2 * torch.rand(1, 3, 7, 5, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(Preprocess(4), x.requires_grad_())


def test_bicubic_does_not_leave_the_range() -> None:
    for size in (20, 50):
        y = resize(to_pixels(picture(40, 40))[None], size, size)
        assert y.min() >= 0 and y.max() <= 1


def test_configurations_that_it_can_save_it_reads_again() -> None:
    for prepare in (Preprocess(32), Preprocess(32, "pad"), Preprocess(32, "stretch", mode="bilinear"),
                    Preprocess(32, edge_px=40, mean=(0.5,) * 3, std=(0.5,) * 3)):  # fmt: skip
        again = Preprocess.from_config(prepare.to_config())
        x = to_pixels(picture(50, 41))[None]
        assert torch.equal(again(x), prepare(x))


@pytest.mark.parametrize(
    "change",
    [
        {"resample": 1},
        {"do_resize": False},
        {"crop_size": {"height": 32, "width": 30}},
        {"size": 20, "crop_size": 32},
    ],
)
def test_configurations_that_it_cannot_follow_are_refused(change: dict) -> None:
    with pytest.raises(LongalignError, match="here: this preprocessing is none of CLIP's"):
        Preprocess.from_config({"size": 32, "crop_size": 32, **change}, "here")


@pytest.mark.parametrize("config", [{"size": "x"}, {"size": {"shortest_edge": "a"}}, {"image_mean": 3}])
def test_configurations_with_values_of_another_type_are_refused(config: dict) -> None:
    """Each ended in a traceback (AttributeError or TypeError)."""
    with pytest.raises(LongalignError, match=r"^here: is no configuration of a CLIPImageProcessor"):
        Preprocess.from_config(config, "here")


def test_what_is_no_picture_is_said_so() -> None:
    """An array has no known order of axes and no known range."""
    with pytest.raises(LongalignError, match="must be a PIL image or a file, not ndarray"):
        to_pixels(np.zeros((4, 4, 3), np.uint8))  # type: ignore[arg-type]


def test_crop_keeps_504_of_512() -> None:
    """Centred it cuts 4 off each side; at random, at most 8, the same for all images of a batch."""
    x = torch.arange(512.0).expand(2, 3, 512, 512)
    assert torch.equal(crop(x, 504 / 512), x[..., 4:508, 4:508])
    generator = torch.Generator().manual_seed(0)
    starts = [crop(x, 504 / 512, generator)[..., 0] for _ in range(30)]
    assert all(len(start.unique()) == 1 for start in starts)
    assert {int(start[0, 0, 0]) for start in starts} == set(range(9))
    with pytest.raises(LongalignError, match="between 0 and 1"):
        crop(x, 504)


def test_files_of_every_kind(tmp_path: Path) -> None:
    """An orange square, saved in eight ways; lossy and CMYK ones may be a few steps off."""
    orange = (255, 128, 0)
    rgb = Image.new("RGB", (16, 16), orange)
    saved = {
        "rgb.png": rgb,
        "palette.png": rgb.quantize(4),
        "cmyk.jpg": rgb.convert("CMYK"),
        "plain.jpg": rgb,
    }
    saved["alpha.png"] = rgb.convert("RGBA")
    saved["cmyk.tif"] = rgb.convert("CMYK")
    saved["webp.webp"] = rgb
    saved["gif.gif"] = rgb
    for name, image in saved.items():
        image.save(tmp_path / name)
        found = load_image(tmp_path / name)
        assert found.mode == "RGB" and found.size == (16, 16)
        assert np.abs(np.asarray(found, int) - orange).max() <= 3, name


def test_transparency_is_on_white(tmp_path: Path) -> None:
    """Half-transparent black on white is grey; a fully transparent colour, also of a palette, is white."""
    Image.new("RGBA", (2, 2), (0, 0, 0, 128)).save(tmp_path / "half.png")
    assert load_image(tmp_path / "half.png").getpixel((0, 0)) == (127, 127, 127)
    Image.new("LA", (2, 2), (0, 0)).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("P", (2, 2), 0).save(tmp_path / "palette.png", transparency=0)
    assert load_image(tmp_path / "palette.png").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    """32896 of 65535 is 128 of 255; 257 is 1."""
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(tmp_path / "deep.png")
    found = load_image(tmp_path / "deep.png")
    assert [found.getpixel((i, 0))[0] for i in range(4)] == [0, 1, 128, 255]


def test_exif_turns_the_picture_upright(tmp_path: Path) -> None:
    """Orientation 6: the top of the scene is on the right of the stored picture."""
    stored = Image.new("RGB", (20, 10), "white")
    stored.paste("red", (10, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "turned.png", exif=exif)
    found = load_image(tmp_path / "turned.png")
    assert found.size == (10, 20)
    red_at = [y for y in range(20) if found.getpixel((5, y)) == (255, 0, 0)]
    assert red_at == list(range(10, 20)) or red_at == list(range(10))
    assert found.tobytes() == stored.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_files_that_hold_no_picture_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    render(scene(0)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:700])
    for name, why in [
        ("empty.png", r"is empty \(0 bytes\)"),
        ("text.png", "is no picture"),
        ("cut.png", "cannot be read as a picture"),
        ("missing.png", "no such image file"),
        (".", "cannot be read as a picture"),
    ]:
        with pytest.raises(LongalignError, match=why) as caught:
            load_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_pictures_without_pixels_or_range_are_refused() -> None:
    with pytest.raises(LongalignError, match="0 × 5 pixels"):
        to_pixels(Image.new("RGB", (0, 5)))
    with pytest.raises(LongalignError, match="floating-point"):
        to_pixels(Image.new("F", (2, 2)))
