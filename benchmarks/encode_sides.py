"""What the encoding benchmark compares: prompts, text encoders of true size, other ways of encoding."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from longalign.encoding import TextParts
from longalign.encoding.segments import Segmenter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))
from clip_vocab import real_clip_tokenizer

WORDS = {
    "adjective": "old small bright quiet wooden golden narrow broken painted distant heavy pale silver dusty",
    "noun": "house boat tree lamp road garden bridge tower window chair river hill dog horse child fence",
    "verb": "stands waits rests leans shines sleeps turns floats",
    "preposition": "beside|behind|under|above|near|across from|in front of|beyond",
}
TOKENS = 200  # of a prompt, about
WINDOW = 77


class Grammar:
    """Sentences of one to three clauses (8 to 30 tokens), none of them twice."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.words = {kind: words.split("|" if "|" in words else None) for kind, words in WORDS.items()}
        self.used: set[str] = set()

    def sentence(self) -> str:
        while True:
            clauses = [f"{self._noun_phrase()} {self._word('verb')} {self._place()}"]
            clauses += [self._place() for _ in range(self.random.randrange(3))]
            sentence = ", ".join(clauses).capitalize() + "."
            if sentence not in self.used:
                self.used.add(sentence)
                return sentence

    def sentences(self, tokens: int, tokenizer: Any) -> list[str]:
        """As many as come nearest to ``tokens`` in all."""
        chosen: list[str] = []
        count = 0
        while count < tokens - 8:
            chosen.append(self.sentence())
            count += len(tokenizer.tokenize(chosen[-1]))
        return chosen

    def _word(self, kind: str) -> str:
        return self.random.choice(self.words[kind])

    def _noun_phrase(self) -> str:
        return f"the {self._word('adjective')} {self._word('noun')}"

    def _place(self) -> str:
        return f"{self._word('preposition')} {self._noun_phrase()}"


def clip_l(layers: int) -> CLIPTextModel:
    """The text encoder of SD1.5, and SDXL's first: 12 layers of width 768."""
    config = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=12,
        hidden_act="quick_gelu",
        eos_token_id=49_407,
    )
    return CLIPTextModel(config).eval()


def big_g(layers: int) -> CLIPTextModelWithProjection:
    """SDXL's second text encoder: 32 layers of width 1280."""
    config = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=layers,
        num_attention_heads=20,
        hidden_act="gelu",
        projection_dim=1280,
        eos_token_id=49_407,
    )
    return CLIPTextModelWithProjection(config).eval()


def make_parts(family: str, quick: bool) -> TextParts:
    tokenizer = real_clip_tokenizer()
    torch.manual_seed(0)
    encoders = [clip_l(2 if quick else 12)] + ([big_g(2 if quick else 32)] if family == "sdxl" else [])
    return TextParts(family, (tokenizer,) * len(encoders), tuple(encoders), zero_negative=family == "sdxl")


def compel_of(parts: TextParts) -> Callable[[list[str]], Any]:
    """Compel as its own documentation uses it."""
    from compel import CompelForSD, CompelForSDXL

    pipe = SimpleNamespace(tokenizer=parts.tokenizers[0], text_encoder=parts.text_encoders[0])
    if parts.family == "sd15":
        return CompelForSD(pipe)
    pipe.tokenizer_2, pipe.text_encoder_2 = parts.tokenizers[1], parts.text_encoders[1]
    return CompelForSDXL(pipe)


@torch.no_grad()
def plain(parts: TextParts, prompts: Sequence[str], length: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Segment-level encoding as published: one call a sentence and encoder, padded to 77 (§3.1).

    (B, length, D) and, for SDXL, (B, P).
    """
    segmenter = Segmenter("sentence", parts.tokenizers[0], WINDOW)
    rows, pooled = [], []
    pads = torch.cat([_plain_states(parts, i, "")[0][2:].mean(0) for i in range(len(parts.text_encoders))])
    for prompt in prompts:
        tokens = []
        for segment in segmenter(prompt):
            states = [_plain_states(parts, i, segment.text) for i in range(len(parts.text_encoders))]
            end = min(n for _, n, _ in states)  # the place of <eot>
            tokens.append(torch.cat([hidden[:end] for hidden, _, _ in states], dim=-1))
        row = torch.cat(tokens)  # (n, D)
        rows.append(torch.cat([row, pads.expand(length - len(row), -1)]))
        if parts.family == "sdxl":
            pooled.append(_plain_states(parts, 1, prompt)[2])
    return torch.stack(rows), torch.stack(pooled) if pooled else None


def _plain_states(parts: TextParts, i: int, text: str) -> tuple[torch.Tensor, int, torch.Tensor]:
    """(77, D) states, the place of the end token, and what the model calls its first output."""
    settings = {"padding": "max_length", "max_length": WINDOW, "truncation": True, "return_tensors": "pt"}
    inputs = parts.tokenizers[i](text, **settings)
    sdxl = parts.family == "sdxl"
    output = parts.text_encoders[i](inputs.input_ids, output_hidden_states=sdxl)
    states = output.hidden_states[-2] if sdxl else output[0]
    return states[0], int(inputs.attention_mask.sum()) - 1, output[0][0]
