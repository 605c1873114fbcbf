"""What each tiny model learns from: a class a part, which the loop in `training.py` knows as `Part`."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longalign.stickers import models, patch_code
from longalign.stickers.captions import Sentence, caption, lie, sentence, text_of
from longalign.stickers.tokenizers import CLIP_WINDOW, make_clip_tokenizer, make_t5_tokenizer
from longalign.stickers.world import CELL_PX, KIND_NAMES, Scene, render_array, scene


class Part(Protocol):
    """What the loop needs of a model to be trained."""

    module: Any
    batch_size: int
    learning_rate: float

    def loss(self, first: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss on scenes first … first + batch_size − 1, and what to log."""
        ...

    def save(self, module: Any, out: Path) -> None:
        """Write the trained (averaged) weights as a diffusers or transformers folder below `out`."""
        ...


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


def autocast(device: torch.device, enabled: bool = True) -> Any:
    """bf16 where matrices are multiplied; three times faster than fp32 on CPUs that have it."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()


class VAE:
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

    def __init__(self, device: torch.device, out: Path, steps: int) -> None:
        self.device, self.samples = device, steps * self.batch_size
        self.module: Any = models.make_vae().to(device)

    def loss(self, first: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        side = next(cells for until, cells in self.crops if first < until * self.samples)
        x = pixels([scene(i, objects=(2, 9)) for i in range(first, first + self.batch_size)])
        top, left = CELL_PX * rng.integers(0, 4 - side, size=2)
        x = x[:, :, top : top + side * CELL_PX, left : left + side * CELL_PX].contiguous().to(self.device)
        code = patch_code.encode(x)
        with autocast(self.device):
            posterior = self.module.encode(x).latent_dist
            decoded = self.module.decode(code + self.jitter * torch.randn_like(code)).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        nll = ((code - mean).square() * (-logvar).exp() + logvar).mean() / 2
        error = decoded.float() - x
        l1, l2 = error.abs().mean(), error.square().mean()
        logged = {"l1": l1.item(), "code_error": (code - mean).square().mean().sqrt().item()}
        return l1 + self.l2_weight * l2 + self.encoder_weight * nll, logged

    def save(self, module: Any, out: Path) -> None:
        module.register_to_config(scaling_factor=1.0)  # the patch code has deviation one already
        module.save_pretrained(out / "vae")


class CLIP:
    """Contrastive training on pictures and captions of at most 77 tokens, with one lie a caption as a hard negative.

    Six batches in ten have one or two stickers of two kinds, the others up to five of six kinds: among scenes
    drawn from all kinds the list of kinds tells a scene from all others, and where they stand is never learned
    (LOG.md, 2026-11-21). Three captions in ten state only some of the facts.
    """

    batch_size = 128
    learning_rate = 1.5e-3
    partial = 0.3

    def __init__(self, device: torch.device, out: Path, steps: int) -> None:
        self.device = device
        self.module: Any = models.make_clip().to(device)
        self.module.set_attn_implementation("eager")  # on CPUs SDPA's backward is twice as slow at this size
        self.tokenizer = make_clip_tokenizer()

    def texts(self, scenes: list[Scene], rng: np.random.Generator) -> tuple[list[str], list[str]]:
        true, false = [], []
        for s in scenes:
            most = int(rng.integers(2, 4)) if rng.random() < self.partial else None
            said = short_caption(s, rng, most=most)
            liar = int(rng.integers(len(said)))
            lied = list(said)
            lied[liar] = sentence(lie(s, said[liar].fact, rng), rng)
            while not fits(lied):
                lied[liar] = sentence(lied[liar].fact, rng)
            true.append(text_of(said))
            false.append(text_of(lied))
        return true, false

    def text_features(self, texts: list[str]) -> Tensor:
        """Unit embeddings (N, D); texts go through in chunks of like length, which halves the padding."""
        ids = self.tokenizer(texts).input_ids
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out: list[Tensor] = []
        for start in range(0, len(order), 64):
            chunk = [ids[i] for i in order[start : start + 64]]
            longest = max(map(len, chunk))
            padded = torch.tensor([c + [self.tokenizer.pad_token_id] * (longest - len(c)) for c in chunk])
            out.append(self.module.get_text_features(input_ids=padded.to(self.device)).pooler_output)
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return F.normalize(torch.cat(out)[back.to(self.device)].float(), dim=-1)

    def loss(self, first: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        few = rng.random() < 0.6
        kinds = [KIND_NAMES[k] for k in rng.permutation(len(KIND_NAMES))[: 2 if few else 6]]
        objects = (1, 2) if few else (1, 5)
        discs = not few and rng.random() < 0.5
        numbers = range(first, first + self.batch_size)
        scenes = [scene(i, kinds=kinds, discs=discs, objects=objects) for i in numbers]
        true, false = self.texts(scenes, rng)
        x = pixels(scenes).to(self.device)
        with autocast(self.device):
            image = self.module.get_image_features(pixel_values=x).pooler_output
            text = self.text_features(true + false)
        image = F.normalize(image.float(), dim=-1)
        scale = self.module.logit_scale.clamp(max=math.log(100)).exp()
        logits = scale * image @ text.T  # (B, 2B)
        label = torch.arange(len(scenes), device=self.device)
        square = logits[:, : len(scenes)]
        loss = (F.cross_entropy(logits, label) + F.cross_entropy(square.T, label)) / 2
        with torch.no_grad():
            r1 = (square.argmax(0) == label).float().mean()
            honest = (square.diagonal() > logits[:, len(scenes) :].diagonal()).float().mean()
        return loss, {"r1": float(r1), "true_over_lie": float(honest), "scale": scale.item()}

    def save(self, module: Any, out: Path) -> None:
        module.save_pretrained(out / "clip")
        models.text_encoder_of(module).save_pretrained(out / "text_encoder")
        self.tokenizer.save_pretrained(out / "tokenizer")


class UNet:
    """v-prediction on the patch code under the frozen CLIP text states of captions that fit 77 tokens."""

    batch_size = 128
    learning_rate = 8e-4
    caption_dropout = 0.1
    # Until this share of the run, so many stickers: what words mean is learned from one, whose is which from more.
    curriculum = ((0.3, (1, 1)), (0.5, (1, 2)), (1.0, (1, 5)))

    def __init__(self, device: torch.device, out: Path, steps: int) -> None:
        from transformers import CLIPTextModel

        self.device, self.samples = device, steps * self.batch_size
        self.module: Any = models.make_unet().to(device)
        self.scheduler = models.make_scheduler()
        self.tokenizer = make_clip_tokenizer()
        self.text_encoder = CLIPTextModel.from_pretrained(out / "text_encoder").to(device).eval()

    @torch.no_grad()
    def condition(self, scenes: list[Scene], rng: np.random.Generator) -> Tensor:
        """(B, 77, 128) text states, one caption in ten left empty."""
        texts = [
            "" if rng.random() < self.caption_dropout else text_of(short_caption(s, rng)) for s in scenes
        ]
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with autocast(self.device):
            return self.text_encoder(ids.to(self.device)).last_hidden_state

    def timesteps(self, rng: np.random.Generator) -> np.ndarray:
        """(B,) int64, 72 % of them 500 or more: stratified, which means less noise in the gradient.

        What is where is decided at high noise, where x_t does not show it yet and the text must be read.
        """
        strata = (np.arange(self.batch_size) + rng.random(self.batch_size)) / self.batch_size
        return (strata**0.55 * 1000).astype(np.int64)

    def loss(self, first: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        objects = next(count for until, count in self.curriculum if first < until * self.samples)
        scenes = [scene(i, objects=objects) for i in range(first, first + self.batch_size)]
        x0 = patch_code.encode(pixels(scenes).to(self.device))  # (B, 8, 6, 6)
        states = self.condition(scenes, rng)
        t = torch.from_numpy(self.timesteps(rng)).to(self.device)
        noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32)).to(self.device)
        noised = self.scheduler.add_noise(x0, noise, t)
        target = self.scheduler.get_velocity(x0, noise, t)
        with autocast(self.device):
            predicted = self.module(noised, t, states, return_dict=False)[0]
        per_sample = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        return per_sample.mean(), {"high_noise": per_sample.detach()[t > 700].mean().item()}

    def save(self, module: Any, out: Path) -> None:
        module.save_pretrained(out / "unet")
        self.scheduler.save_pretrained(out / "scheduler")


class T5:
    """Span denoising on captions, as T5 was pretrained: 15 % of the tokens, spans of three."""

    batch_size = 128
    learning_rate = 2e-3

    def __init__(self, device: torch.device, out: Path, steps: int) -> None:
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

    def loss(self, first: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        scenes = [scene(i) for i in range(first, first + self.batch_size)]
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

    def save(self, module: Any, out: Path) -> None:
        models.encoder_of(module).save_pretrained(out / "t5")
        self.tokenizer.save_pretrained(out / "t5_tokenizer")


class Adapter(UNet):
    """The T5 → UNet adapter, trained by the diffusion loss of the frozen UNet on short captions (as LaVi-Bridge's)."""

    learning_rate = 1.5e-3

    def __init__(self, device: torch.device, out: Path, steps: int) -> None:
        from diffusers import UNet2DConditionModel
        from transformers import T5EncoderModel

        super().__init__(device, out, steps)
        unet = UNet2DConditionModel.from_pretrained(out / "unet").to(device)
        self.t5 = T5EncoderModel.from_pretrained(out / "t5").to(device).eval()
        self.t5_tokenizer = make_t5_tokenizer()
        self.module = _Adapted(models.make_adapter().to(device), unet.requires_grad_(False).eval())

    def condition(self, scenes: list[Scene], rng: np.random.Generator) -> Tensor:
        texts = [
            "" if rng.random() < self.caption_dropout else text_of(short_caption(s, rng)) for s in scenes
        ]
        encoded = self.t5_tokenizer(
            texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).to(self.device)
        with torch.no_grad(), autocast(self.device):
            return self.t5(**encoded).last_hidden_state

    def save(self, module: Any, out: Path) -> None:
        module.adapter.save_pretrained(out / "adapter")


class _Adapted(nn.Module):
    def __init__(self, adapter: nn.Module, unet: nn.Module) -> None:
        super().__init__()
        self.adapter, self.unet = adapter, unet

    def forward(self, x: Tensor, t: Tensor, states: Tensor, return_dict: bool = False) -> Any:
        return self.unet(x, t, self.adapter(states), return_dict=return_dict)


def _pad(rows: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    padded = torch.tensor([r + [value] * (longest - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
    return padded, mask
