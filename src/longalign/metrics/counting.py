"""Counting: objects that a picture has too many or too few of, as the world of its prompt counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from longalign.metrics.metric import Metric, MetricColumn, PictureBatch


class Counting(Metric):
    """Objects a picture that are surplus, copies or missing. It sees what no sentence says: what should be absent."""

    name = "counting"
    columns = (
        MetricColumn("surplus", "surplus objects", ".2f", "lower"),
        MetricColumn("copies", "copies of objects", ".2f", "lower"),
        MetricColumn("missing", "missing objects", ".2f", "lower"),
    )
    needs = frozenset(("world",))
    by_default = True

    def measure(self, batch: PictureBatch) -> Sequence[Mapping[str, Any]]:
        assert self.tools.world is not None
        pairs = zip(batch.images, batch.prompts, strict=True)
        return [self.tools.world.counts(image, prompt) or {} for image, prompt in pairs]

    @property
    def reads(self) -> str:
        """Names the world that counts."""
        assert self.tools.world is not None
        return f"prompts that describe a whole picture of {self.tools.world.name}"

    def share_read(self, prompts: Sequence[str]) -> str:
        assert self.tools.world is not None
        different = list(dict.fromkeys(prompts))
        described = self.tools.world.reference(different)
        return f"{len(described) / len(different):.1%} of the prompts" if different else "—"
