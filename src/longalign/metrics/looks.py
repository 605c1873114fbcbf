"""Looks: how clean a picture is, apart from what it shows, as the world of its prompt measures it."""

from __future__ import annotations

from collections.abc import Sequence

from longalign.metrics.metric import Metric, MetricColumn, PictureBatch


class Looks(Metric):
    """Mean of `longalign.worlds.World.looks`: 0 is a clean picture, lower values are worse."""

    name = "looks"
    columns = (MetricColumn("looks", "looks", ".3f", "higher"),)
    needs = frozenset(("world",))
    by_default = True

    def measure(self, batch: PictureBatch) -> Sequence[float]:
        """The looks of each picture."""
        assert self.tools.world is not None
        return [self.tools.world.looks(image) for image in batch.images]
