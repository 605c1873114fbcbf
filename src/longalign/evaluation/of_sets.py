"""Measures sets of pictures in memory, without a run folder."""

from __future__ import annotations

from collections.abc import Sequence

from longalign.errors import LongalignError
from longalign.evaluation.choice import needing, world_of
from longalign.evaluation.measuring import PROMPTS_AT_ONCE, Blocks, Measuring, Pass
from longalign.evaluation.parts import MemoryParts
from longalign.evaluation.sets import MeasuredSet, PictureSet
from longalign.metrics import METRICS
from longalign.metrics.embedding import Advance
from longalign.metrics.features import Features
from longalign.metrics.metric import Metric, Tools
from longalign.preference import PreferenceModel
from longalign.worlds import DEFAULT, World


def measure_sets(
    sets: Sequence[PictureSet],
    metrics: Sequence[str],
    *,
    reference: PictureSet | None = None,
    model: PreferenceModel | None = None,
    features: Features | None = None,
    judge: World | None = None,
    samples: int = 2000,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    on_step: Advance = lambda pictures: None,
) -> list[MeasuredSet]:
    """Measures sets that are there already, in memory. `EvaluationJob` does so for a run folder.

    Intervals cover 95 %. Shares of sentences have those of `longalign.report.clustered_wilson`; means have bootstrap
    intervals that draw prompts with all their pictures. Pictures of one prompt are not independent.

    Args:
        sets: of pictures.
        metrics: names of `METRICS`.
        reference: pictures for metrics that need a reference set, such as fid.
        model: preference model, for denscore.
        features: extractor, for fid, cmmd and diversity.
        judge: the world that the prompts describe, for oracle and looks; None: it is found by `world_of`.
        samples: bootstrap draws.
        seed: of the draws.
        device, dtype: for metrics that load a model of their own.
        on_step: called with the number of pictures that were measured since the last call.

    Raises:
        LongalignError: something that a metric needs is missing; a set without a readable picture, or with too few.
    """
    if judge is None and needing("world", metrics):
        judge = world_of([prompt for s in sets for prompt in s.prompts])
    tools = Tools(reference.label if reference else None, features, judge, device, dtype)
    if model is not None:
        tools.add_preference(DEFAULT, model)
    chosen: list[Metric] = [METRICS[name](tools) for name in metrics]
    of_pass = Pass("pass-0", list(metrics), features is not None and bool(needing("features", metrics)))
    measuring = Measuring(
        Blocks(sets, PROMPTS_AT_ONCE), tools, MemoryParts(), reference=reference, on_step=on_step
    )
    if reference is not None and features is not None:
        measuring.measure_reference()
    if failed := measuring.run(of_pass, chosen):
        name, reason = next(iter(failed.items()))
        raise LongalignError(f"{name}: {reason}")
    return measuring.measured([of_pass], chosen, samples, seed)
