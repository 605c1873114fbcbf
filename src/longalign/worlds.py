"""Worlds: what is embedded in a package, by name, and a judge that knows the truth of sentences.

A world called ``stickers`` owns the names ``stickers``, ``stickers-…`` (models) and ``stickers/…``, ``stickers-…/…``
(LoRAs, soft tokens and preference models for them). All other names are folders, files or hub names. The table below
names each world as a string; a world is imported when one of its names is asked for.
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

DEFAULT = "stickers"  # the model, data and judge of every command that is told nothing else


class World:
    """A base class whose methods own nothing and know nothing; a world overrides what it has.

    Attributes:
        name: what its names begin with.
        models: names of its models. Each is a diffusers folder.
        plain_features: name of a feature extractor for its pictures that no reward was trained on, or None.
    """

    name = ""
    models: Sequence[str] = ()
    plain_features: str | None = None

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
    ) -> Any:
        """Captioned pictures, a `longalign.data.entries.Source` that also has `text(index)` and `picture(index)`.

        Args:
            objects: least and most objects of a picture; of several such ranges pictures take one after the other.
            referring: share of captions with sentences that refer to the one before.

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
        """Which sentences state something that the judge of this world can decide."""
        return [False] * len(sentences)

    def judge(self, image: Image, sentences: Sequence[str]) -> list[Mark]:
        """Is each sentence true of the picture? ``unjudged``: it states nothing that this world knows."""
        return ["unjudged"] * len(sentences)

    def looks(self, image: Image) -> float:
        """How good the picture looks, apart from what it shows: 0 is clean, less is worse. NaN: nobody can tell."""
        return float("nan")

    def reference(self, prompts: Sequence[str]) -> Mapping[str, Image]:
        """Prompt → the right picture, of those prompts that say all that there is to see."""
        return {}

    def false_caption(self, sentences: Sequence[str], rng: np.random.Generator) -> list[str] | None:
        """The sentences with one of them changed in one word, so that it is false; None where none can be."""
        return None


WORLDS = Table("world", {"stickers": "longalign.stickers.as_world:StickerWorld"})


def world(name: str | None) -> World:
    """The world of a name; of None one that owns and knows nothing.

    Raises:
        LongalignError: there is none of this name.
    """
    return World() if name is None else WORLDS[name]()


def owner(name: str | os.PathLike[str]) -> World | None:
    """The world that owns a name such as ``stickers`` or ``stickers/sft``; None of a folder or hub name.

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
    """The world that at least half of the sentences speak of; None where there is none."""
    for name in WORLDS:
        candidate = world(name)
        if 2 * sum(candidate.knows(sentences)) >= len(sentences):
            return candidate
    return None


def resolve_model(name: str) -> str:
    """The folder or hub name that a model name stands for.

    Raises:
        LongalignError: it begins like an embedded model's name and is none.
    """
    found = None if "/" in name else owner(name)
    return name if found is None else str(found.model_folder(name))
