"""Identification of the two parts of a preference score with truth and image quality (LongAlign, §4.1).

The paper decomposes a preference score into C_X·C⊥, which should be alignment with the text, and C_X·V, which should be
image quality ("looks") alone. Photographs have no ground truth of either factor. Renders of the sticker world have
both. So the partial correlations of each score with each factor, with the other factor held fixed, test the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from longalign.errors import LongalignError
from longalign.metrics.embedding import (
    Advance,
    Embedder,
    decomposition_of,
    embed_captions,
    embed_images,
)
from longalign.metrics.intervals import partial_correlations, percentile
from longalign.report import Estimate, Table
from longalign.stickers.captions import text_of
from longalign.stickers.scene_pairs import (
    sticker_prompts,
    to_tensor,
)
from longalign.studies.claims import HOLDS, decide
from longalign.studies.renders import Render, known_render

MARGIN = 0.3
# (score, factor): those that the claim says are large, then the other pair
PAIRS = (("C_X·V", "looks"), ("C_X·C⊥", "truth"), ("C_X·V", "truth"), ("C_X·C⊥", "looks"))


@dataclass(frozen=True)
class Found:
    """For one model: the four partial correlations in the order of `PAIRS`, and the margin between the pairs.

    ``margin`` is the smaller of the first two minus the greater magnitude of the others.
    """

    correlations: tuple[Estimate, ...]
    margin: Estimate

    @property
    def verdict(self) -> str:
        return decide(self.margin, MARGIN, or_equal=True)


@dataclass(frozen=True)
class Identification:
    """The result of `identify`.

    Attributes:
        between: label → `Found` between prompts (N prompts, one render each).
        within: label → `Found` within prompts (several renders each).
        v_source: label → source of the model's V.
        renders: N.
        versions: renders of each prompt.
        correlation_of_factors: correlation of truth and looks over the renders.
    """

    between: Mapping[str, Found]
    within: Mapping[str, Found]
    v_source: Mapping[str, str]
    renders: int
    versions: int
    correlation_of_factors: float

    def tables(self) -> list[Table]:
        """The figure (all correlations on one axis), then the numbers."""
        names = [f"{score} with {factor}" for score, factor in PAIRS]
        dots = {
            f"{label}: {name}": estimate
            for label, found in self.between.items()
            for name, estimate in zip(names, found.correlations, strict=True)
        }
        figure = Table(
            "Partial correlations of the two scores with looks and truth",
            ["", *dots],
            [["the other factor held fixed", *dots.values()]],
            plot=True,
            note="Claimed: the first two of each model are large, the others near 0.",
        )
        note = (
            f"Shown as claimed ({HOLDS}) where both claimed correlations exceed the magnitudes of the others by at "
            f"least {MARGIN}, by the margin's interval. 95 % bootstrap intervals over prompts."
        )
        between = self._table(
            f"Between prompts: {self.renders:,} renders of as many held-out scenes", self.between, note
        )
        if not self.within:
            return [figure, between]
        prompts = self.renders // self.versions
        caption = f"Within prompts: {self.versions} renders of each of {prompts:,} scenes, against the prompt's mean"
        return [figure, between, self._table(caption, self.within, note)]

    def _table(self, caption: str, found: Mapping[str, Found], note: str) -> Table:
        names = [f"{score}, {factor}" for score, factor in PAIRS]
        rows: list[list[str | Estimate]] = [
            [label, *f.correlations, f.margin, f.verdict] for label, f in found.items()
        ]
        return Table(caption, ["", *names, "margin", "as claimed"], rows, note=note)

    def to_json(self) -> dict[str, Any]:
        def plain(found: Found) -> dict[str, Any]:
            named = [f"{score} with {factor}" for score, factor in PAIRS]
            values = {**dict(zip(named, found.correlations, strict=True)), "margin": found.margin}
            return {
                **{name: {"value": e.value, "low": e.low, "high": e.high} for name, e in values.items()},
                "as_claimed": found.verdict,
            }

        return {
            "renders": self.renders,
            "correlation_of_truth_and_looks": self.correlation_of_factors,
            "between": {label: plain(f) for label, f in self.between.items()},
            "within": {label: plain(f) for label, f in self.within.items()},
            "versions": self.versions,
            "v_source": dict(self.v_source),
        }


def identification_steps(models: int, renders: int, versions: int) -> int:
    """The sum of the numbers that `identify` passes to `on_step`: renders that the models read."""
    return models * (renders + (renders // versions * versions if versions > 1 else 0))


def identify(
    models: Mapping[str, Embedder],
    renders: int = 5000,
    *,
    versions: int = 5,
    objects: tuple[int, int] = (2, 9),
    v_prompts: Sequence[str] | None = None,
    samples: int = 2000,
    seed: int = 0,
    on_step: Advance = lambda renders: None,
) -> Identification:
    """Partial correlations of C_X·V and C_X·C⊥ with known truth and looks, for every model.

    The prompt's embedding is the mean of its sentences'. C_X·C⊥ is the paper's, not divided by |C⊥|.

    Args:
        models: label → model, see `Models`.
        renders: how many, each of a held-out scene of its own.
        versions: for the variant within prompts, as many renders again, so many of each prompt; 0 leaves it out.
        v_prompts: to fit V on where a model has none stored; else sticker captions of the training split.

    Raises:
        LongalignError: no model, too few renders.
    """
    if not models:
        raise LongalignError("no model to measure")
    if renders < 10 or (versions > 1 and renders // versions < 3):
        raise LongalignError("correlations need at least 10 renders, and 3 prompts with several versions")
    v_prompts = sticker_prompts() if v_prompts is None else v_prompts
    one = _Study([(i, 0) for i in range(renders)], objects, seed)
    # other prompts than those above, so that both results are independent
    several = _Study(
        [(renders + p, v) for p in range(renders // versions) for v in range(versions)]
        if versions > 1
        else [],
        objects,
        seed,
    )
    between: dict[str, Found] = {}
    within: dict[str, Found] = {}
    v_source: dict[str, str] = {}
    for label in models:
        model = models[label]
        decomposition, v_source[label] = decomposition_of(label, model, v_prompts)

        def scores(study: _Study, model: Embedder = model, decomposition: Any = decomposition) -> np.ndarray:
            c_x = embed_images(model, study.picture, len(study.keys), on_step)  # (N, D)
            c_perp, _ = decomposition.split(embed_captions(model, study.prompts())[None])
            found = torch.stack([c_x @ decomposition.v_like(c_x), (c_x * c_perp).sum(-1)], dim=-1)
            return found.double().cpu().numpy()  # (N, 2)

        between[label] = _found(scores(one), one, 1, samples, seed)
        if several.keys:
            within[label] = _found(scores(several), several, versions, samples, seed)
    return Identification(
        between,
        within,
        v_source,
        renders,
        versions if versions > 1 else 1,
        float(np.corrcoef(one.truth, one.looks)[0, 1]),
    )


class _Study:
    """A list of renders. Each picture is rendered when it is needed, to save memory."""

    def __init__(self, keys: list[tuple[int, int]], objects: tuple[int, int], seed: int) -> None:
        self.keys = keys
        self._make: Callable[[int, int], Render] = lambda prompt, version: known_render(
            prompt, version, objects=objects, seed=seed
        )
        factors = [(r.truth, r.looks, text_of(r.said)) for r in (self._make(*key) for key in keys)]
        self.truth = np.array([truth for truth, _, _ in factors])
        self.looks = np.array([looks for _, looks, _ in factors])
        self._prompts = [prompt for _, _, prompt in factors]

    def picture(self, i: int) -> torch.Tensor:
        return to_tensor(self._make(*self.keys[i]).pixels())

    def prompts(self) -> list[str]:
        return self._prompts


def _found(scores: np.ndarray, study: _Study, versions: int, samples: int, seed: int) -> Found:
    """(N, 2) scores C_X·V and C_X·C⊥ → their correlations and the margin."""
    values, draws = partial_correlations(
        scores, study.truth, study.looks, versions=versions, samples=samples, seed=seed
    )

    def ordered(x: np.ndarray) -> np.ndarray:
        """(…, 2 scores, 2 factors (truth, looks)) → (…, 4) in the order of `PAIRS`."""
        return np.stack([x[..., 0, 1], x[..., 1, 0], x[..., 0, 0], x[..., 1, 1]], axis=-1)

    def margin(x: np.ndarray) -> np.ndarray:
        return x[..., :2].min(-1) - np.abs(x[..., 2:]).max(-1)

    four, four_drawn = ordered(values), ordered(draws)
    n = len(study.keys)
    return Found(
        tuple(percentile(four[i], four_drawn[:, i], n, format=".2f") for i in range(len(PAIRS))),
        percentile(float(margin(four)), margin(four_drawn), n, format="+.2f"),
    )
