"""Pictures and captions → latents and text states, each under a key that says what it was made of.

The key of a picture is a hash of its bytes, of the size that it is cut to (its bucket), and of the VAE's weights; that
of a caption of its text, the strategy, the length and the text encoders' weights.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from longalign.backbones import backbone_of
from longalign.data.buckets import Buckets, Frame, Size, size_of
from longalign.data.captioned import pixels_of, usable
from longalign.data.entries import CaptionedPicture, Failure
from longalign.data.text_states import TextSide, TextStates
from longalign.errors import LongalignError
from longalign.weights.fingerprint import fingerprint

VERSION = 2  # of the keys and of the files; 1: squares only
STORED = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_PREPROCESSING = "rgb on white, shorter side by Lanczos, centre"  # so that it covers its bucket
_THREADS = 8
_AT_ONCE = 64  # pictures in memory, twice


@dataclass(frozen=True)
class Prepared:
    """A row before it is encoded.

    Attributes:
        key, text_key: of the picture and of the caption.
        pixels: uint8 (3, height, width), unless its latents are there.
        text: the caption.
        bucket: (height, width) in pixels.
        frame: how the picture was cut.
    """

    key: str
    pixels: Tensor | None
    text_key: str
    text: str
    bucket: Size
    frame: Frame

    def without_pixels(self) -> Prepared:
        """The same, when its latents are computed."""
        return replace(self, pixels=None)


class RowEncoder:
    """The VAE and the text encoders of a model, with the settings of a cache.

    Args:
        pipe: a diffusers pipeline.
        texts: its text side.
        size_px: side of the squares that pictures are cut to, where there are no buckets.
        buckets: sizes that pictures are cut to instead.
        model: its name, to be noted.
        stored: dtype of what is stored.
        batch_size: most pictures at once in the VAE.

    Attributes:
        settings: what training checks.
        of_texts: hash of all that decides text states but the text.

    Raises:
        LongalignError: an unknown dtype.
    """

    def __init__(
        self,
        pipe: Any,
        texts: TextSide,
        size_px: int,
        *,
        buckets: Buckets | None = None,
        model: str = "",
        stored: str = "bfloat16",
        batch_size: int = 16,
    ) -> None:
        if stored not in STORED:
            raise LongalignError(f"states are stored as one of {', '.join(STORED)}, not {stored!r}")
        self.pipe, self.texts = pipe, texts
        self.size_px, self.buckets = size_px, buckets
        self.dtype, self.batch_size = STORED[stored], batch_size
        # As in training: torch chooses among convolutions by it, and they round differently.
        pipe.vae.requires_grad_(False)
        vae = fingerprint(pipe.vae, model)
        encoders = [fingerprint(m, model) for m in texts.modules]
        said = f"{texts.strategy} {texts.length} {stored}"
        self._made_by = f"{stored} {vae.sha256}"
        self.of_texts = digest(said.encode(), *(e.sha256.encode() for e in encoders))
        self.settings = {
            "version": VERSION,
            "model": model,
            "size_px": size_px,
            "bucket_step_px": None if buckets is None else buckets.step_px,
            "strategy": repr(texts.strategy),
            "length": texts.length,
            "stored": stored,
            "vae": vae.to_json(),
            "encoders": [e.to_json() for e in encoders],
        }

    def prepare(
        self, entry: CaptionedPicture | Failure, is_known: Callable[[str], bool]
    ) -> Prepared | Failure:
        """The keys of a row, and its pixels if its latents are not known.

        Args:
            entry: the row.
            is_known: whether there are latents of a key.
        """
        entry = usable(entry)
        if isinstance(entry, Failure):
            return entry
        size = size_of(entry)
        bucket = (self.size_px, self.size_px)
        if self.buckets is not None and size is not None:
            bucket = self.buckets.nearest(size)
        try:
            key = digest(self._made_of(bucket).encode(), entry.content())
        except LongalignError as error:
            return Failure(entry.name, str(error))
        pixels = None
        if size is None or not is_known(key):
            found = pixels_of(entry, bucket)
            if isinstance(found, Failure):
                return found
            pixels, frame = torch.from_numpy(found[0]), found[1]
        else:
            frame = Frame.of(size, bucket)
        text_key = digest(self.of_texts.encode(), entry.text.encode("utf-8", "replace"))
        return Prepared(key, pixels, text_key, entry.text, bucket, frame)

    def prepare_all(
        self, entries: Iterable[Callable[[], CaptionedPicture | Failure]], is_known: Callable[[str], bool]
    ) -> Iterator[list[Prepared | Failure]]:
        """`prepare` by threads, some rows at a time; while these are encoded, the next ones are read.

        Args:
            entries: functions that read a row each.
            is_known: as of `prepare`.
        """
        stream = iter(entries)
        ahead: deque[list[Future[Prepared | Failure]]] = deque()

        def read(entry: Callable[[], CaptionedPicture | Failure]) -> Prepared | Failure:
            return self.prepare(entry(), is_known)

        with ThreadPoolExecutor(_THREADS) as pool:
            while True:
                if chunk := list(islice(stream, _AT_ONCE)):
                    ahead.append([pool.submit(read, entry) for entry in chunk])
                if not ahead:
                    return
                if not chunk or len(ahead) > 1:
                    yield [future.result() for future in ahead.popleft()]

    def latents(self, pixels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pictures by key → their latents, in the dtype that is stored.

        Args:
            pixels: uint8 (3, height, width) each.
        """
        by_size: dict[torch.Size, list[str]] = {}
        for key, of_picture in pixels.items():
            by_size.setdefault(of_picture.shape, []).append(key)
        found: dict[str, Tensor] = {}
        for keys in by_size.values():
            stacked = torch.stack([pixels[key] for key in keys])
            encoded = backbone_of(self.pipe).encode_pixels(self.pipe.vae, stacked, self.batch_size)
            found |= zip(keys, (latent.to(self.dtype) for latent in encoded), strict=True)
        return {key: found[key] for key in pixels}

    def captions(self, texts: dict[str, str]) -> dict[str, tuple[dict[str, Tensor], list[int]]]:
        """Captions by key → their states by name, and the note of each: padded shape, whether it was cut, its bytes.

        Args:
            texts: key → caption.
        """
        states = self.texts.encode(list(texts.values()))
        return {key: self._entry(s) for key, s in zip(texts, states, strict=True)}

    def _entry(self, states: TextStates) -> tuple[dict[str, Tensor], list[int]]:
        parts = {"own": states.own, "t5": states.t5, "pooled": states.pooled}
        tensors = {name: t.to(self.dtype) for name, t in parts.items() if t is not None}
        t5 = 0 if states.t5 is None else len(states.t5)
        n_bytes = sum(t.nbytes for t in tensors.values())
        return tensors, [*states.own_shape, t5, int(states.cut), n_bytes]

    def _made_of(self, bucket: Size) -> str:
        """Of a square the same with and without buckets, so that its latents are computed once."""
        height, width = bucket
        size = str(height) if height == width else f"{height} x {width}"
        return digest(f"{_PREPROCESSING} {size} {self._made_by}".encode())


def digest(*parts: bytes) -> str:
    """The hash of some parts, 32 hexadecimal digits.

    Args:
        parts: none of them can be moved into the next one.
    """
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()
