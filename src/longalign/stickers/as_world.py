"""The sticker world as one of the worlds that commands ask by name (`longalign.worlds`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from longalign import stickers
from longalign.worlds import Mark, World

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from longalign.stickers.oracle import Reading
    from longalign.stickers.world import Scene

_READINGS = 256  # pictures; an evaluation's batch has fewer


class _Rendered(Mapping[str, "Image"]):
    """Prompt → its scene, drawn when it is asked for."""

    def __init__(self, scenes: Mapping[str, Scene]) -> None:
        self._scenes = scenes

    def __getitem__(self, prompt: str) -> Image:
        from longalign.stickers.world import render

        return render(self._scenes[prompt])

    def __iter__(self) -> Iterator[str]:
        return iter(self._scenes)

    def __len__(self) -> int:
        return len(self._scenes)


class StickerWorld(World):
    """Scenes of stickers, tiny models that draw them, and an oracle that reads their pixels."""

    name = "stickers"
    models = tuple(stickers.MODELS)
    plain_features = "stickers/clip"
    metric_models = MappingProxyType({"clipscore": "stickers/clip", "pickscore": "stickers/pickscore"})

    def __init__(self) -> None:
        self._readings: list[tuple[Image, Reading]] = []  # of the last pictures: several metrics ask for them

    def model_folder(self, model: str) -> Path:
        return stickers.folder(stickers.MODELS.get(model, model.removeprefix("stickers-")))

    def lora_names(self, model: str) -> list[str]:
        return [f"stickers/{name}" for name in stickers.lora_names()] if model == self.name else []

    def lora_folder(self, name: str) -> Path:
        return stickers.lora_folder(name.removeprefix("stickers/"))

    def token_names(self, model: str) -> list[str]:
        return [f"{model}/{name}" for name in stickers.token_names(model)]

    def token_folder(self, name: str) -> Path:
        model, _, rest = name.partition("/")
        return stickers.token_folder(rest, model)

    def preference_names(self) -> list[str]:
        return [f"stickers/{name}" for name in stickers.preference_names()]

    def preference_folders(self, name: str) -> tuple[Path, Path]:
        return stickers.preference_folder(*name.split("/")[1:2]), stickers.folder() / "tokenizer"

    def pictures(
        self,
        count: int,
        split: str = "train",
        seed: int = 0,
        objects: tuple[tuple[int, int], ...] = ((1, 9),),
        referring: float = 0.0,
        retold: int = 1,
    ) -> Any:
        from longalign.stickers.scene_source import StickerScenes

        return StickerScenes(count, split, seed, objects, referring, retold)

    def pairs(self, count: int, split: str = "train", seed: int = 0) -> Any:
        from longalign.stickers.raters import RaterPairs

        return RaterPairs(count, split, seed)

    def knows(self, sentences: Sequence[str]) -> list[bool]:
        from longalign.stickers.captions import parse_all

        return [fact is not None for fact in parse_all(list(sentences))]

    def judge(self, image: Image, sentences: Sequence[str]) -> list[Mark]:
        from longalign.stickers.captions import parse_all

        reading = self._read(image)
        return ["unjudged" if fact is None else reading.judge(fact) for fact in parse_all(list(sentences))]

    def _read(self, image: Image) -> Reading:
        from longalign.stickers.oracle import read

        for known, reading in self._readings:
            if known is image:
                return reading
        self._readings = [(image, read(image)), *self._readings[: _READINGS - 1]]
        return self._readings[0][1]

    def looks(self, image: Image) -> float:
        from longalign.stickers.looks import looks_of

        return looks_of(image)

    def counts(self, image: Image, prompt: str) -> Mapping[str, float] | None:
        from longalign.stickers.described import described_scene
        from longalign.stickers.objects import object_counts

        scene = described_scene(prompt)
        return None if scene is None else object_counts(self._read(image), scene)

    def reference(self, prompts: Sequence[str]) -> Mapping[str, Image]:
        from longalign.stickers.described import described_scene

        scenes = {prompt: described_scene(prompt) for prompt in dict.fromkeys(prompts)}
        return _Rendered({prompt: scene for prompt, scene in scenes.items() if scene})

    def false_caption(self, sentences: Sequence[str], rng: np.random.Generator) -> list[str] | None:
        from longalign.stickers.described import lied

        return lied(list(sentences), rng)
