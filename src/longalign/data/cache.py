"""`build_cache`: latents and text-encoder outputs, computed once.

    cache.json             what it was made with
    rows.npy               a record a row of the data: where its picture and its caption are
    latents/00000.safetensors …
    texts/00000.safetensors …
    padding.safetensors    pad* and the empty prompt
    skipped.jsonl          rows that cannot be used

**Keys** say what a tensor was made of: that of a picture is a hash of its bytes, of the size that it is cut to (its
bucket), and of the VAE's weights; that of a caption of its text, the strategy, the length and the text encoders'
weights. So the same command again computes what is missing and nothing else, whether it was interrupted, a caption was
changed, or the model. What is no longer needed stays: remove the folder to be rid of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from longalign.backbones import backbone_of
from longalign.data.buckets import Buckets, Frame, Size, are_enlarged, describe, size_of
from longalign.data.cached import PADDING, ROW, ROWS, SETTINGS, read_padding
from longalign.data.captioned import SkipLog, pixels_of, usable
from longalign.data.entries import CaptionedPicture, Failure, Source
from longalign.data.store import Store
from longalign.data.text_states import TextSide, TextStates
from longalign.errors import LongalignError
from longalign.runs import atomic_path, atomic_write_text
from longalign.weights.fingerprint import fingerprint

_VERSION = 2  # 1: squares only
_PREPROCESSING = "rgb on white, shorter side by Lanczos, centre"  # so that it covers its bucket
_THREADS = 8
STORED = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class CacheReport:
    """What `build_cache` did.

    Attributes:
        rows: that can be trained on. skipped: that cannot.
        latents, texts: computed now; the others were there.
        latent_bytes, text_bytes: of a row on average.
        padded_text_bytes: what padded text states would take.
        buckets: what `longalign.data.buckets.describe` says; None without buckets.
    """

    rows: int
    skipped: int
    latents: int
    texts: int
    latent_bytes: int
    text_bytes: int
    padded_text_bytes: int
    buckets: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class CacheBuilder:
    """Fills a cache folder.

    Args:
        pipe: a diffusers pipeline.
        texts: its text side.
        size_px: side of the squares that pictures are cut to, where there are no buckets.
        buckets: sizes that pictures are cut to instead.
        model: its name, to be noted.
        stored: dtype of what is stored.
        at_once: rows of a shard, and what an interruption loses at most.
    """

    def __init__(
        self,
        out: Path,
        pipe: Any,
        texts: TextSide,
        size_px: int,
        *,
        buckets: Buckets | None = None,
        model: str = "",
        stored: str = "bfloat16",
        at_once: int = 1024,
        batch_size: int = 16,
    ) -> None:
        if stored not in STORED:
            raise LongalignError(f"states are stored as one of {', '.join(STORED)}, not {stored!r}")
        if out.exists() and not out.is_dir():
            raise LongalignError(f"{out} is a file; a cache needs a folder")
        if out.is_dir() and any(out.iterdir()) and not (out / SETTINGS).is_file():
            raise LongalignError(f"{out} already holds files, and no cache. Choose another --out.")
        self.out, self.pipe, self.texts = out, pipe, texts
        self.size_px, self.buckets = size_px, buckets
        self.dtype, self.at_once, self.batch_size = STORED[stored], at_once, batch_size
        # As in training: torch chooses among convolutions by it, and they round differently.
        pipe.vae.requires_grad_(False)
        vae = fingerprint(pipe.vae, model)
        encoders = [fingerprint(m, model) for m in texts.modules]
        said = f"{texts.strategy} {texts.length} {stored}"
        self._made_by = f"{stored} {vae.sha256}"
        self._of_texts = _digest(said.encode(), *(e.sha256.encode() for e in encoders))
        self.settings = {
            "version": _VERSION,
            "model": model,
            "size_px": size_px,
            "bucket_step_px": None if buckets is None else buckets.step_px,
            "strategy": repr(texts.strategy),
            "length": texts.length,
            "stored": stored,
            "complete": False,
            "vae": vae.to_json(),
            "encoders": [e.to_json() for e in encoders],
        }
        self._note(complete=False)
        self.latent_store, self.text_store = Store(out / "latents"), Store(out / "texts")
        self._lengths = -1
        earlier = read_padding(out, self._of_texts)
        if earlier is not None:  # of captions that are not encoded again
            texts.padding.own.update(earlier.own)
            texts.padding.t5.update(earlier.t5)
            texts.padding.pooled = earlier.pooled

    def build(
        self, source: Source, name: str = "the data", on_rows: Callable[[int], None] = lambda rows: None
    ) -> CacheReport:
        """Make the cache hold all rows of a source.

        Raises:
            LongalignError: more than 5 % of the rows cannot be used, or the disk is full. What is done stays done.
        """
        log = SkipLog(len(source), name)
        (self.out / "skipped.jsonl").unlink(missing_ok=True)
        log.open(self.out)
        listed: list[tuple[int, _Prepared]] = []
        latents = texts = 0
        with ThreadPoolExecutor(_THREADS) as pool:
            for first in range(0, len(source), self.at_once):
                numbers = range(first, min(first + self.at_once, len(source)))
                found = list(pool.map(lambda i: self._prepared(source[i]), numbers))
                log.add([f for f in found if isinstance(f, Failure)], len(numbers))
                good = [(i, f) for i, f in zip(numbers, found, strict=True) if isinstance(f, _Prepared)]
                latents += self._store_latents([p for _, p in good])
                texts += self._store_texts({p.text_key: p.text for _, p in good})
                listed += [(i, replace(p, pixels=None)) for i, p in good]
                on_rows(len(numbers))
        rows = self._write_rows(listed)
        self._note(complete=True)
        return self._report(rows, len(log), latents, texts)

    def _prepared(self, entry: CaptionedPicture | Failure) -> _Prepared | Failure:
        entry = usable(entry)
        if isinstance(entry, Failure):
            return entry
        size = size_of(entry)
        bucket = (self.size_px, self.size_px)
        if self.buckets is not None and size is not None:
            bucket = self.buckets.nearest(size)
        try:
            key = _digest(self._made_of(bucket).encode(), entry.content())
        except LongalignError as error:
            return Failure(entry.name, str(error))
        pixels = None
        if size is None or key not in self.latent_store:
            found = pixels_of(entry, bucket)
            if isinstance(found, Failure):
                return found
            pixels, frame = torch.from_numpy(found[0]), found[1]
        else:
            frame = Frame.of(size, bucket)
        text_key = _digest(self._of_texts.encode(), entry.text.encode("utf-8", "replace"))
        return _Prepared(key, pixels, text_key, entry.text, bucket, frame)

    def _made_of(self, bucket: Size) -> str:
        """Of a square the same with and without buckets, so that its latents are computed once."""
        height, width = bucket
        size = str(height) if height == width else f"{height} x {width}"
        return _digest(f"{_PREPROCESSING} {size} {self._made_by}".encode())

    def _store_latents(self, rows: Sequence[_Prepared]) -> int:
        new = {p.key: p.pixels for p in rows if p.pixels is not None and p.key not in self.latent_store}
        if new:
            by_size: dict[torch.Size, list[str]] = {}
            for key, pixels in new.items():
                by_size.setdefault(pixels.shape, []).append(key)
            latents: dict[str, Tensor] = {}
            for keys in by_size.values():
                stacked = torch.stack([new[key] for key in keys])
                encoded = backbone_of(self.pipe).encode_pixels(self.pipe.vae, stacked, self.batch_size)
                latents |= zip(keys, encoded, strict=True)
            self.latent_store.write({key: ({"latent": latents[key].to(self.dtype)}, None) for key in new})
        return len(new)

    def _store_texts(self, captions: dict[str, str]) -> int:
        new = {key: text for key, text in captions.items() if key not in self.text_store}
        if new:
            states = self.texts.encode(list(new.values()))
            self._write_padding()  # first: a caption without its padding would be of no use
            self.text_store.write({key: self._text_entry(s) for key, s in zip(new, states, strict=True)})
        return len(new)

    def _text_entry(self, states: TextStates) -> tuple[dict[str, Tensor], list[int]]:
        parts = {"own": states.own, "t5": states.t5, "pooled": states.pooled}
        tensors = {name: t.to(self.dtype) for name, t in parts.items() if t is not None}
        t5 = 0 if states.t5 is None else len(states.t5)
        n_bytes = sum(t.nbytes for t in tensors.values())
        return tensors, [*states.own_shape, t5, int(states.cut), n_bytes]

    def _write_padding(self) -> None:
        padding = self.texts.padding
        if len(padding.own) + len(padding.t5) == self._lengths:
            return
        tensors = {f"own.{a}.{b}": t for (a, b), t in padding.own.items()}
        tensors |= {f"t5.{length}": t for length, t in padding.t5.items()}
        tensors |= {
            n: t for n, t in (("pad_star", padding.pad_star), ("pooled", padding.pooled)) if t is not None
        }
        notes = {"family": padding.family, "zeros": str(int(padding.zeros)), "made_of": self._of_texts}
        with atomic_path(self.out / PADDING) as path:
            save_file(
                {n: t.detach().cpu().to(self.dtype).contiguous() for n, t in tensors.items()}, path, notes
            )
        self._lengths = len(padding.own) + len(padding.t5)

    def _write_rows(self, listed: Sequence[tuple[int, _Prepared]]) -> np.ndarray:
        rows = np.zeros(len(listed), ROW)
        for at, (i, made) in enumerate(listed):
            picture, _ = self.latent_store.where(made.key)
            text, note = self.text_store.where(made.text_key)
            rows[at] = (i, made.key, picture, made.text_key, text, *note, made.bucket, tuple(made.frame))
        with atomic_path(self.out / ROWS) as path:
            np.save(path, rows)
        return rows

    def _note(self, *, complete: bool) -> None:
        atomic_write_text(
            self.out / SETTINGS, json.dumps({**self.settings, "complete": complete}, indent=1) + "\n"
        )

    def _report(self, rows: np.ndarray, skipped: int, latents: int, texts: int) -> CacheReport:
        if not len(rows):
            raise LongalignError(f"{self.out}: no row of the data can be used")
        size = self.dtype.itemsize
        padding = self.texts.padding
        width = next((t.shape[-1] for t in padding.own.values()), 0)
        t5_width = next((t.shape[-1] for t in padding.t5.values()), 0)
        pooled = 0 if padding.pooled is None else len(padding.pooled)
        padded = width * (rows["clip"] + rows["sd3_t5"]) + t5_width * rows["t5"] + pooled
        factor = 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)
        latents_a_row = (rows["bucket"] // factor).prod(1).mean()
        return CacheReport(
            rows=len(rows),
            skipped=skipped,
            latents=latents,
            texts=texts,
            latent_bytes=round(self.pipe.vae.config.latent_channels * float(latents_a_row) * size),
            text_bytes=round(float(rows["bytes"].mean())),
            padded_text_bytes=round(float(padded.mean() * size)),
            buckets=None if self.buckets is None else _described(rows, self.buckets),
        )


@dataclass(frozen=True)
class _Prepared:
    key: str
    pixels: Tensor | None  # uint8 (3, height, width), unless its latents are there
    text_key: str
    text: str
    bucket: Size
    frame: Frame


def _described(rows: np.ndarray, buckets: Buckets) -> str:
    sizes, cut = rows["frame"][:, :2], rows["bucket"]
    enlarged, beyond = are_enlarged(sizes, cut).sum(), buckets.are_beyond(sizes).sum()
    return describe(list(map(tuple, cut.tolist())), int(enlarged), int(beyond))


def _digest(*parts: bytes) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()
