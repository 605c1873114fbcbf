"""Encoding by segments with ComfyUI's CLIP object (LongAlign, arXiv 2410.11817, §3.1 and App. A).

ComfyUI cuts a long prompt every 75 tokens, in the middle of sentences, and joins the pieces with all their start, end
and pad tokens. Here each sentence is a piece, and a row is ``<sot> Text1. <sot> Text2. … <pad*>``. The pieces go
through ComfyUI's own tokenizer and `encode_from_tokens_scheduled` in one call. So LoRAs on the CLIP, hooks, weights,
textual inversion and "CLIP Set Last Layer" act as they do in ComfyUI's own node.

What is assumed of the CLIP object: ``tokenize(text, return_word_ids=True)`` gives, for each text encoder's name, a list
of windows of (token, weight, word), where word 0 marks start, end and pad tokens. ``encode_from_tokens_scheduled``
takes the same without the words, joins the states of all windows along the sequence, and gives pairs of states
(1, windows · 77, D) and a dictionary with ``pooled_output``, which is that of the first window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longalign.encoding.cleaning import clean
from longalign.encoding.segments import Segment, Segmenter
from longalign.errors import LongalignError

from .weights import Weighted, escaped, read_weights

T5 = "t5xxl"
FAMILIES = {  # names of the text encoders → model
    frozenset({"l"}): "SD 1.x",
    frozenset({"h"}): "SD 2.x",
    frozenset({"g"}): "SDXL refiner",
    frozenset({"g", "l"}): "SDXL",
    frozenset({"g", "l", T5}): "SD3",
}
STRATEGIES = ("auto", "segments", "plain")
POOLED = ("whole", "first")
PAD_STARS = ("paper", "released")
MODES = ("sentence", "packed", "released")
_RELEASED_PADS = 60  # the published weights were trained with the mean of the last 60 positions
_NO_LIMIT = 100_000  # transformers writes "no limit" as 1e30

Token = tuple[Any, float, int]  # id or vector of a textual inversion, weight, word (0: special)
Window = list[Token]
Conditioning = list[list[Any]]  # ComfyUI's: [states (1, L, D), {"pooled_output": (1, P), …}], one or several


@dataclass(frozen=True)
class Settings:
    """How prompts are encoded. The meanings are those of `longalign.encode`.

    Attributes:
        strategy: ``segments``; ``plain``, which is ComfyUI's own; or ``auto``: plain where prompt and negative prompt
            fit the window, else segments.
        length: the row is padded to a multiple of this many tokens.
        segments: how prompts are cut: ``sentence``, ``packed`` or ``released``.
        pooled: the pooled vector is that of the ``whole`` prompt, cut to the window, or of the ``first`` segment.
        pad_star: which pad positions of the empty prompt are averaged: all (``paper``) or the last 60 (``released``).
        language: of the prompts.
    """

    strategy: str = "auto"
    length: int = 240
    segments: str = "sentence"
    pooled: str = "whole"
    pad_star: str = "paper"
    language: str = "en"

    def __post_init__(self) -> None:
        choices = {"strategy": STRATEGIES, "segments": MODES, "pooled": POOLED, "pad_star": PAD_STARS}
        for name, known in choices.items():
            if (given := getattr(self, name)) not in known:
                raise LongalignError(f"{name} {given!r} is unknown: choose one of {', '.join(known)}")
        if self.length < 1:
            raise LongalignError(f"length must be at least 1, not {self.length}")


@dataclass(eq=False)
class _Reading:
    """A text as token windows.

    Attributes:
        segments: its sentences.
        rows: for each segment (a longer one has several), each CLIP's window.
        counts: text tokens of each row, of the CLIP with most.
        whole: each CLIP's first window of the whole text.
        t5: T5's tokens of the whole text, without pads.
        cut: T5's tokens that do not fit.
    """

    segments: list[Segment]
    rows: list[dict[str, Window]]
    counts: list[int]
    whole: dict[str, Window]
    t5: Window
    cut: int = 0

    @property
    def length(self) -> int:
        """Positions of the joined row: a start token and the text of each segment."""
        return sum(1 + count for count in self.counts)


class ComfyText:
    """ComfyUI's CLIP object, for encoding by segments.

    Args:
        clip: the object that a CLIP output of a ComfyUI node holds.
        settings: how prompts are encoded.

    Raises:
        LongalignError: there is no CLIP, or it is of a model other than SD 1.x, 2.x, XL and 3.
    """

    def __init__(self, clip: Any, settings: Settings) -> None:
        if clip is None:
            raise LongalignError(
                "there is no CLIP: the checkpoint holds no text encoder. Load one with a CLIP loader node"
            )
        self.clip, self.settings = clip, settings
        empty: dict[str, list[Window]] = clip.tokenize("", return_word_ids=True)
        if frozenset(empty) not in FAMILIES:
            raise LongalignError(
                f"this CLIP reads with {', '.join(sorted(empty))}: segments are for "
                f"{', '.join(FAMILIES.values())}. Use ComfyUI's CLIP Text Encode for this model"
            )
        self.names = sorted(name for name in empty if name != T5)
        self.empty = {name: empty[name][0] for name in self.names}
        windows = {len(window) for window in self.empty.values()}
        if len(windows) > 1:
            raise LongalignError(
                f"the text encoders of this CLIP have different windows ({windows}): use one size"
            )
        self.window = windows.pop()
        self.t5_empty = empty[T5][0] if T5 in empty else None
        self.segmenter = Segmenter(
            settings.segments,  # type: ignore[arg-type]  # checked by Settings
            self._tokenizer(f"clip_{self.names[-1]}"),
            self.window,
            settings.language,
        )

    def encode(self, prompt: str, negative: str = "") -> tuple[Conditioning, Conditioning, str]:
        """Encodes a prompt and its negative prompt, both padded to one length.

        Args:
            prompt: of any length, with ComfyUI's weights.
            negative: likewise.

        Returns:
            two CONDITIONINGs, and a report of how the texts were read.
        """
        texts = [self._weighted(text) for text in (prompt, negative)]
        if self.settings.strategy == "plain" or (self.settings.strategy == "auto" and self._fit(texts)):
            plain = [
                self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))
                for text in (prompt, negative)
            ]
            return (
                plain[0],
                plain[1],
                "Read by ComfyUI's own encoding, since "
                + (
                    "it was asked for."
                    if self.settings.strategy == "plain"
                    else "both prompts fit the window."
                ),
            )
        readings = [self._read(text) for text in texts]
        clip_length = self._padded(max(reading.length for reading in readings))
        t5_length = self._padded(max(len(reading.t5) for reading in readings))
        pair = [self._run(reading, clip_length, t5_length) for reading in readings]
        names = ("prompt", "negative prompt")
        report = "\n".join(
            self._told(name, reading, clip_length) for name, reading in zip(names, readings, strict=True)
        )
        return pair[0], pair[1], report

    # Reading

    def _weighted(self, text: str) -> Weighted:
        if not isinstance(text, str):
            raise LongalignError(f"a prompt must be text, not {type(text).__name__}")
        return read_weights(text)

    def _fit(self, texts: Sequence[Weighted]) -> bool:
        return all(
            len(windows) == 1
            for text in texts
            for name, windows in self.clip.tokenize(text.written(), return_word_ids=True).items()
            if name != T5
        )

    def _read(self, text: Weighted) -> _Reading:
        segments = self.segmenter(text.text)
        if self.settings.segments == "released":  # rewrites the text, so weights cannot be kept
            written = [escaped(clean(segment.text).text) for segment in segments]
        else:
            written = [text.written(segment.start, segment.end, repair=True) for segment in segments]
        rows: list[dict[str, Window]] = []
        for said in written:
            tokens = self.clip.tokenize(said, return_word_ids=True)
            # A piece is longer than a window only where the tokenizer is unknown, or with textual inversions.
            rows += [
                {name: _at(tokens[name], k, self.empty[name]) for name in self.names}
                for k in range(max(len(tokens[name]) for name in self.names))
            ]
        counts = [max(len(_words(window)) for window in row.values()) for row in rows]
        whole = self.clip.tokenize(text.written(repair=True), return_word_ids=True)
        reading = _Reading(segments, rows, counts, {n: self._first(n, whole[n]) for n in self.names}, [])
        if self.t5_empty is not None:
            self._read_t5(reading, self.clip.tokenize(text.written(), return_word_ids=True)[T5][0])
        return reading

    def _first(self, name: str, windows: Sequence[Window]) -> Window:
        """One window of the first tokens of a text that fills several."""
        start, end, pad = self.empty[name][0], self.empty[name][1], self.empty[name][-1]
        words = [token for window in windows for token in _words(window)][: self.window - 2]
        return _filled([start, *words, end], self.window, pad)

    def _read_t5(self, reading: _Reading, tokens: Window) -> None:
        assert self.t5_empty is not None
        end, words = self.t5_empty[0], _words(tokens)
        limit = getattr(self._tokenizer(T5), "model_max_length", _NO_LIMIT)
        room = limit - 1 if limit < _NO_LIMIT else len(words)
        reading.cut = max(len(words) - room, 0)
        reading.t5 = [*words[:room], end]

    def _tokenizer(self, name: str) -> Any:
        """The tokenizer of transformers behind ComfyUI's, or None: words then stand for tokens."""
        own = getattr(getattr(self.clip, "tokenizer", None), name, None)
        tokenizer = getattr(own, "tokenizer", None)
        return tokenizer if hasattr(tokenizer, "num_special_tokens_to_add") else None

    def _padded(self, tokens: int) -> int:
        return max(-(-tokens // self.settings.length), 1) * self.settings.length

    # Encoding

    def _run(self, reading: _Reading, clip_length: int, t5_length: int) -> Conditioning:
        first = [reading.whole] if self.settings.pooled == "whole" else []
        windows = [*first, *reading.rows, self.empty]  # the pooled vector is that of the first
        found = self._scheduled({name: [row[name] for row in windows] for name in self.names})
        whole_windows = len(windows) * self.window
        if any(states.shape[1] < whole_windows for states, _ in found):
            raise LongalignError(
                "this CLIP has neither CLIP-L nor CLIP-G, and T5 reads whole prompts: use ComfyUI's CLIP Text Encode"
            )
        behind = [None] * len(found)
        if self.t5_empty is not None and found[0][0].shape[1] > whole_windows:  # T5 is loaded
            pad = self.t5_empty[-1] if len(self.t5_empty) > 1 else (0, 1.0, 0)
            tokens = _filled(reading.t5, t5_length, pad)
            behind = [states for states, _ in self._scheduled({T5: [tokens]})]
        result: Conditioning = []
        for (states, told), t5 in zip(found, behind, strict=True):
            by_window = states[:, :whole_windows].reshape(len(windows), self.window, -1)  # (W, 77, D)
            row = self._joined(by_window[len(first) : -1], by_window[-1], reading.counts, clip_length)
            kept = {name: value for name, value in told.items() if name != "attention_mask"}
            result.append([(row if t5 is None else torch.cat([row, t5.to(row)], dim=1)), kept])
        return result

    def _scheduled(self, windows: dict[str, list[Window]]) -> Conditioning:
        """ComfyUI's encoding of given windows; text encoders that are not named get none."""
        names = [*self.names, *([T5] if self.t5_empty is not None else [])]
        tokens = {name: [[(t, w) for t, w, _ in row] for row in windows.get(name, [])] for name in names}
        return self.clip.encode_from_tokens_scheduled(tokens)

    # <sot> Text1. <sot> Text2. … <pad*>
    def _joined(self, states: Tensor, empty: Tensor, counts: Sequence[int], length: int) -> Tensor:
        """(W, 77, D) states of segments and (77, D) of the empty prompt → (1, length, D)."""
        pads = (
            empty[2:] if self.settings.pad_star == "paper" else empty[max(2, self.window - _RELEASED_PADS) :]
        )
        pad_star = pads.float().mean(dim=0).to(states.dtype)  # (D,)
        pieces = [of_segment[: 1 + count] for of_segment, count in zip(states, counts, strict=True)]
        row = torch.cat(pieces)  # (n, D)
        return torch.cat([row, pad_star.expand(length - len(row), -1)])[None]

    def _told(self, name: str, reading: _Reading, clip_length: int) -> str:
        lines = [
            f"{name}: {len(reading.segments)} segments, {reading.length} tokens, padded to {clip_length}"
        ]
        lines += [f"  {i + 1}. {segment.text}" for i, segment in enumerate(reading.segments)]
        if reading.cut:
            lines.append(f"  T5 does not read the last {reading.cut} of its tokens")
        return "\n".join(lines)


def _words(window: Window) -> Window:
    """The tokens of a window that are text."""
    return [token for token in window if token[2] != 0]


def _at(windows: Sequence[Window], k: int, empty: Window) -> Window:
    return windows[k] if k < len(windows) else empty


def _filled(tokens: Window, length: int, pad: Token) -> Window:
    return [*tokens, *[(pad[0], 1.0, 0)] * (length - len(tokens))]
