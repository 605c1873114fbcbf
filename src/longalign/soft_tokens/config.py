"""The architecture of soft tokens: their backbone and their shapes (SoftREPA; published sizes in the table).

                  tokens              time table        parameters
SD1.5             4 × 768             100 × 768             79,872
SDXL              4 × 2048            none                   8,192
SD3               5 blocks × 4 × 1536 100 × (5·1536)       798,720
SD3, its trainer  5 blocks × 4 × 4096 100 × (5·1536)       849,920
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from longalign.backbones import BACKBONES, backbone_named, backbone_of
from longalign.backbones.base import Backbone, TokenPlaces
from longalign.errors import LongalignError

Rows = Literal["cond", "uncond", "cfg"] | Tensor
Stage = Literal["down", "mid", "up"]


@dataclass(frozen=True)
class SoftTokenConfig:
    """The architecture of soft tokens; it is saved with them.

    Attributes:
        backbone: family name in `longalign.backbones.BACKBONES`.
        width: D, the width of the text states at the tokens' place: what a UNet's cross-attention reads, or the text
            stream of SD3's blocks.
        count: n, the number of tokens at one place.
        stages: of a UNet, those whose cross-attention reads the tokens: some of ``down``, ``mid``, ``up``.
        layers: of SD3, the number of first blocks that have tokens of their own; 1 for a UNet.
        buckets: number of parts of the time axis 0…1000; each has a vector that is added to the tokens. None: the
            tokens do not depend on the time.
        token_width: of SD3, the width of tokens that pass through its context embedder (4096); None: the tokens have
            the width `width`.
        base: name of the model on which they were trained, for messages.

    Raises:
        LongalignError: the values contradict each other.
    """

    backbone: str
    width: int
    count: int = 4
    stages: tuple[Stage, ...] = ()
    layers: int = 1
    buckets: int | None = 100
    token_width: int | None = None
    base: str = ""

    def __post_init__(self) -> None:
        places = self.places
        sizes = (self.width, self.count, self.layers, self.buckets, self.token_width)
        if not all(size is None or (isinstance(size, int) and size >= 1) for size in sizes):
            raise LongalignError(
                f"width, count, layers and buckets of soft tokens must be at least 1: {self}"
            )
        unknown = [stage for stage in self.stages if stage not in get_args(Stage)]
        if unknown or len(set(self.stages)) < len(self.stages):
            raise LongalignError(
                f"stages of a UNet are {', '.join(get_args(Stage))}, each once, not {self.stages}"
            )
        if places.joint and self.stages:
            short = backbone_named(self.backbone).abbreviation
            raise LongalignError(f"{short} has no stages: say how many layers get soft tokens")
        if not places.joint and (not self.stages or self.layers != 1 or self.token_width is not None):
            raise LongalignError(
                "soft tokens of a UNet need a stage (down, mid, up), and have neither layers nor another width"
            )

    @property
    def places(self) -> TokenPlaces:
        """Where the tokens stand in the backbone.

        Raises:
            LongalignError: soft tokens are not known for this backbone.
        """
        known = [family for family in BACKBONES if backbone_named(family).token_places is not None]
        if self.backbone not in known:
            raise LongalignError(f"soft tokens are for one of {', '.join(known)}, not {self.backbone!r}")
        places = backbone_named(self.backbone).token_places
        assert places is not None
        return places

    @classmethod
    def published(cls, backbone: str, **changes: Any) -> SoftTokenConfig:
        """The paper's configuration for a backbone, with changes.

        Raises:
            LongalignError: soft tokens are not known for this backbone, or the values contradict each other.
        """
        places = backbone_named(backbone).token_places if backbone in BACKBONES else None
        return cls(backbone, **{**(places.published if places else {"width": 1}), **changes})

    @classmethod
    def of(cls, module: nn.Module, **changes: Any) -> SoftTokenConfig:
        """The paper's configuration for a model, in the model's own width, with changes.

        A model with fewer blocks than the paper's gets tokens in all of them.

        Raises:
            LongalignError: soft tokens are not known for such a model, or the changes do not fit it.
        """
        backbone = backbone_of(module)
        own: dict[str, Any] = {"width": backbone.text_width(module), "base": name_of(module)}
        places = backbone.token_places
        if places is not None and places.joint:
            own["layers"] = min(places.published["layers"], len(backbone.token_blocks(module)))
        config = cls.published(backbone.family, **{**own, **changes})
        config.check(module)
        return config

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of ``tokens`` (layers, n, D or token_width), and of ``time`` (buckets, layers, D) if there is one."""
        shapes: dict[str, tuple[int, ...]] = {
            "tokens": (self.layers, self.count, self.token_width or self.width)
        }
        if self.buckets is not None:
            shapes["time"] = (self.buckets, self.layers, self.width)
        return shapes

    def check(self, module: nn.Module) -> None:
        """Check that the tokens fit a model.

        Raises:
            LongalignError: the model is of another backbone or width, or has fewer blocks; the message describes both.
        """
        backbone = backbone_of(module)
        width = backbone.text_width(module)
        if (backbone.family, width) != (self.backbone, self.width):
            own = backbone_named(self.backbone)
            raise LongalignError(
                f"these soft tokens are for {_described(own, self.width, self.base)}, and the model is "
                f"{_described(backbone, width, name_of(module))}"
            )
        if self.places.joint:
            blocks = len(backbone.token_blocks(module))
            if self.layers > blocks:
                raise LongalignError(f"soft tokens for {self.layers} blocks, and this model has {blocks}")
            text = module.config.joint_attention_dim  # type: ignore[union-attr]
            if self.token_width is not None and self.token_width != text:
                raise LongalignError(
                    f"soft tokens of width {self.token_width} before the context embedder, which takes {text}"
                )
            return
        for stage in self.stages:
            if not backbone.token_blocks(module, stage):
                raise LongalignError(
                    f"soft tokens for the {stage} stage, which has no cross-attention in this UNet"
                )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SoftTokenConfig:
        """What `to_json` made. Raises LongalignError: something else."""
        try:
            found = json.loads(text)
            return cls(**{**found, "stages": tuple(found["stages"])})
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise LongalignError(f"no configuration of soft tokens: {error}") from error


def name_of(module: nn.Module) -> str:
    """The hub's name or the folder that a model was loaded from, if any."""
    return os.fspath(getattr(module.config, "_name_or_path", None) or "")


def _described(backbone: Backbone, width: int, name: str) -> str:
    return f"{backbone.title} with text of width {width}{f' ({name})' if name else ''}"
