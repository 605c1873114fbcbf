"""`PreferenceModel`: a CLIP that judges images against texts of any length (LongAlign, §2.2, §3.2)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from longalign.encoding.batching import batches, call_cost_tokens
from longalign.encoding.segments import Segment, Segmenter
from longalign.encoding.tokens import Ids, pad_ids, tokenise
from longalign.errors import LongalignError
from longalign.plugins import Table
from longalign.preference.calibration import FILE_NAME as CALIBRATION
from longalign.preference.calibration import Calibration
from longalign.preference.decomposition import FILE_NAME, Decomposition
from longalign.preference.images import ImageLike
from longalign.preference.late import FILE_NAME as HEAD
from longalign.preference.late import Late, LateHead, Tokens, kinds_of, late_scores, pad
from longalign.preference.loading import read_model
from longalign.preference.preprocess import Preprocess
from longalign.preference.scores import Scores, scores_of, segment_mean
from longalign.runs import atomic_write_text
from longalign.runtime import inference

# name → function of `device` and `dtype` that gives a `PreferenceModel` (or a subclass for another architecture)
PREFERENCE_MODELS = Table("preference", {})
_IMAGES_AT_ONCE = 32
_TEXTS_AT_ONCE = 256


class PreferenceModel:
    """R(x, p) = C_X(x)·C_P(p), for CLIP, PickScore, HPSv2, Denscore and their like.

    Load one with `from_pretrained`. Embeddings have unit length and come in at least float32. Whether they carry
    gradients is the caller's affair (`torch.no_grad`), except in `score`, which has none.

    Args:
        clip: the `CLIPModel`, on its device.
        tokenizer: its tokenizer, a fast one.
        preprocess: how its images are prepared.
        decomposition: V of its text embeddings, if known; used by `score`.
        late: how sentences are looked for in a picture's patches: a trained head, `ZeroShot`, or not at all.
        calibration: what a sentence's score means; of the late scores where there is ``late``.

    Attributes:
        clean: repair texts before they are tokenised, as CLIP's training captions were
            (`longalign.encoding.cleaning`). Set it to False to leave them as they are.

    Raises:
        LongalignError: tokenizer, preprocessing, decomposition, head, calibration and model do not belong together.
    """

    clean: bool = True

    def __init__(
        self,
        clip: Any,
        tokenizer: Any,
        preprocess: Preprocess,
        decomposition: Decomposition | None = None,
        late: Late | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.clip = clip
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.decomposition = decomposition
        self.late = late
        self.calibration = calibration
        self._check()

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "stickers",
        *,
        device: str = "auto",
        dtype: str = "auto",
        tokenizer: str | os.PathLike[str] | None = None,
        preprocess: Preprocess | None = None,
        late: Literal["trained", "zero-shot", "none"] = "trained",
        calibration: str | os.PathLike[str] | None = None,
    ) -> PreferenceModel:
        """A model in evaluation mode, without gradients on its weights.

        Args:
            name: ``stickers`` (the embedded Denscore; ``stickers/clip`` and others stand beside it), a `CLIPModel`
                folder, a hub name, or an open_clip checkpoint such as HPSv2's (a file; it needs ``tokenizer``).
            device, dtype: as in `longalign.diffusion.pipelines`: ``auto`` is CUDA with float16, else float32.
            tokenizer: a folder or hub name, where the model itself has none: PickScore uses CLIP-H's.
            preprocess: in place of the model's own ``preprocessor_config.json``. Without either, CLIP's.
            late: ``trained``: by the late head beside the weights, if there is one; ``zero-shot``: see `ZeroShot`;
                ``none``: pooled scores alone. A calibration says which it is of, and then that one is used.
            calibration: a file of `longalign calibrate`; else the one beside the weights, if it is of ``late``.

        Raises:
            LongalignError: no such model, another architecture, weights that are not safetensors, a pickle with code
                in it, no tokenizer, a decomposition of another width, a calibration of scores that there are not.
        """
        if (told := os.fspath(name)) in PREFERENCE_MODELS:
            return PREFERENCE_MODELS[told](device=device, dtype=dtype)
        return cls(
            *read_model(
                name,
                device=device,
                dtype=dtype,
                tokenizer=tokenizer,
                preprocess=preprocess,
                late=late,
                calibration=calibration,
            )
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """A `CLIPModel` folder with tokenizer and preprocessing; V, late head and calibration if it has them."""
        folder = Path(folder)
        self.clip.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        config = json.dumps(self.preprocess.to_config(), indent=2) + "\n"
        atomic_write_text(folder / "preprocessor_config.json", config)
        self.save_beside(folder)

    def save_beside(self, folder: Path) -> None:
        """What belongs to a preference model and not to its CLIP: decomposition, head and calibration."""
        if self.decomposition is not None:
            self.decomposition.save(folder / FILE_NAME)
        if isinstance(self.late, LateHead):
            self.late.save(folder / HEAD)
        if self.calibration is not None:
            self.calibration.save(folder / CALIBRATION)

    @property
    def device(self) -> torch.device:
        return self.clip.device

    @property
    def width(self) -> int:
        """D, the width of the embeddings."""
        return self.clip.config.projection_dim

    @property
    def window_tokens(self) -> int:
        """Most tokens a text may have, start and end token counted: 77."""
        return min(self.tokenizer.model_max_length, self.clip.config.text_config.max_position_embeddings)

    @cached_property
    def segmenter(self) -> Segmenter:
        """Cuts texts into sentences that fit the window. Replace it for other rules or languages."""
        return Segmenter("sentence", self.tokenizer, self.window_tokens)

    # C_X(x)
    def image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pixels in [0, 1], of any size → (B, D) unit embeddings, differentiable.

        Raises:
            LongalignError: another shape, or integers.
        """
        return self.image_prepared(self._prepared(pixels))

    def _prepared(self, pixels: Tensor) -> Tensor:
        if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape[2:]:
            raise LongalignError(f"pixels must be (B, 3, H, W), not {tuple(pixels.shape)}")
        if not pixels.is_floating_point():
            raise LongalignError(
                f"pixels must be numbers from 0 to 1, not {pixels.dtype}: divide bytes by 255"
            )
        return self.preprocess(pixels.to(self.device))

    def image_prepared(self, x: Tensor) -> Tensor:
        """`image` of what `preprocess` has made of the pixels: (B, 3, S, S), on the model's device → (B, D)."""
        return self.parts_prepared(x)[0]

    # P_j(x)
    def patches(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pixels in [0, 1], of any size → (B, P, W) unit embeddings of the patches, differentiable.

        Raises:
            LongalignError: the model has no late interaction; or as `image`.
        """
        found = self.parts_prepared(self._prepared(pixels))[1]
        if found is None:
            raise LongalignError(
                "this model has no late head: train one (preference.head: late) or use ZeroShot()"
            )
        return found

    def parts_prepared(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """`image` and `patches` of what `preprocess` has made of the pixels, in one pass; None without a late head."""
        x = x.to(self.clip.dtype)
        if self.late is None:
            return _unit(self.clip.get_image_features(pixel_values=x).pooler_output), None
        pooled, patches = self.late.of(self.clip, x)
        return _unit(pooled), patches

    # C_P(p)
    def text(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """(N) texts → (N, D) unit embeddings. Equal texts are encoded once, those of like length together.
        A single string is one text.

        Args:
            truncate: read only the first tokens of a text that is too long, as published scores do
                (``Single`` in Table 1).

        Raises:
            LongalignError: a text is longer than the window, and ``truncate`` is off. `text_mean` and `score`
                read texts of any length.
        """
        return self.text_parts(texts, truncate=truncate)[0]

    # T_k(p̂), w_k
    def tokens(self, texts: Sequence[str]) -> Tokens:
        """(N) sentences → their tokens' unit embeddings (N, L, W) and weights (N, L).

        Raises:
            LongalignError: the model has no late interaction; or as `text`.
        """
        found = self.text_parts(texts)[1]
        if found is None:
            raise LongalignError(
                "this model has no late head: train one (preference.head: late) or use ZeroShot()"
            )
        return found

    def text_parts(self, texts: Sequence[str], *, truncate: bool = False) -> tuple[Tensor, Tokens | None]:
        """`text` and `tokens` in one pass; None without a late head."""
        return self._encode(self._ids(texts, truncate))

    def _ids(self, texts: Sequence[str], truncate: bool = False) -> list[Ids]:
        """The token ids of each text; see `text`."""
        texts = [texts] if isinstance(texts, str) else texts  # not its letters
        tokens_of = tokenise(self.tokenizer, texts, before=1, repair=self.clean) if texts else {}
        for text, tokens in tokens_of.items():
            if len(tokens) > self.window_tokens and not truncate:
                raise LongalignError(
                    f"a text of {len(tokens)} tokens is too long for a window of {self.window_tokens}: "
                    f"{text[:40]!r} … Use text_mean or score, which read all of it, or truncate=True"
                )
        return [tokens_of[text].fit(self.window_tokens).ids for text in texts]

    def _encode(self, texts: Sequence[Ids]) -> tuple[Tensor, Tokens | None]:
        """(N, D) and the tokens, each distinct text encoded once."""
        distinct = sorted(set(texts), key=lambda ids: (len(ids), ids))
        call_cost = call_cost_tokens(self.device.type)
        found = [torch.zeros(0, self.width, device=self.device)]
        tokens: list[Tokens] = []
        for batch in batches([len(ids) for ids in distinct], call_cost, _TEXTS_AT_ONCE):
            # CLIP's text tower is causal, so what stands behind the end token changes nothing: no mask.
            chunk = distinct[batch]
            ids, _ = pad_ids(chunk, len(chunk[-1]), self.tokenizer.eos_token_id)
            said = self.clip.get_text_features(input_ids=ids.to(self.device))
            found.append(_unit(said.pooler_output))
            if self.late is not None:
                lengths = torch.tensor([len(of_text) for of_text in chunk], device=self.device)
                tokens.append(self.late.said(said.pooler_output, said.last_hidden_state, lengths))
        row_of = {ids: row for row, ids in enumerate(distinct)}
        rows = torch.tensor([row_of[ids] for ids in texts], dtype=torch.long, device=self.device)
        of_tokens = None if self.late is None else pad(tokens or [self._no_tokens()]).rows(rows)
        return torch.cat(found)[rows], of_tokens

    def _no_tokens(self) -> Tokens:
        width = self.late.width if isinstance(self.late, LateHead) else self.width
        return Tokens(torch.zeros(0, 1, width, device=self.device), torch.zeros(0, 1, device=self.device))

    # C_P^seg(p)
    def text_mean(self, texts: Sequence[str]) -> Tensor:
        """(N) texts of any length → (N, D), the mean of their segments' unit embeddings, at most of length 1."""
        texts = [texts] if isinstance(texts, str) else texts
        pieces = [[segment.text for segment in self.segments(text)] for text in texts]
        return segment_mean(self.text([p for of_text in pieces for p in of_text]), [len(p) for p in pieces])

    def segments(self, text: str) -> list[Segment]:
        """The segments of a text, each of which fits the window."""
        return self.segmenter(text)

    def score(
        self,
        images: Tensor | ImageLike | Sequence[ImageLike],
        prompts: str | Sequence[str],
        *,
        decomposition: Decomposition | None = None,
        batch_size: int = _IMAGES_AT_ONCE,
    ) -> Scores:
        """Scores of B images, each against its own prompt of any length; see `Scores` for what they are.

        Args:
            images: (B, 3, H, W) in [0, 1], or B pictures or their files, which may differ in size. Files are read
                as they are needed. Pictures are resized as the published processors do it, which round to 8 bits;
                tensors are not rounded. One picture, one file or (3, H, W) is one image.
            prompts: as many, or one text for all images. Each distinct sentence is encoded once.
            decomposition: in place of the model's own.
            batch_size: images at once.

        Raises:
            LongalignError: unequal numbers of images and prompts, an unreadable image (it is named), a V of another
                width, pixels out of range, a segment that is too long (of another segmenter than the default).
        """
        if isinstance(images, Image.Image | str | os.PathLike):
            images = [images]
        elif isinstance(images, Tensor) and images.ndim == 3:
            images = images[None]
        prompts = [prompts] * len(images) if isinstance(prompts, str) else prompts
        if len(images) != len(prompts):
            raise LongalignError(
                f"{len(images)} image{'s' if len(images) != 1 else ''} but {len(prompts)} "
                f"prompt{'s' if len(prompts) != 1 else ''}: give as many of both, or one text for all images"
            )
        decomposition = decomposition or self.decomposition
        texts = [[segment.text for segment in self.segments(prompt)] for prompt in prompts]
        flat = [text for of_prompt in texts for text in of_prompt]
        with inference(self.clip):
            embedded, _ = self._encode(self._ids(prompts, truncate=True))
            segments, tokens = self._encode(self._ids(flat))  # these must fit
            counts = [len(of_prompt) for of_prompt in texts]
            c_x, late, done = [embedded.new_zeros(0, self.width)], [embedded.new_zeros(0)], 0
            for i in range(0, len(images), batch_size):
                pooled, patches = self._image_batch(images[i : i + batch_size])
                c_x.append(pooled)
                if patches is not None and tokens is not None:
                    here = counts[i : i + batch_size]
                    late.append(late_scores(patches, tokens.rows(slice(done, done + sum(here))), here))
                    done += sum(here)
            return scores_of(
                torch.cat(c_x),
                segments,
                embedded,
                texts,
                decomposition,
                torch.cat(late) if self.late is not None else None,
                self.calibration,
            )

    def _image_batch(self, images: Tensor | Sequence[ImageLike]) -> tuple[Tensor, Tensor | None]:
        """(B, D), and the patches, of a tensor, or of pictures, which may differ in size."""
        if isinstance(images, Tensor):
            low, high = images.aminmax()
            if not (low >= -1e-3 and high <= 1 + 1e-3):  # so written, NaN is out of range, too
                raise LongalignError(f"pixels must be from 0 to 1, these are from {low:g} to {high:g}")
            return self.parts_prepared(self._prepared(images))
        ready = torch.cat([self.preprocess.picture(image) for image in images])
        return self.parts_prepared(ready.to(self.device))

    def _check(self) -> None:
        text = self.clip.config.text_config
        end = text.eos_token_id
        # 2 is what old configurations say; the model then pools at the highest id, which is the end token's.
        if end not in (2, self.tokenizer.eos_token_id):
            raise LongalignError(
                f"the model pools at token {end}, but its tokenizer ends a text with {self.tokenizer.eos_token_id}: "
                "they do not belong together, or eos_token_id is missing from the model's text_config"
            )
        if len(self.tokenizer) > text.vocab_size:
            raise LongalignError(
                f"the tokenizer has {len(self.tokenizer)} tokens, but the model knows {text.vocab_size}: "
                "they do not belong together"
            )
        if self.preprocess.size_px != (side := self.clip.config.vision_config.image_size):
            raise LongalignError(
                f"images are prepared at {self.preprocess.size_px} px, but the model sees {side} px"
            )
        if self.decomposition is not None:
            self.decomposition.check_width(self.width)
        vision = self.clip.config.vision_config.hidden_size
        if isinstance(self.late, LateHead) and (self.late.vision_width, self.late.text_width) != (
            vision,
            text.hidden_size,
        ):
            raise LongalignError(
                f"the late head reads states of widths {self.late.vision_width} and {self.late.text_width}, but the "
                f"towers' are {vision} and {text.hidden_size}: it is of another model"
            )
        if self.calibration is not None and self.calibration.kind not in (kinds := kinds_of(self.late)):
            raise LongalignError(
                f"the calibration is of the {self.calibration.kind} score, but sentences are judged by "
                f"{' or '.join(kinds)}"
            )


def _unit(features: Tensor) -> Tensor:
    """At least float32, unit length: in half precision the length is off by up to 1e-3."""
    return normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
