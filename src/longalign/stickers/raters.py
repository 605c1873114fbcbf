"""Simulated raters: two pictures made for one prompt, which differ in truth and in looks, and which is preferred.

Both factors are known of every picture, so the orthogonal decomposition (LongAlign, §4.1) can be tested: the
text-irrelevant score has to follow looks and not truth, and C⊥ the reverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from longalign.data.pairs import PreferenceData, RatedPair
from longalign.errors import LongalignError
from longalign.plugins import unknown
from longalign.stickers.captions import Fact, Sentence, caption, facts, is_true, lie, sentence, text_of
from longalign.stickers.changes import alter
from longalign.stickers.looks import LOOKS, worsen
from longalign.stickers.world import MAX_OBJECTS, SPLITS, Scene, render_array, scene

# The longest sentence has 13 words and a full stop: five of them and the two special tokens are 72 of CLIP's 77.
MOST_STATED = 5

QUESTIONS = 3  # sentences about each picture that are known to be true, and as many lies
_ASKED = 0xA5C  # keeps the draws of questions apart from the others
_STREAM = 0x7A7E  # keeps these draws apart from `scene`'s; not 0, for numpy pads seeds with zeros


@dataclass(frozen=True)
class Raters:
    """Noisy raters who weigh truth against looks.

    Attributes:
        w_truth, w_looks: what the whole way from all false to all true, and from the worst looks to clean ones,
            is worth, in units of the noise (its logistic scale).
        tie: utilities that seem closer than this are called a tie.
    """

    w_truth: float = 8.0
    w_looks: float = 6.0
    tie: float = 0.3

    # u = w_truth · truth + w_looks · looks
    def utility(self, truth: float, looks: float) -> float:
        """What a picture is worth on average. ``truth`` from 0 to 1, ``looks`` from −1 to 0."""
        return self.w_truth * truth + self.w_looks * looks

    # P(a) = σ(u_a − u_b − τ),   P(b) = σ(u_b − u_a − τ),   P(tie) = the rest
    def chances(self, u_a: float, u_b: float) -> tuple[float, float, float]:
        """Of preferring a, of preferring b, and of a tie. Bradley–Terry's with Rao and Kupper's (1967) ties."""
        a, b = (1 / (1 + math.exp(-(delta - self.tie))) for delta in (u_a - u_b, u_b - u_a))
        return a, b, 1 - a - b

    def rate(self, u_a: float, u_b: float, rng: np.random.Generator) -> float:
        """1 where a is preferred, 0 where b is, ½ for a tie.

        Each utility gets Gumbel noise; the difference of two such noises is logistic, hence `chances`.
        """
        noise_a, noise_b = rng.gumbel(size=2)
        delta = (u_a + noise_a) - (u_b + noise_b)
        return 0.5 if abs(delta) < self.tie else float(delta > 0)


@dataclass(frozen=True)
class Version:
    """One of the two pictures of a pair, before it is drawn.

    Attributes:
        scene: what it shows.
        kind, strength: how its looks were spoilt (`looks.worsen`); strength 0 is a clean picture.
        truth: share of the prompt's sentences that are true of it.
        caption: the full caption of what it shows, in place of the vision-language model's of the paper.
    """

    scene: Scene
    kind: str
    strength: float
    truth: float
    caption: str

    @property
    def looks(self) -> float:
        """−strength."""
        return 0.0 - self.strength  # 0.0, not −0.0, of a clean picture


class RaterPairs(PreferenceData):
    """Pairs of sticker pictures with a rating, drawn when they are asked for.

    The prompt states 2 to 5 facts of a scene. Each picture is a version of that scene with up to three mistakes, most
    of them in what the prompt speaks of, and with looks spoilt in one of four ways or not at all. In some pairs,
    siblings, one picture is the other with one more mistake, and their looks are spoilt alike: only such pairs say
    which sentence a picture gets wrong, since elsewhere several things differ at once.

    Args:
        count: how many.
        split: of the scenes: ``train``, ``validation`` or ``test``.
        seed: another seed gives other pairs. (split, seed, index) decide everything about a pair.
        objects: least and greatest number of stickers.
        stated: least and greatest number of facts in the prompt; at most 5, so that it fits CLIP's 77 tokens.
        changes: least and greatest number of mistakes in a picture.
        clean: share of the pictures whose looks are not spoilt.
        focus: share of the mistakes that are made in what the prompt speaks of; the others are made anywhere.
        siblings: share of the pairs that differ in one mistake and not in looks.
        raters: who rates.

    Raises:
        LongalignError: an unknown split, or ranges that cannot be.
    """

    def __init__(
        self,
        count: int,
        split: str = "train",
        seed: int = 0,
        *,
        objects: tuple[int, int] = (2, 9),
        stated: tuple[int, int] = (2, MOST_STATED),
        changes: tuple[int, int] = (0, 3),
        clean: float = 1 / 3,
        focus: float = 0.75,
        siblings: float = 0.4,
        raters: Raters | None = None,
    ) -> None:
        if split not in SPLITS:
            raise LongalignError(unknown("split", split, SPLITS))
        if count < 1:
            raise LongalignError(f"at least one pair is needed, not {count}")
        for name, (low, high), least, most in (
            ("objects", objects, 1, MAX_OBJECTS),
            ("stated", stated, 1, MOST_STATED),
            ("changes", changes, 0, MAX_OBJECTS),
        ):
            if not least <= low <= high <= most:
                raise LongalignError(f"{name} must be a range within {least}–{most}, not {low}–{high}")
        self.count, self.split, self.seed = count, split, seed
        self.objects, self.stated, self.changes = objects, stated, changes
        self.clean, self.focus, self.siblings = clean, focus, siblings
        self.raters = raters or Raters()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> RatedPair:
        prompt, a, b, preferred = self.plan(index)
        image_a, image_b = (
            worsen(
                render_array(version.scene),
                version.kind,
                version.strength,
                np.random.default_rng([SPLITS[self.split], self.seed, index, _STREAM, which]),
            )
            for which, version in ((1, a), (2, b))
        )
        true_a, false_a = self._questions(a.scene, index, 1)
        true_b, false_b = self._questions(b.scene, index, 2)
        return RatedPair(
            true_a=true_a,
            false_a=false_a,
            true_b=true_b,
            false_b=false_b,
            image_a=image_a,
            image_b=image_b,
            prompt=text_of(prompt),
            preferred=preferred,
            caption_a=a.caption,
            caption_b=b.caption,
            truth_a=a.truth,
            truth_b=b.truth,
            looks_a=a.looks,
            looks_b=b.looks,
        )

    def _questions(self, shown: Scene, index: int, which: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Sentences that are true of a picture, and a lie in one word for each; a quarter leaves the disc out."""
        rng = np.random.default_rng([SPLITS[self.split], self.seed, index, _ASKED, which])
        everything = facts(shown)
        stated = [everything[i] for i in rng.permutation(len(everything))[:QUESTIONS]]
        stated = [replace(fact, disc=None) if rng.random() < 0.25 else fact for fact in stated]
        lies = [sentence(lie(shown, fact, rng), rng).text for fact in stated]
        return tuple(sentence(fact, rng).text for fact in stated), tuple(lies)

    def plan(self, index: int) -> tuple[list[Sentence], Version, Version, float]:
        """All of a pair but its pixels: the prompt, both versions, and the rating."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng([SPLITS[self.split], self.seed, index, _STREAM])
        wanted = scene(index, objects=self.objects, split=self.split, seed=self.seed)
        prompt = caption(wanted, rng, most=int(rng.integers(self.stated[0], self.stated[1] + 1)))
        stated = [s.fact for s in prompt]
        a = self._version(wanted, stated, rng)
        b = (
            self._sibling(a, stated, rng)
            if rng.random() < self.siblings
            else self._version(wanted, stated, rng)
        )
        if rng.random() < 0.5:  # which comes first tells nothing
            a, b = b, a
        utilities = [self.raters.utility(v.truth, v.looks) for v in (a, b)]
        return prompt, a, b, self.raters.rate(utilities[0], utilities[1], rng)

    def texts(self, index: int) -> list[str]:
        _, a, b, _ = self.plan(index)
        return [a.caption, b.caption]

    def _mistaken(self, shown: Scene, stated: list[Fact], rng: np.random.Generator) -> Scene:
        places = {fact.cell for fact in stated}  # None is the background's
        return alter(shown, rng, places if rng.random() < self.focus else None)

    def _sibling(self, version: Version, stated: list[Fact], rng: np.random.Generator) -> Version:
        """A version with one more mistake and the same looks."""
        shown = self._mistaken(version.scene, stated, rng)
        said = text_of(caption(shown, rng))
        return replace(version, scene=shown, truth=truth(stated, shown), caption=said)

    def _version(self, wanted: Scene, stated: list[Fact], rng: np.random.Generator) -> Version:
        shown = wanted
        for _ in range(int(rng.integers(self.changes[0], self.changes[1] + 1))):
            shown = self._mistaken(shown, stated, rng)
        kind, strength = LOOKS[rng.integers(len(LOOKS))], 1 - rng.random()  # (0, 1]
        if rng.random() < self.clean:
            strength = 0.0
        said = text_of(caption(shown, rng))
        return Version(shown, kind, float(strength), truth(stated, shown), said)


def truth(stated: list[Fact], shown: Scene) -> float:
    """Share of the facts that are true of a scene."""
    return sum(is_true(fact, shown) for fact in stated) / len(stated)


def balance(pairs: RaterPairs) -> dict[str, float]:
    """What decides the ratings: shares of all pairs, from 0 to 1.

    ``by_truth`` and ``by_looks``: the preferred picture is the one that the weightier of the two factors speaks for,
    and this factor is truth, or looks. ``by_noise``: it is the other picture, or neither factor differs. ``ties``:
    the rest. ``truth_only``, ``looks_only``: only the one factor differs. ``best``: how often the picture of greater
    utility is preferred, ties of either kind counting ½; no model can do better on average.
    """
    found = dict.fromkeys(
        ("by_truth", "by_looks", "by_noise", "ties", "truth_only", "looks_only", "best"), 0.0
    )
    for index in range(len(pairs)):
        _, a, b, preferred = pairs.plan(index)
        by_truth = pairs.raters.w_truth * (a.truth - b.truth)
        by_looks = pairs.raters.w_looks * (a.looks - b.looks)
        name, weightier = max(("by_truth", by_truth), ("by_looks", by_looks), key=lambda x: abs(x[1]))
        if preferred == 0.5:
            found["ties"] += 1
        else:
            found[name if weightier * (preferred - 0.5) > 0 else "by_noise"] += 1
        found["truth_only"] += by_looks == 0 != by_truth
        found["looks_only"] += by_truth == 0 != by_looks
        greater = float(np.heaviside(by_truth + by_looks, 0.5))
        found["best"] += 0.5 if preferred == 0.5 else 1 - abs(greater - preferred)
    return {name: number / len(pairs) for name, number in found.items()}
