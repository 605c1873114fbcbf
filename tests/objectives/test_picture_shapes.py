"""Objectives on pictures of three shapes: what SDXL is told of them, mirrored ones, and evaluation bucket by bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from framed_pictures import BUCKETS, Framed, framed
from picture_objectives import LENGTH, SIDE_PX, accelerator, data, make
from tiny_contrastive import contrastive

from longalign.data.buckets import Assignment, Frame
from longalign.data.cache import CacheBuilder
from longalign.data.cached import CachedPictures
from longalign.data.captioned import CaptionedPictures
from longalign.data.text_states import TextSide
from longalign.encoding import encode
from longalign.errors import LongalignError
from longalign.objectives.contrastive.pairs import batches_of
from longalign.objectives.pictures.consistency import ConsistencyObjective
from longalign.objectives.pictures.loading import load_pictures
from longalign.objectives.pictures.settings import PictureDataSettings
from longalign.objectives.pictures.supervised import SupervisedObjective
from longalign.objectives.random_draws import Draws, uniform

# Original size, top and left of the crop, size of the bucket; see `framed_pictures.SIZES`.
SQUARE_IDS = [64, 64, 0, 0, 32, 32]
WIDE_IDS = [45, 60, 3, 0, 24, 40]


def told(unet: Any) -> list[list[list[float]]]:
    """The time ids of each call of an SDXL UNet from now on."""
    found: list[list[list[float]]] = []
    unet.register_forward_pre_hook(
        lambda _, __, kwargs: found.append(kwargs["added_cond_kwargs"]["time_ids"].tolist()), with_kwargs=True
    )
    return found


def batch_of_rows(objective: Any, rows: list[int]) -> Any:
    return objective.collate([objective.data[i] for i in rows])


@pytest.mark.parametrize("cached", [False, True])
def test_sdxl_is_told_size_and_crop_by_hand(cached: bool, tmp_path: Path) -> None:
    """Rows 1 and 4, 45 × 60 each, are scaled to 30 × 40 and cut to 24 × 40, 3 px off at the top; noised twice each."""
    pipe, rows = tiny.tiny_sdxl(), framed(6)
    if cached:
        texts = TextSide(pipe, "clip-cat", LENGTH)
        CacheBuilder(tmp_path / "c", pipe, texts, SIDE_PX, buckets=BUCKETS, stored="float32").build(Framed(6))
        rows = CachedPictures(tmp_path / "c")  # type: ignore[assignment]
    objective = make(SupervisedObjective, pipe, rows, noisings=2, caption_dropout=0.5)
    calls = told(pipe.unet)
    objective.backward(batch_of_rows(objective, [1, 4]), accelerator())
    assert [ids for call in calls for ids in call] == [WIDE_IDS] * 4
    calls.clear()
    objective.backward(batch_of_rows(objective, [0, 3]), accelerator())
    assert [ids for call in calls for ids in call] == [SQUARE_IDS] * 4


def test_guidance_and_squares_tell_sdxl_the_same() -> None:
    """The teacher's two branches get the ids twice. Without buckets row 1 is cut to 32 × 32 of 32 × 42.7: 5 px off."""
    pipe = tiny.tiny_sdxl()
    objective = make(ConsistencyObjective, pipe, framed(6))
    calls = told(pipe.unet)
    objective.backward(batch_of_rows(objective, [1]), accelerator())
    assert sorted(map(len, calls)) == [1, 1, 2]  # student, target, and the teacher's branches in one call
    assert [ids for call in calls for ids in call] == [WIDE_IDS] * 4
    squares = make(SupervisedObjective, tiny.tiny_sdxl(), CaptionedPictures(Framed(6), SIDE_PX))
    calls = told(squares.pipe.unet)
    squares.backward(batch_of_rows(squares, [1]), accelerator())
    assert calls == [[[45, 60, 0, 5, 32, 32]]]


def test_ids_are_of_the_picture_and_not_of_the_caption() -> None:
    """Contrastive: rows 1 and 4 have one frame, so row 4 gets another here. Picture i under caption j has frame i."""
    pipe = tiny.tiny_sdxl()
    objective = contrastive(pipe, framed(12), pairs_at_once=1)
    batch = batch_of_rows(objective, [1, 4])
    batch["frames"][1] = Frame(90, 120, 7, 1)
    x0, states, padding = objective.encode(batch)
    t = torch.tensor(500)
    matching = objective._matching(x0.double(), t, x0[0].double(), states, padding, states)
    calls = told(pipe.unet)
    pairs = torch.tensor([[1, 0], [0, 0]])
    matching.predictions(pairs)
    assert calls == [[[90, 120, 7, 1, 24, 40], WIDE_IDS]]


def test_drawn_pictures_are_told_as_whole_squares() -> None:
    """Samples of captions of held-out pictures are square pictures of the model's own size, not cut ones."""
    pipe = tiny.tiny_sdxl()
    objective = make(SupervisedObjective, pipe, framed(6), framed(3))
    calls = told(pipe.unet)
    drawn = objective.samples(accelerator())
    assert [image.size for _, image in drawn] == [(SIDE_PX, SIDE_PX)] * 3
    assert {tuple(ids) for call in calls for ids in call} == {(32, 32, 0, 0, 32, 32)}


def test_without_frames_the_ids_are_as_before() -> None:
    """A conditioning that knows of no picture: an uncropped one of the size of the latents, 16 × 8 px here."""
    objective = make(SupervisedObjective, tiny.tiny_sdxl())
    calls = told(objective.pipe.unet)
    conditioning = encode(objective.pipe, "A cat.")
    assert conditioning.frames is None
    objective.denoiser(torch.zeros(1, 4, 8, 4), 500, conditioning)
    assert calls == [[[16, 8, 0, 0, 16, 8]]]


def test_evaluation_takes_one_bucket_after_another() -> None:
    """The loss over 6 held-out rows of three shapes is the mean of the losses of each alone; each has its own noise."""
    objective = make(SupervisedObjective, rows=framed(6), held_out=framed(6))
    alone = [float(objective._held_out_loss([i])[0]) for i in range(6)]
    found = objective.held_out_figures(accelerator())
    assert found["loss"] == pytest.approx(sum(alone) / 6, rel=1e-5)
    assert len({round(loss, 6) for loss in alone}) == 6


def test_contrastive_batches_are_of_one_bucket() -> None:
    """Groups of 5 and 3 rows in batches of 2: two and one. In batches of 6 none, so the larger group is one."""
    groups = [[0, 3, 6, 9, 12], [1, 4, 7]]
    assert batches_of(groups, 2) == [[0, 3], [6, 9], [1, 4]]
    assert batches_of(groups, 6) == [[0, 3, 6, 9, 12]]
    objective = contrastive(rows=framed(12), held_out=framed(12), held_out_batch=2)
    assert np.isfinite(objective.held_out_figures(accelerator())["loss"])


def test_a_picture_alone_in_its_bucket_has_no_negatives() -> None:
    """Of 4 pictures two are square; the wide and the high one are left out, in words. Without buckets all are used."""
    with pytest.warns(
        UserWarning, match="2 of 4 pictures are left out: no other picture has their aspect ratio"
    ):
        objective = contrastive(rows=framed(4))
    assert objective.data.bucket_of is not None and objective.data.bucket_of.tolist()[1:3] == [-1, -1]
    assert min(objective.data.bucket_of[[0, 3]]) >= 0
    assert contrastive(rows=data()).data.bucket_of is None


def test_half_of_the_pictures_are_mirrored_when_asked() -> None:
    """By numbers of their own: the noise and the times are those of the run that mirrors nothing."""
    assert PictureDataSettings().flip is False
    source = Framed(6)

    class Halves(Framed):
        def __getitem__(self, index: int) -> Any:
            found = source[index]
            image = found.picture()  # type: ignore[union-attr]
            image.paste((0, 0, 0), (0, 0, image.width // 2, image.height))
            return type(found)(image, found.text, found.name)  # type: ignore[union-attr, call-arg]

    seen: list[torch.Tensor] = []
    rows = CaptionedPictures(Halves(6), SIDE_PX, "x", Assignment.of(Halves(6), BUCKETS))
    objective = make(SupervisedObjective, rows=rows, flip=True)
    own = objective.encode
    objective.encode = lambda batch: (seen.append(batch["image"]), own(batch))[1]
    draws = Draws(3, 0, 0, 8)
    which = draws.flips(8)
    assert 0 < int(which.sum()) < 8 and torch.equal(Draws(3, 0, 4, 8).flips(4), which[4:])
    batch = batch_of_rows(objective, [0, 3] * 4)
    objective.reseed(draws)
    learn, handed_on = objective.learn, []
    objective.learn = lambda *given: (handed_on.append(objective._draws), learn(*given))[1]
    objective.backward(batch, accelerator())
    assert handed_on == [draws]  # what noise, times and dropout are drawn from, as without mirroring
    assert which.tolist() != (uniform(draws.rows(8)) < 0.5).tolist()
    dark_left = seen[0][:, 2, :, 0] == 0  # (8, H): black at the left as before
    assert dark_left.all(1).tolist() == (~which).tolist()
    assert torch.equal(seen[0][which], batch["image"][which].flip(-1))
    plain = make(SupervisedObjective, rows=rows)
    plain.encode = lambda batch: (seen.append(batch["image"]), own(batch))[1]
    plain.backward(batch, accelerator())
    assert torch.equal(seen[1], batch["image"])


def test_a_cache_can_neither_be_mirrored_nor_cut_to_squares(tmp_path: Path) -> None:
    pipe, out = tiny.tiny_sd15(), tmp_path / "c"
    CacheBuilder(out, pipe, TextSide(pipe, "clip-cat", LENGTH), SIDE_PX, buckets=BUCKETS).build(Framed(6))
    with pytest.raises(
        LongalignError, match="is a cache, whose latents cannot be mirrored: name the pictures"
    ):
        make(SupervisedObjective, pipe, CachedPictures(out), flip=True)
    settings = PictureDataSettings(pictures=str(out), buckets=False)
    with pytest.raises(LongalignError, match=r"keeps the shape of pictures, and data.buckets is false: run"):
        load_pictures(str(out), settings, SIDE_PX, None, split="train", seed=0)
    kept = PictureDataSettings(pictures=str(out))
    assert len(load_pictures(str(out), kept, SIDE_PX, BUCKETS, split="train", seed=0)) == 6


def test_enlarged_and_cropped_pictures_are_told_once(tmp_path: Path) -> None:
    """In the first process only; where all pictures fit, nothing is said."""
    rows = CaptionedPictures(Framed(3), SIDE_PX, "photos", Assignment(BUCKETS, np.array([0, 1, 2]), 2, 1))
    objective = make(SupervisedObjective, rows=rows)
    with pytest.warns(UserWarning, match=r"photos: 3 pictures in 3 buckets \(.*2 smaller than the bucket"):
        objective.opened(tmp_path)
