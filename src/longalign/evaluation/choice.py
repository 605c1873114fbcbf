"""Which metrics can be computed, and of which world the prompts speak."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from longalign.encoding.segments import Segmenter
from longalign.errors import LongalignError
from longalign.metrics import METRICS
from longalign.metrics.metric import Need
from longalign.worlds import World, owner, owner_of_texts

OF_WORLDS = "the embedded models know sticker pictures alone"  # why they score no others


def default_metrics(world: World | None, reference: str | None) -> list[str]:
    """The metrics that are computed by default and whose needs are met.

    Args:
        world: that the prompts describe; None: none.
        reference: what the user named as reference.
    """
    missing: set[Need] = set() if world is not None else {"world"}
    if reference is None and world is None:
        missing.add("reference")
    return [name for name in METRICS if METRICS[name].by_default and not METRICS[name].needs & missing]


def needing(need: Need, names: Iterable[str]) -> list[str]:
    """The metrics among some that need something.

    Args:
        need: what.
        names: of metrics.
    """
    return [name for name in names if need in METRICS[name].needs]


def world_of(prompts: Sequence[str], most: int = 200) -> World | None:
    """The world that at least half of the prompts' sentences speak of; None if there is none.

    Args:
        prompts: of an evaluation.
        most: how many of them are read.
    """
    segmenter = Segmenter()
    different = list(dict.fromkeys(prompts))[:most]
    return owner_of_texts([s.text for prompt in different for s in segmenter(prompt)])


def judges_strangers(name: str) -> bool:
    """Would a metric, left to its defaults, judge any picture by a model that knows an embedded world alone?

    Args:
        name: of a metric.
    """
    model = getattr(METRICS[name].Options(), "model", None)
    return isinstance(model, str) and owner(model) is not None


def need_some(metrics: Collection[object], dropped: Mapping[str, str]) -> None:
    """Refuses an evaluation without metrics.

    Args:
        metrics: those that are left.
        dropped: the others → the reason.

    Raises:
        LongalignError: none is left; all reasons are given.
    """
    if not metrics:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in dropped.items())
        raise LongalignError(f"no metric can be computed. {reasons}")
