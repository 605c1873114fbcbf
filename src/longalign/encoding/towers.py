"""`Tower`: one CLIP text encoder, which encodes many short texts at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from longalign.backbones.base import Backbone
from longalign.encoding.batching import batches, call_cost_tokens
from longalign.encoding.cache import EncodingCache, States, fingerprint
from longalign.encoding.packing import Row, pack, row_tensors, tree_mask
from longalign.encoding.strategy import PadStar
from longalign.encoding.text_parts import TextParts, run_device
from longalign.encoding.tokens import Ids, Tokens, masked_rows, pad_ids, tokenise
from longalign.errors import LongalignError

_RELEASED_PADS = 60  # the published weights were trained with the mean of the last 60 of the 77 positions


@dataclass(frozen=True)
class Need:
    """What is needed of a text's encoding: the first ``tokens`` states, and the pooled vector if ``pooled``."""

    tokens: int
    pooled: bool = False

    def __or__(self, other: Need) -> Need:
        return Need(max(self.tokens, other.tokens), self.pooled or other.pooled)


@dataclass(frozen=True, eq=False)
class Tower:
    """A CLIP text encoder with its tokenizer.

    Attributes:
        window: most tokens of a row, with the special tokens.
        backbone: of the model; it says which of the encoder's outputs are read.
        clip_skip: how many of the last layers are skipped, as diffusers counts; None: those that the backbone skips.
    """

    name: str
    tokenizer: Any
    model: Any
    device: torch.device
    window: int
    backbone: Backbone
    clip_skip: int | None = None

    @classmethod
    def all_of(cls, parts: TextParts) -> list[Tower]:
        """The CLIP encoders of a model."""
        towers = []
        for name, tokenizer, model in zip(parts.names, parts.tokenizers, parts.text_encoders, strict=True):
            if name == parts.backbone.t5:
                continue
            if len(tokenizer("")["input_ids"]) != 2:
                raise LongalignError(
                    f"the tokenizer of {name} does not put one start and one end token around a text"
                )
            window = min(tokenizer.model_max_length, model.config.max_position_embeddings)
            device = run_device(model, parts.device)
            towers.append(cls(name, tokenizer, model, device, window, parts.backbone))
        return towers

    def skipping(self, layers: int | None) -> Tower:
        """The same encoder, whose states are read so many layers earlier.

        Raises:
            LongalignError: the encoder has no such layer.
        """
        if layers is None:
            return self
        most = self.model.config.num_hidden_layers - self.backbone.penultimate
        if not 0 <= layers <= most:
            raise LongalignError(
                f"clip_skip={layers}: {self.name} has {self.model.config.num_hidden_layers} layers: "
                f"choose 0 to {most}"
            )
        return replace(self, clip_skip=layers)

    def tokenise(self, texts: list[str], *, repair: bool = False) -> dict[str, Tokens]:
        return tokenise(self.tokenizer, texts, before=1, repair=repair)

    def call(
        self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, T) ids → (B, T, D) states and (B, P) pooled vectors, by the operations of diffusers' pipelines.

        Only models whose configuration asks for it use the mask; the others attend to their pads. This changes no state
        before a pad, because CLIP's text model is causal.

        Args:
            mask: (B, T), 1 where there is text.
            places: (B, T) positions, when they are not 0, 1, …; ``mask`` is then a `tree_mask` and always used.
        """
        kwargs = {} if places is None else {"position_ids": places.to(self.device)}
        if places is not None or getattr(self.model.config, "use_attention_mask", False):
            kwargs["attention_mask"] = mask.to(self.device)
        return self._states(ids, **kwargs)

    def masked(self, ids: Ids, length: int, hidden: Sequence[Sequence[int]]) -> torch.Tensor:
        """(R, length, D) states of one row of tokens, with other places of it masked in each of R rows."""
        rows, mask = masked_rows(ids, length, hidden, self.tokenizer.pad_token_id)
        return self._states(rows, attention_mask=mask.to(self.device))[0]

    def _states(self, ids: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        every_layer = self.backbone.penultimate or self.clip_skip is not None
        output = self.model(ids.to(self.device), output_hidden_states=every_layer, **kwargs)
        states, pooled = self.backbone.clip_states(output)
        if self.clip_skip is not None:
            states = self.backbone.skipped_states(output, self.model, self.clip_skip)
        return states, pooled

    def encode(
        self, needs: Mapping[Ids, Need], batch_size: int, cache: EncodingCache | None = None
    ) -> dict[Ids, States]:
        """Encodes each text once. A row of the window's length holds as many texts as fit (`packing.py`).

        Args:
            needs: the texts, as token ids with start and end token, and what is needed of each. An end token
                that is not needed is not computed, because no other state depends on it.
        """
        found: dict[Ids, States] = {}
        key = (fingerprint(self.model), *self._layer) if cache is not None and needs else None
        if cache is not None:
            for ids, need in needs.items():
                if states := cache.get((key, ids), need.tokens, need.pooled, self.device):
                    found[ids] = states
        if any(need.pooled for need in needs.values()):
            self._check_pooling()

        missing = {ids: need for ids, need in needs.items() if ids not in found}
        for ids, states in self._run(missing, batch_size):
            found[ids] = states
            if cache is not None:
                cache.put((key, ids), states)
        return found

    @property
    def _layer(self) -> tuple[bool, int | None]:
        """Which layer's states are read."""
        return self.backbone.penultimate, self.clip_skip

    def _run(self, needs: Mapping[Ids, Need], batch_size: int) -> Iterator[tuple[Ids, States]]:
        # The number of tokens of each text that the model reads. The pooled vector is read at the end token.
        length = {ids: max(need.tokens, len(ids) if need.pooled else 0) for ids, need in needs.items()}
        users: dict[Ids, list[Ids]] = {}
        for ids in needs:
            users.setdefault(ids[: length[ids]], []).append(ids)
        # The model pools at the first end token of a row; pads are not tokens of the text.
        alone = {ids[: length[ids]] for ids, need in needs.items() if need.pooled or need.tokens > len(ids)}
        rows = pack(users, self.window if self._takes_trees() else 0, alone)
        n_tokens = {row: max(len(row.ids), *(length[i] for t in row.at for i in users[t])) for row in rows}

        rows.sort(key=n_tokens.__getitem__)
        call_cost = call_cost_tokens(self.device.type)
        for batch in batches([n_tokens[row] for row in rows], call_cost, batch_size):
            longest = n_tokens[rows[batch.stop - 1]]
            hidden, pooled = self._call_rows(rows[batch], longest)  # (B, T, D), (B, P)
            found: list[tuple[int, Ids]] = []  # row and text
            where: list[int] = []
            for b, row in enumerate(rows[batch]):
                for text, at in row.at.items():
                    and_pads = [
                        *at,
                        *range(len(at), longest),
                    ]  # needed only of texts that are alone in their row
                    for ids in users[text]:
                        found.append((b, ids))
                        where += [b * longest + i for i in and_pads[: needs[ids].tokens]]
            states = hidden.flatten(0, 1)[torch.tensor(where, dtype=torch.long, device=hidden.device)]
            sizes = [needs[ids].tokens for _, ids in found]
            for (b, ids), tokens in zip(found, states.split(sizes), strict=True):
                if needs[ids].pooled and pooled is None:
                    raise LongalignError(f"{self.name} has no projection, so it gives no pooled vector")
                yield ids, States(tokens, pooled[b] if needs[ids].pooled and pooled is not None else None)

    def _call_rows(self, rows: Sequence[Row], length: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`call` for rows that may be trees, each filled up to ``length``."""
        pad_id = self.tokenizer.pad_token_id
        if all(row.is_one_text for row in rows):
            return self.call(*pad_ids([tuple(row.ids) for row in rows], length, pad_id))
        ids, places = row_tensors(rows, length, pad_id)
        mask = tree_mask(places, self.model.dtype)
        return self.call(ids, mask, places)

    def _takes_trees(self) -> bool:
        """Whether the model accepts a mask for every token: not with flash attention, nor if it masks pads itself."""
        config = self.model.config
        masked = getattr(config, "use_attention_mask", False)
        return config._attn_implementation in ("sdpa", "eager") and not masked

    @torch.no_grad()
    def pad_star(self, variant: PadStar) -> torch.Tensor:
        """(D,) pad*: the mean state over the pad positions of the empty prompt (App. A).

        It is kept on the CPU while the encoder exists and its weights stay the same.
        """
        remembered = _PADS.setdefault(self.model, {})
        key = (fingerprint(self.model), *self._layer, self.window, self.tokenizer.pad_token_id, variant)
        if key not in remembered:
            if len(remembered) >= 8:  # an encoder in training changes its weights all the time
                remembered.clear()
            states = self.empty(self.window)
            first = 2 if variant == "paper" else max(2, self.window - _RELEASED_PADS)
            remembered[key] = states[first:].float().mean(dim=0).to(states.dtype).cpu()
        return remembered[key].to(self.device)

    def empty(self, length: int) -> torch.Tensor:
        """(length, D) states of the empty prompt: its start and end token, and pads."""
        empty = tuple(self.tokenizer("")["input_ids"])
        return self.encode({empty: Need(length)}, 1)[empty].tokens

    def _check_pooling(self) -> None:
        end = self.model.config.eos_token_id
        # Old configurations say 2; the model then pools at the highest id, which is the end token's.
        if end not in (2, self.tokenizer.eos_token_id):
            warnings.warn(
                f"{self.name} pools at token id {end}, but its tokenizer ends a text with "
                f"{self.tokenizer.eos_token_id}: every text gets the same pooled vector. Set eos_token_id in "
                "its configuration",
                stacklevel=2,
            )


_PADS: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], torch.Tensor]] = WeakKeyDictionary()
