"""The model that fills a cache, as settings that can be sent to other processes."""

from __future__ import annotations

from dataclasses import dataclass

from longalign.data.buckets import Buckets
from longalign.data.row_encoder import RowEncoder
from longalign.data.text_states import TextSide
from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.pipelines import settings_of
from longalign.weights.stack import load_pipeline, t5_branch


@dataclass(frozen=True)
class CacheModel:
    """What `longalign cache` computes, and by which model.

    Attributes:
        model: as in `longalign.diffusion.pipelines`.
        strategy, length: as for `longalign.encode`; no length is the model's own.
        size: side of the model's square pictures in pixels; None: the model's own.
        buckets: whether pictures keep their shape.
        bucket_step: sides of buckets are multiples of it; None: 64 pixels, or less.
        store: dtype of what is stored.
        batch_size: most pictures at once in the VAE.
        device, dtype: as in `longalign.diffusion.pipelines`.
    """

    model: str = "stickers"
    strategy: str = "clip-cat"
    length: int | None = None
    size: int | None = None
    buckets: bool = True
    bucket_step: int | None = None
    store: str = "bfloat16"
    batch_size: int = 16
    device: str = "auto"
    dtype: str = "auto"

    def load(self, square: bool = False) -> RowEncoder:
        """Loads the model.

        Args:
            square: whether all pictures are known to be square, so that there is nothing to sort into buckets.

        Raises:
            LongalignError: it cannot be loaded, or does not fit the settings.
        """
        pipe = load_pipeline(self.model, device=self.device, dtype=self.dtype)
        length = settings_of(self.model, pipe).length if self.length is None else self.length
        denoiser = Denoiser.of(pipe)
        texts = TextSide(pipe, self.strategy, length, t5_branch(self.model, self.strategy, pipe))
        size_px = self.size or denoiser.side * denoiser.vae_factor
        return RowEncoder(
            pipe,
            texts,
            size_px,
            buckets=Buckets.of(denoiser, size_px, self.bucket_step) if self.buckets and not square else None,
            model=self.model,
            stored=self.store,
            batch_size=self.batch_size,
        )
