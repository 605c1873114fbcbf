"""Embeddings of long texts by any text encoder of transformers, with the pooling that its folder states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from longalign.errors import LongalignError
from longalign.hub import BROKEN_FILES, find_on_hub, reason_of
from longalign.runtime import inference, pick_device, pick_dtype, quiet

POOLINGS = ("mean", "cls", "lasttoken", "max")
_KNOWN = (
    "Transformer",
    "Pooling",
    "Normalize",
)  # modules of sentence-transformers; a cosine is normalised anyway
_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
}
_MOST_TOKENS = 8192  # as in TIT-Score's published code
_NO_LIMIT = 1 << 20  # a tokenizer without a window says 1e30


class TextEmbedder:
    """Texts → unit vectors.

    Args:
        model, tokenizer: as `AutoModel` and `AutoTokenizer` give them. Of an encoder-decoder the encoder is used.
        pooling: one of `POOLINGS`.
        window_tokens: longer texts are cut here.
        name: for messages.
    """

    def __init__(self, model: Any, tokenizer: Any, pooling: str, window_tokens: int, name: str) -> None:
        self.model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.tokenizer, self.pooling, self.window_tokens, self.name = tokenizer, pooling, window_tokens, name
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    @classmethod
    def from_pretrained(
        cls, name: str, *, pooling: str | None = None, device: str = "auto", dtype: str = "auto"
    ) -> TextEmbedder:
        """Load an encoder: a plain folder of transformers, or the layout of sentence-transformers.

        Args:
            name: a folder or hub name.
            pooling: one of `POOLINGS`; None: what the folder states, else ``mean``.
            device, dtype: as in `longalign.runtime`.

        Raises:
            LongalignError: no such model; a pooling or a module that is unknown here.
        """
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import cached_file

        local = Path(name).is_dir() or find_on_hub(name, "config.json", "text encoder")

        def read(file: str) -> Any:
            found = cached_file(
                name,
                file,
                local_files_only=local,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
            return None if found is None else json.loads(Path(found).read_text("utf-8"))

        device = pick_device(device)
        try:
            modules = read("modules.json") or []
            kinds = [module["type"].rpartition(".")[2] for module in modules]
            at = {kind: module["path"] for kind, module in zip(kinds, modules, strict=True)}
            if other := [kind for kind in kinds if kind not in _KNOWN]:
                raise LongalignError(
                    f"text encoder {name!r} has a module {other[0]!r}, which is unknown here (known are "
                    f"{', '.join(_KNOWN)}): name another one"
                )
            stated = (
                _stated_pooling(name, read(f"{at['Pooling']}/config.json") or {})
                if "Pooling" in at
                else "mean"
            )
            inside = {"subfolder": at["Transformer"]} if at.get("Transformer") else {}
            limits = read("/".join([*inside.values(), "sentence_bert_config.json"])) or {}
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local, **inside)
                model = AutoModel.from_pretrained(
                    name, dtype=pick_dtype(dtype, device), local_files_only=local, **inside
                )
        except LongalignError:
            raise
        except BROKEN_FILES as error:
            raise LongalignError(f"text encoder {name!r} cannot be loaded: {reason_of(error)}") from error
        if pooling is not None and pooling not in POOLINGS:
            raise LongalignError(f"pooling {pooling!r} is unknown; one of {', '.join(POOLINGS)}")
        known = [_MOST_TOKENS, limits.get("max_seq_length"), tokenizer.model_max_length]
        if tokenizer.model_max_length >= _NO_LIMIT:
            known.append(getattr(model.config, "max_position_embeddings", None))
        window = min(int(n) for n in known if n)
        return cls(model.to(device).eval(), tokenizer, pooling or stated, window, name)

    # e = h̄ / |h̄|,   h̄ = pooled states of the tokens that are no padding
    def __call__(self, texts: Sequence[str], batch_size: int = 8) -> Tensor:
        """Embed texts.

        Args:
            texts: N texts.
            batch_size: texts at once.

        Returns:
            (N, D) float32 unit vectors on the CPU.

        Raises:
            LongalignError: a number is not finite.
        """
        found = []
        with inference(self.model):
            for start in range(0, len(texts), batch_size):
                read = self.tokenizer(
                    list(texts[start : start + batch_size]),
                    padding=True,
                    truncation=True,
                    max_length=self.window_tokens,
                    return_tensors="pt",
                ).to(self.model.device)
                states = self.model(**read).last_hidden_state.float()  # (B, L, D)
                found.append(normalize(pooled(states, read["attention_mask"], self.pooling), dim=-1).cpu())
        embeddings = torch.cat(found) if found else torch.zeros(0, 1)
        if not embeddings.isfinite().all():
            raise LongalignError(f"text encoder {self.name!r}: a number is not finite: try float32")
        return embeddings

    def tokens_of(self, texts: Sequence[str]) -> list[int]:
        """The length of each text in tokens, before it is cut.

        Args:
            texts: N texts.
        """
        return [len(ids) for ids in self.tokenizer(list(texts)).input_ids] if texts else []


def pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector a text, of its tokens without padding (on the right).

    Args:
        states: (B, L, D).
        mask: (B, L) 1 at tokens.
        pooling: one of `POOLINGS`.

    Returns:
        (B, D)
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "lasttoken":
        return states[torch.arange(len(states)), mask.sum(1) - 1]
    there = mask[..., None].bool()
    if pooling == "max":
        return states.masked_fill(~there, float("-inf")).amax(1)
    return (states * there).sum(1) / there.sum(1)


def _stated_pooling(name: str, config: Mapping[str, Any]) -> str:
    """The one pooling that a configuration of sentence-transformers states, in the old form or the new one."""
    stated = config.get("pooling_mode")
    found = (
        [stated]
        if isinstance(stated, str)
        else [k for k, v in config.items() if k.startswith("pooling_mode") and v]
    )
    found = [_FLAGS.get(key, key) for key in found]
    if len(found) != 1 or found[0] not in POOLINGS:
        raise LongalignError(
            f"text encoder {name!r} is pooled by {' and '.join(found) or 'nothing'}, which is unknown here; choose one "
            f"of {', '.join(POOLINGS)}"
        )
    return str(found[0])
