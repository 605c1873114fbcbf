"""Worlds: data sets that are part of a package, with their models and a judge that decides which sentences are true.

A world called ``stickers`` owns the name ``stickers``, the model names ``stickers-…``, and the names ``stickers/…`` and
``stickers-…/…`` of LoRAs, soft tokens and preference models. All other names are folders, files or hub names. The table
below names each world as a string; a world is imported when one of its names is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from longalign.errors import LongalignError
from longalign.plugins import Table, unknown

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

Mark = Literal["true", "false", "unclear", "unjudged"]

DEFAULT = "stickers"  # the default model, data and judge of every command


class World:
    """Base class of worlds. Here every method returns nothing or refuses; a world overrides what it has.

    Attributes:
        name: its own name, with which all its other names begin.
        models: names of its models. Each is a diffusers folder.
        plain_features: name of a feature extractor for its pictures that no reward was trained on, or None.
        metric_models: name of a metric → the model that it takes for pictures of this world by default.
    """

    name = ""
    models: Sequence[str] = ()
    plain_features: str | None = None
    metric_models: Mapping[str, str] = {}

    def model_folder(self, model: str) -> Path:
        """The diffusers folder of one of `models`.

        Raises:
            LongalignError: there is none of this name.
        """
        raise LongalignError(unknown("embedded model", model, self.models))

    def lora_names(self, model: str) -> list[str]:
        """Names of the embedded LoRAs of a model, in the order of their training."""
        return []

    def lora_folder(self, name: str) -> Path:
        """The folder of an embedded LoRA.

        Raises:
            LongalignError: there is none of this name.
        """
        raise LongalignError(
            unknown("embedded LoRA", name, [n for m in self.models for n in self.lora_names(m)])
        )

    def token_names(self, model: str) -> list[str]:
        """Names of the embedded soft tokens of a model."""
        return []

    def token_folder(self, name: str) -> Path:
        """The folder of embedded soft tokens.

        Raises:
            LongalignError: there are none of this name.
        """
        raise LongalignError(
            unknown("embedded soft tokens", name, [n for m in self.models for n in self.token_names(m)])
        )

    def preference_names(self) -> list[str]:
        """Names of the embedded preference models: the plain one first, the default last."""
        return []

    def preference_folders(self, name: str) -> tuple[Path, Path]:
        """The folder of an embedded preference model, and that of its tokenizer. The world's own name is its default.

        Raises:
            LongalignError: there is none of this name.
        """
        raise LongalignError(unknown("embedded preference model", name, self.preference_names()))

    def pictures(
        self,
        count: int,
        split: str = "train",
        seed: int = 0,
        objects: tuple[tuple[int, int], ...] = ((1, 9),),
        referring: float = 0.0,
        retold: int = 1,
    ) -> Any:
        """Captioned pictures, a `longalign.data.entries.Source` that also has `text(index)` and `picture(index)`.

        Args:
            objects: least and most objects of a picture; of several such ranges pictures take one after the other.
            referring: share of captions with sentences that refer to the one before.
            retold: how often a caption says everything, each time in other words.

        Raises:
            LongalignError: the world has none.
        """
        raise LongalignError(f"the world {self.name!r} has no captioned pictures")

    def pairs(self, count: int, split: str = "train", seed: int = 0) -> Any:
        """Preference pairs of simulated raters, a `longalign.data.pairs.PreferenceData`.

        Raises:
            LongalignError: the world has none.
        """
        raise LongalignError(f"the world {self.name!r} has no preference pairs")

    def knows(self, sentences: Sequence[str]) -> list[bool]:
        """Which of the sentences the judge of this world can decide."""
        return [False] * len(sentences)

    def judge(self, image: Image, sentences: Sequence[str]) -> list[Mark]:
        """For each sentence, whether it is true of the picture. ``unjudged``: this world cannot judge the sentence."""
        return ["unjudged"] * len(sentences)

    def looks(self, image: Image) -> float:
        """Quality of the picture apart from its content: 0 is clean, less is worse. NaN: unknown."""
        return float("nan")

    def counts(self, image: Image, prompt: str) -> Mapping[str, float] | None:
        """Objects that the picture has too many or too few of, in a picture that the prompt describes completely.

        Returns:
            ``surplus``: objects where there should be none; ``copies``: those beyond the first of their kind;
            ``missing``: kinds that are nowhere. None: the prompt does not describe a whole picture.
        """
        return None

    def reference(self, prompts: Sequence[str]) -> Mapping[str, Image]:
        """Prompt → reference picture, for the prompts that describe a picture completely."""
        return {}

    def false_caption(self, sentences: Sequence[str], rng: np.random.Generator) -> list[str] | None:
        """The sentences after one word of one sentence was changed so that it is false; None if none can be changed."""
        return None


WORLDS = Table("world", {"stickers": "longalign.stickers.as_world:StickerWorld"})


def world(name: str | None) -> World:
    """The world of a name; for None a world that has nothing.

    Raises:
        LongalignError: there is none of this name.
    """
    return World() if name is None else WORLDS[name]()


def owner(name: str | os.PathLike[str]) -> World | None:
    """The world that owns a name such as ``stickers`` or ``stickers/sft``; None for a folder or hub name.

    A folder that exists under this very name counts as a folder, except for the bare name of a world.
    """
    told = os.fspath(name)
    head, slash, _ = told.partition("/")
    for of_world in WORLDS:
        if head == of_world or (head.startswith(f"{of_world}-") and (slash or not Path(told).exists())):
            found = world(of_world)
            return found if not slash or head in found.models else None
    return None


def owner_of_texts(sentences: Sequence[str]) -> World | None:
    """The first world that can judge at least half of the sentences, or None."""
    for name in WORLDS:
        candidate = world(name)
        if 2 * sum(candidate.knows(sentences)) >= len(sentences):
            return candidate
    return None


def resolve_model(name: str | os.PathLike[str]) -> str:
    """The folder or hub name that a model name stands for.

    Raises:
        LongalignError: the name begins with the name of a world, and that world has no such model.
    """
    told = os.fspath(name)
    found = None if "/" in told else owner(told)
    return told if found is None else str(found.model_folder(told))


def resolve_beside(name: str | os.PathLike[str], file_name: str) -> Path:
    """A file that stands beside the weights of a preference model.

    Args:
        name: the file itself, the folder that holds it, or an embedded preference model such as ``stickers/denscore``.
        file_name: of the file within the folder.

    Raises:
        LongalignError: there is no embedded preference model of this name.
    """
    told = os.fspath(name)
    of_world = owner(told)
    if of_world is not None and (told == of_world.name or "/" in told) and not Path(told).is_file():
        return of_world.preference_folders(told)[0] / file_name
    path = Path(told)
    return path / file_name if path.is_dir() else path
