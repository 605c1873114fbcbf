"""A stand-in for ComfyUI's CLIP object, on the text encoders of a diffusers pipeline.

ComfyUI cannot be imported here. What the stand-in does was taken from ComfyUI's source by reading (commit a125cd8 of
October 2025; `comfy/sd.py`, `sd1_clip.py`, `sdxl_clip.py`, `text_encoders/sd3_clip.py`):

- A text is split into runs of one weight. Each run is tokenised by itself. Windows of 77 are filled; a run of eight
  tokens and more is cut where the window is full, a shorter one moves into the next window as a whole. Unused places
  get the pad token: the end token for CLIP-L, 0 for CLIP-G (here: each tokenizer's own). T5 has one row of at least 77.
- The states of all windows are joined along the sequence; the pooled vector is that of the first window.
- A weight w moves a state z to w·(z − e) + e, where e is the state at its place in the empty prompt.
- SD1.5 reads the last layer behind the final norm, and pools without the projection. SDXL and SD3 read the last layer
  but one, without the norm. CLIP-G pools with its projection. SD3's CLIP-L pools without it: its projection is the
  identity there. SD3's states are widened by zeros to T5's width, and T5's stand behind them.
- No list of windows, as for ``l`` and ``g`` when T5 alone is wanted, gives no states. T5 without windows reads one end
  token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

WINDOW = 77
_LARGE = 8  # tokens of a run that may be cut

Pair = tuple[int, float]


class _Tokenizer:
    """ComfyUI's wrapper of a tokenizer of transformers, which it keeps as ``tokenizer``."""

    def __init__(self, tokenizer: Any, *, starts: bool) -> None:
        self.tokenizer = tokenizer
        self.starts = starts
        self.end = tokenizer.eos_token_id
        self.start = tokenizer("")["input_ids"][0] if starts else None
        self.pad = tokenizer.pad_token_id

    def windows(self, text: str) -> list[list[tuple[int, float, int]]]:
        runs = [
            [(token, weight) for token in self.tokenizer(said, verbose=False)["input_ids"][self.starts : -1]]
            for said, weight in runs_of(text)
            if said
        ]
        most = WINDOW if self.starts else 10**9
        head = [(self.start, 1.0, 0)] if self.start is not None else []
        found = [list(head)]
        for word, given in enumerate(runs, start=1):
            run = given
            while run:
                room = most - 1 - len(found[-1])
                if len(run) <= room:
                    found[-1] += [(t, w, word) for t, w in run]
                    break
                if len(given) >= _LARGE:
                    found[-1] += [(t, w, word) for t, w in run[:room]]
                    run = run[room:]
                self._close(found[-1])
                found.append(list(head))
        self._close(found[-1])
        return found

    def _close(self, window: list[tuple[int, float, int]]) -> None:
        window.append((self.end, 1.0, 0))
        window += [(self.pad, 1.0, 0)] * (WINDOW - len(window))


def runs_of(text: str, weight: float = 1.0) -> list[tuple[str, float]]:
    """Runs of one weight, brackets and backslashes removed."""
    runs: list[tuple[str, float]] = []
    said, depth, inner, i = "", 0, "", 0
    while i < len(text):
        two = text[i : i + 2]
        if two in ("\\(", "\\)"):
            said, inner = (said + two[1], inner) if depth == 0 else (said, inner + two)
            i += 2
            continue
        letter = text[i]
        if letter == "(":
            if depth == 0:
                runs, said = [*runs, (said, weight)], ""
            else:
                inner += letter
            depth += 1
        elif letter == ")" and depth:
            depth -= 1
            if depth:
                inner += letter
            else:
                runs += _of_brackets(inner, weight)
                inner = ""
        elif depth:
            inner += letter
        else:
            said += letter
        i += 1
    return [run for run in [*runs, (said, weight)] if run[0]]


def _of_brackets(inner: str, weight: float) -> list[tuple[str, float]]:
    """Runs of what stands between a pair of brackets. The number is behind the last colon, if it is one."""
    body, _, number = inner.rpartition(":")
    try:
        return runs_of(body, float(number)) if body else runs_of(inner, weight * 1.1)
    except ValueError:
        return runs_of(inner, weight * 1.1)


class _Tokenizers:
    """ComfyUI's tokenizer object: ``clip_l``, ``clip_g`` and ``t5xxl`` are attributes."""


class ComfyClip:
    """ComfyUI's CLIP object.

    Args:
        pipe: a pipeline of SD1.5, SDXL or SD3.
        without_t5: SD3 whose T5 is not loaded.

    Attributes:
        calls: the number of windows of each encoder, for each call.
    """

    def __init__(self, pipe: Any, *, without_t5: bool = False) -> None:
        self.tokenizer = _Tokenizers()
        self.models: dict[str, Any] = {"l": pipe.text_encoder}
        tokenizers = {"clip_l": _Tokenizer(pipe.tokenizer, starts=True)}
        self.deep = hasattr(pipe, "text_encoder_2")
        if self.deep:
            self.models["g"] = pipe.text_encoder_2
            tokenizers["clip_g"] = _Tokenizer(pipe.tokenizer_2, starts=True)
        self.width = None
        if hasattr(pipe, "text_encoder_3"):
            self.models["t5xxl"] = None if without_t5 else pipe.text_encoder_3
            tokenizers["t5xxl"] = _Tokenizer(pipe.tokenizer_3, starts=False)
            self.width = pipe.transformer.config.joint_attention_dim
        for name, tokenizer in tokenizers.items():
            setattr(self.tokenizer, name, tokenizer)
        self.calls: list[dict[str, int]] = []

    def tokenize(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list[list[Any]]]:
        found = {}
        for name, tokenizer in vars(self.tokenizer).items():
            windows = tokenizer.windows(text)
            found[name.removeprefix("clip_")] = [
                [token if return_word_ids else token[:2] for token in window] for window in windows
            ]
        return found

    def encode_from_tokens_scheduled(self, tokens: dict[str, list[list[Pair]]]) -> list[list[Any]]:
        cond, pooled = self.encode_from_tokens(tokens, return_pooled=True)
        return [[cond, {"pooled_output": pooled}]]

    @torch.no_grad()
    def encode_from_tokens(self, tokens: dict[str, list[list[Pair]]], return_pooled: bool = False) -> Any:
        assert set(tokens) == set(self.models)
        self.calls.append({name: len(windows) for name, windows in tokens.items()})
        states, pooled = [], []
        for name in ("l", "g"):
            if tokens.get(name):
                of_encoder, vector = self._clip(name, tokens[name])
                states.append(of_encoder)
                pooled.append(vector)
        cond = torch.cat(states, dim=-1) if states else None
        if self.width is not None:
            parts = [pad(cond, (0, self.width - cond.shape[-1]))] if cond is not None else []
            if self.models["t5xxl"] is not None:
                parts.append(self._t5(tokens["t5xxl"]))
            cond = torch.cat(parts, dim=1)
        vector = torch.cat(pooled, dim=-1) if self.width is not None and pooled else (pooled or [None])[-1]
        return (cond, vector) if return_pooled else cond

    def _clip(self, name: str, windows: list[list[Pair]]) -> tuple[Tensor, Tensor]:
        assert all(len(window) == WINDOW for window in windows)
        tokenizer = getattr(self.tokenizer, f"clip_{name}")
        empty = [(t, w) for t, w, _ in tokenizer.windows("")[0]]
        ids = torch.tensor([[token for token, _ in window] for window in [*windows, empty]])
        output = self.models[name](ids, output_hidden_states=True)
        states = output.hidden_states[-2] if self.deep else output.last_hidden_state
        end = (ids[0] == tokenizer.end).int().argmax()
        projection = getattr(self.models[name], "text_projection", None)
        vector = output.last_hidden_state[:1, end]
        if projection is not None and name == "g":
            vector = projection(vector)
        return _weighted(states, windows), vector

    def _t5(self, windows: list[list[Pair]]) -> Tensor:
        rows = windows or [[(self.tokenizer.t5xxl.end, 1.0)]]
        ids = torch.tensor([[token for token, _ in row] for row in rows])
        return self.models["t5xxl"](ids)[0].flatten(0, 1)[None]


def _weighted(states: Tensor, windows: list[list[Pair]]) -> Tensor:
    """(W + 1, 77, D) states of the windows and of the empty prompt → (1, W · 77, D)."""
    weights = torch.tensor([[weight for _, weight in window] for window in windows])[..., None]
    empty = states[-1]
    return (weights * (states[:-1] - empty) + empty).flatten(0, 1)[None]
