"""`SoftTokens`: parameters, time buckets, the rows of a batch that get them, and their file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from longalign.errors import LongalignError
from longalign.safe_files import check_shapes, read_tensors, write_tensors
from longalign.soft_tokens.attachment import Attachment
from longalign.soft_tokens.config import Rows, SoftTokenConfig
from longalign.worlds import owner

FILE_NAME = "soft_tokens.safetensors"
_CONFIG = "soft_tokens"  # in the file's metadata
INIT_STD = 0.02

Branches = Literal["both", "cond", "uncond"]
# Which rows of a batch have the prompt and which the negative prompt: all the one, all the other, as diffusers'
# pipelines have them under guidance (the first half negative), or (B,) true for those with the prompt.


def resolve_tokens(name: str | os.PathLike[str]) -> Path:
    """The folder or file of soft tokens.

    Args:
        name: an embedded name such as ``stickers/softrepa``, a folder, or a file. A run folder of `longalign train`
            stands for the folder ``model`` in it.

    Raises:
        LongalignError: there are no embedded soft tokens of this name.
    """
    told = os.fspath(name)
    if "/" in told and (of_world := owner(told)) is not None:
        return of_world.token_folder(told)
    path = Path(told)
    trained = path / "model"
    return trained if (trained / FILE_NAME).is_file() and not (path / FILE_NAME).is_file() else path


class SoftTokens(nn.Module):
    """Trained text tokens for one backbone (SoftREPA). `attach` inserts them into a denoising module by hooks.

    They are not parameters of that module: its state dict, LoRAs and fingerprint stay the same. The parameters are
    float32; where they are used, they are converted to the precision of the text.

    Equal tokens get equal gradients, so tokens that start from one vector stay equal for ever. n equal tokens act as
    one whose attention logits are larger by log n. The released SD1.5 tokens are of this kind. `noise` makes them
    different.

    Args:
        config: backbone and shapes.
        start: (D,), (n, D) or (layers, n, D) values to start from, such as the state at the first position of the
            empty prompt (SD1.5). None: N(0, 0.02). The time table always starts from N(0, 0.02).
        noise: standard deviation of Gaussian noise that is added to `start`.
        generator: source of the random numbers.

    Raises:
        LongalignError: `start` has a shape that does not fit.
    """

    def __init__(
        self,
        config: SoftTokenConfig,
        *,
        start: Tensor | None = None,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Parameter(torch.empty(config.shapes["tokens"]))  # (layers, n, D)
        self.time = nn.Parameter(torch.empty(config.shapes["time"])) if config.buckets is not None else None
        self._scale = 1.0
        self._branches: Branches = "both"
        self._rows: Rows | None = None
        self._attachment: Attachment | None = None
        with torch.no_grad():
            nn.init.normal_(self.tokens, std=INIT_STD if start is None else noise, generator=generator)
            if start is not None:
                try:
                    self.tokens.add_(start.to(self.tokens).expand_as(self.tokens))
                except RuntimeError:
                    raise LongalignError(
                        f"soft tokens of shape {tuple(self.tokens.shape)} cannot start from {tuple(start.shape)}"
                    ) from None
            if self.time is not None:
                nn.init.normal_(self.time, std=INIT_STD, generator=generator)

    @property
    def scale(self) -> float:
        """s in [0, 1]: the prediction is (1 − s)·f(without tokens) + s·f(with them).

        At 0 the model runs once without tokens, at 1 once with them, and between these values twice.
        """
        return self._scale

    @scale.setter
    def scale(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise LongalignError(f"the scale of soft tokens lies between 0 and 1, not at {value}")
        self._scale = float(value)

    @property
    def branches(self) -> Branches:
        """Which branch of classifier-free guidance gets tokens: ``both`` (the paper), ``cond`` or ``uncond``.

        All but ``both`` need to know which rows of a batch are conditional: see `branch`. If a batch has rows of both
        kinds, the model runs twice.
        """
        return self._branches

    @branches.setter
    def branches(self, value: Branches) -> None:
        if value not in get_args(Branches):
            raise LongalignError(
                f"branches with soft tokens are {', '.join(get_args(Branches))}, not {value!r}"
            )
        self._branches = value

    @contextmanager
    def branch(self, rows: Rows) -> Iterator[None]:
        """Says which rows of the next batches are conditional, for `branches`. `Denoiser` calls this itself.

        Args:
            rows: ``cond`` or ``uncond`` for all of them, ``cfg`` for the two halves of diffusers' pipelines under
                guidance (the negative prompts first), or (B,) true for those with the prompt.
        """
        before, self._rows = self._rows, rows
        try:
            yield
        finally:
            self._rows = before

    def affected(self, batch: int) -> bool | Tensor:
        """The rows of a batch that get tokens: True (all), False (none), or (B,) truth values.

        Raises:
            LongalignError: this depends on the branch, and it is unknown which rows are conditional.
        """
        if self._branches == "both":
            return True
        rows = self._rows
        if rows is None:
            raise LongalignError(
                f"soft tokens for the branch {self._branches!r} alone need to know which rows are conditional: run the "
                "model within `with tokens.branch('cfg')` (a diffusers pipeline under guidance), 'cond' or 'uncond'"
            )
        if isinstance(rows, str):
            if rows != "cfg":
                return rows == self._branches
            if batch % 2:
                raise LongalignError(f"a batch of {batch} has no two halves, negative prompts and prompts")
            rows = torch.arange(batch) >= batch // 2
        elif rows.shape != (batch,):
            raise LongalignError(
                f"{tuple(rows.shape)} truth values do not tell the rows of a batch of {batch}"
            )
        return rows.bool() if self._branches == "cond" else ~rows.bool()

    def buckets(self, t: Tensor) -> Tensor:
        """Times 0…1000 → bucket numbers; with 100 buckets ⌊t/10⌋, and 99 at t = 1000."""
        count = self.config.buckets or 1
        return (t.float() * count / 1000).floor().long().clamp(0, count - 1)

    # s_k(t) = E(tokens_k) + table[⌊t/10⌋, k], E the context embedder for tokens of its input's width, else nothing
    def forward(self, t: Tensor, layer: int = 0, embed: nn.Module | None = None) -> Tensor:
        """The tokens at given times.

        Args:
            t: (b,) times from 0 to 1000.
            layer: block of SD3; 0 for a UNet.
            embed: SD3's context embedder, for tokens that were trained before it (`token_width`).

        Returns:
            (b, n, D), or (1, n, D) for tokens without a time table.
        """
        tokens = self.tokens[layer]  # (n, D)
        if self.config.token_width is not None:
            assert embed is not None
            weight: Any = embed.weight
            tokens = embed(tokens.to(weight.dtype)).to(tokens.dtype)
        if self.time is None:
            return tokens[None]
        return tokens + self.time[self.buckets(t.to(self.time.device)), layer, None]

    def attach(
        self, module: Any, *, scale: float | None = None, branches: Branches | None = None
    ) -> Attachment:
        """Insert the tokens into a UNet or a transformer, until `detach` or the end of a ``with`` block.

        They move to the model's device. All compiled models of the process are compiled again when they next run:
        torch's compiler does not notice new or removed hooks.

        Args:
            module: the UNet or transformer, compiled or not.
            scale: sets `scale`.
            branches: sets `branches`.

        Raises:
            LongalignError: another backbone, tokens with NaN, tokens that are attached already, or a model that has
                tokens already.
        """
        if self._attachment is not None:
            raise LongalignError("these soft tokens are attached to a model already: detach them first")
        self._check_finite("these soft tokens")
        self.scale = self.scale if scale is None else scale
        self.branches = self.branches if branches is None else branches
        self._attachment = Attachment(self, module)
        return self._attachment

    def detach(self) -> None:
        """Remove the tokens from their model, if they are on one."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.detach()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write them as safetensors, with the configuration in the file's metadata.

        Args:
            path: a name that ends in ``.safetensors``, or a folder, for ``soft_tokens.safetensors`` in it.

        Returns:
            the file.

        Raises:
            LongalignError: there is NaN in them, or the file cannot be written.
        """
        self._check_finite("these soft tokens")
        path = Path(path)
        file = path if path.suffix == ".safetensors" else path / FILE_NAME
        write_tensors(file, self.state_dict(), {_CONFIG: self.config.to_json()})
        return file

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> SoftTokens:
        """Read what `save` wrote, on the CPU and in float32.

        Args:
            path: as in `resolve_tokens`: an embedded name such as ``stickers/softrepa``, a run folder, the folder that
                holds the file, or the file.

        Raises:
            LongalignError: there is no such file; it is damaged or holds no soft tokens; its shapes differ from its
                configuration; or there is NaN in it.
        """
        path = resolve_tokens(path)
        file = path / FILE_NAME if path.is_dir() else path
        if file.suffix == ".pth" or (path.is_dir() and not file.exists() and any(path.glob("dc_*.pth"))):
            raise LongalignError(f"{path}: published tokens; make them readable by `longalign import` first")
        found, metadata = read_tensors(file)
        if _CONFIG not in metadata:
            raise LongalignError(f"{file}: holds no soft tokens (no {_CONFIG!r} in its metadata)")
        config = SoftTokenConfig.from_json(metadata[_CONFIG])
        check_shapes({name: t.shape for name, t in found.items()}, config.shapes, f"{file}: soft tokens")
        return cls.of_values(config, found, str(file))

    @classmethod
    def of_values(cls, config: SoftTokenConfig, values: dict[str, Tensor], source: str) -> SoftTokens:
        """Tokens with given values.

        Raises:
            LongalignError: there is NaN in them; `source` is named.
        """
        tokens = cls(config)
        tokens.load_state_dict(values)
        tokens._check_finite(source)
        return tokens

    def _check_finite(self, what: str) -> None:
        if not all(p.is_meta or bool(torch.isfinite(p).all()) for p in self.parameters()):
            raise LongalignError(f"{what}: NaN or infinity among the values, so the training went wrong")

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles of tokens are not attached and hold no model."""
        return {**self.__dict__, "_attachment": None, "_rows": None}
