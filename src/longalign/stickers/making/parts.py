"""The tiny models and their losses, one class a part; and the base class `Part`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longalign.errors import LongalignError
from longalign.stickers import models
from longalign.stickers.captions import Sentence, caption, facts, lie, sentence, text_of
from longalign.stickers.making import patch_code
from longalign.stickers.making.readout import ReadableCLIP
from longalign.stickers.tokenizers import CLIP_WINDOW, make_clip_tokenizer, make_t5_tokenizer
from longalign.stickers.world import CELL_PX, KIND_NAMES, Scene, render_array, scene

T = TypeVar("T")


class Part(ABC):
    """One tiny model with its loss. `longalign.stickers.making.objective.StickerPart` trains it in the training loop.

    Args:
        device: where it is trained.
        folder: the parts that were trained before, a folder each.

    Attributes:
        module: the model.
        batch_size: scenes in a step.
        learning_rate: peak of the learning rate.
        evaluations: how many times `check` is called in a run; 0: never.
    """

    batch_size: ClassVar[int]
    learning_rate: ClassVar[float]
    evaluations: ClassVar[int] = 0
    module: Any

    @abstractmethod
    def __init__(self, device: torch.device, folder: Path) -> None: ...

    @property
    def trained(self) -> nn.Module:
        """What the optimiser updates: the parameters of this module that require gradients."""
        module: nn.Module = self.module
        return module

    @abstractmethod
    def loss(
        self, numbers: Sequence[int], share: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss on some scenes, and metrics.

        Args:
            numbers: numbers of the scenes.
            share: share of the run that is done, in [0, 1).
            rng: the step's random numbers.
        """

    def check(self) -> dict[str, float]:
        """Metrics on held-out scenes."""
        return {}

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model as diffusers or transformers folders below ``folder``."""


def earlier(folder: Path, name: str, part: str) -> Path:
    """The folder of a model that was trained before.

    Raises:
        LongalignError: it is missing; the message names the part to train.
    """
    if not (folder / name).is_dir():
        raise LongalignError(
            f"{folder}: has no {name}; train it first (longalign stickers train {part} --out {folder})"
        )
    return folder / name


def at_share(stages: Sequence[tuple[float, T]], share: float) -> T:
    """The value of a curriculum at a share of the run: pairs of the share up to which a value holds, and the value."""
    return next((value for until, value in stages if share < until), stages[-1][1])


def fits(said: list[Sentence]) -> bool:
    """Do the sentences fit CLIP's window? Words and full stops are one token each."""
    return sum(s.text.count(" ") + 2 for s in said) + 2 <= CLIP_WINDOW


def short_caption(scene: Scene, rng: np.random.Generator, most: int | None = None) -> list[Sentence]:
    """A caption that fits CLIP's window; the few of five stickers that do not are drawn again."""
    while True:
        said = caption(scene, rng, most=most)
        if fits(said):
            return said


def pixels(scenes: list[Scene]) -> Tensor:
    """(B, 3, 96, 96) in [−1, 1]."""
    stacked = torch.from_numpy(np.stack([render_array(s) for s in scenes]))
    return stacked.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def gaussian(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Standard normal float32 of a shape, from the step's random numbers."""
    return torch.from_numpy(rng.standard_normal(like.shape, dtype=np.float32)).to(like.device)


def autocast(device: torch.device, enabled: bool = True) -> Any:
    """bf16 where matrices are multiplied; three times faster than fp32 on CPUs that have it."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()


class VAE(Part):
    """The encoder learns the patch code (Gaussian likelihood), the decoder its inverse (L1 and L2).

    The first half of the steps sees single cells, then 2 × 2 of them, at last whole scenes: early on it is the
    number of steps that counts, and a network of convolutions does not mind.
    """

    batch_size = 8
    learning_rate = 1.2e-3
    l2_weight = 2.0
    encoder_weight = 0.05
    jitter = 0.05  # deviation of the noise on the decoder's input: denoisers are not exact
    crops = ((0.5, 1), (0.85, 2), (1.0, 3))  # until this share of the steps, so many cells a side

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device = device
        self.module: Any = models.make_vae().to(device)

    def loss(
        self, numbers: Sequence[int], share: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        side = at_share(self.crops, share)
        x = pixels([scene(i, objects=(2, 9)) for i in numbers])
        top, left = CELL_PX * rng.integers(0, 4 - side, size=2)
        x = x[:, :, top : top + side * CELL_PX, left : left + side * CELL_PX].contiguous().to(self.device)
        code = patch_code.encode(x)
        with autocast(self.device):
            posterior = self.module.encode(x).latent_dist
            decoded = self.module.decode(code + self.jitter * gaussian(code, rng)).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        nll = ((code - mean).square() * (-logvar).exp() + logvar).mean() / 2
        error = decoded.float() - x
        l1, l2 = error.abs().mean(), error.square().mean()
        logged = {"l1": l1.item(), "code_error": (code - mean).square().mean().sqrt().item()}
        return l1 + self.l2_weight * l2 + self.encoder_weight * nll, logged

    def save(self, folder: Path) -> None:
        self.module.register_to_config(scaling_factor=1.0)  # the patch code has deviation one already
        self.module.save_pretrained(folder / "vae")


class CLIP(Part):
    """Contrastive training on pictures and captions of at most 77 tokens, with one lie a caption as a hard negative.

    Contrast alone teaches what is in a scene and not where (LOG.md, 2026-11-21): among scenes drawn from all kinds the
    list of kinds tells a scene from all others. So every second batch draws from six kinds only, and linear readouts,
    thrown away afterwards, ask both towers for the contents of every cell, and the text tower at each full stop for
    what the sentence said. Three captions in ten state only some facts.
    """

    batch_size = 128
    learning_rate = 1.5e-3
    partial = 0.3
    readout_weight = 1.0

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device = device
        self.module: Any = ReadableCLIP(models.make_clip()).to(device)
        self.tokenizer = make_clip_tokenizer()
        self.full_stop = self.tokenizer.convert_tokens_to_ids(".</w>")

    def texts(
        self, scenes: list[Scene], rng: np.random.Generator
    ) -> tuple[list[list[Sentence]], list[list[Sentence]]]:
        """A caption of each scene, and the same with one sentence turned into a lie."""
        true, false = [], []
        for s in scenes:
            most = int(rng.integers(1, 4)) if rng.random() < self.partial else None
            said = short_caption(s, rng, most=most)
            liar = int(rng.integers(len(said)))
            lied = list(said)
            lied[liar] = sentence(lie(s, said[liar].fact, rng), rng)
            while not fits(lied):
                lied[liar] = sentence(lied[liar].fact, rng)
            true.append(said)
            false.append(lied)
        return true, false

    def read_texts(self, captions: list[list[Sentence]]) -> tuple[Tensor, Tensor]:
        """Embeddings (N, D), and the readout's loss on them and on the states at the full stops.

        Texts go through in chunks of like length, which halves the padding.
        """
        ids = self.tokenizer([text_of(c) for c in captions]).input_ids
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        embedded: list[Tensor] = []
        stops: list[Tensor] = []
        for start in range(0, len(order), 64):
            chunk = [ids[i] for i in order[start : start + 64]]
            longest = max(map(len, chunk))
            padded = torch.tensor([c + [self.tokenizer.pad_token_id] * (longest - len(c)) for c in chunk])
            output = self.module.clip.get_text_features(input_ids=padded.to(self.device))
            embedded.append(output.pooler_output)
            stops.append(output.last_hidden_state[padded == self.full_stop])
        said = [s.fact for i in order for s in captions[i]]
        at_stops = self.module.sentence_loss(torch.cat(stops), said)
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        embeddings = torch.cat(embedded)[back.to(self.device)]
        whole = self.module.layout_loss(embeddings, [[s.fact for s in c] for c in captions])
        return embeddings, at_stops + whole

    def loss(
        self, numbers: Sequence[int], share: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        kinds = [KIND_NAMES[k] for k in rng.permutation(len(KIND_NAMES))[: rng.choice([6, len(KIND_NAMES)])]]
        scenes = [scene(i, kinds=kinds) for i in numbers]
        true, false = self.texts(scenes, rng)
        x = pixels(scenes).to(self.device)
        with autocast(self.device):
            image = self.module.clip.get_image_features(pixel_values=x).pooler_output
            text, text_readout = self.read_texts(true + false)
            image_readout = self.module.layout_loss(image, [facts(s) for s in scenes])
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        scale = self.module.clip.logit_scale.clamp(max=math.log(100)).exp()
        logits = scale * image @ text.T  # (B, 2B)
        label = torch.arange(len(scenes), device=self.device)
        square = logits[:, : len(scenes)]
        contrast = (F.cross_entropy(logits, label) + F.cross_entropy(square.T, label)) / 2
        with torch.no_grad():
            r1 = (square.argmax(0) == label).float().mean()
            honest = (square.diagonal() > logits[:, len(scenes) :].diagonal()).float().mean()
        logged = {
            "contrast": contrast.item(),
            "text_readout": text_readout.item(),
            "image_readout": image_readout.item(),
            "r1": float(r1),
            "true_over_lie": float(honest),
            "scale": scale.item(),
        }
        return contrast + self.readout_weight * (text_readout + image_readout), logged

    def save(self, folder: Path) -> None:
        self.module.clip.save_pretrained(folder / "clip")
        models.text_encoder_of(self.module.clip).save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")


class T5(Part):
    """Span denoising on captions, as T5 was pretrained: 15 % of the tokens, spans of three."""

    batch_size = 128
    learning_rate = 2e-3

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device = device
        self.module: Any = models.make_t5().to(device)
        self.tokenizer = make_t5_tokenizer()
        self.sentinels = self.tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(20)])

    def corrupt(self, ids: list[int], rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """Source with spans replaced by sentinels, target with the spans (Raffel et al., §3.1.4)."""
        spans = max(1, round(0.15 * len(ids) / 3))
        starts = np.sort(
            rng.choice(np.arange(0, max(len(ids) - 3, 1), 4), min(spans, max(len(ids) // 4, 1)), False)
        )
        source, target, at = [], [], 0
        for sentinel, start in zip(self.sentinels, starts, strict=False):
            source += [*ids[at:start], sentinel]
            target += [sentinel, *ids[start : start + 3]]
            at = start + 3
        eos = self.tokenizer.eos_token_id
        return [*source, *ids[at:], eos], [*target, eos]

    def loss(
        self, numbers: Sequence[int], share: float, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        scenes = [scene(i) for i in numbers]
        said = [text_of(short_caption(s, rng)) for s in scenes]
        pairs = [self.corrupt(i, rng) for i in self.tokenizer(said, add_special_tokens=False).input_ids]
        source, mask = _pad([p[0] for p in pairs], 0)
        labels, _ = _pad([p[1] for p in pairs], -100)
        with autocast(self.device):
            loss = self.module(
                input_ids=source.to(self.device),
                attention_mask=mask.to(self.device),
                labels=labels.to(self.device),
            ).loss
        return loss, {}

    def save(self, folder: Path) -> None:
        models.encoder_of(self.module).save_pretrained(folder / "t5")
        self.tokenizer.save_pretrained(folder / "t5_tokenizer")


def _pad(rows: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    padded = torch.tensor([r + [value] * (longest - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
    return padded, mask
