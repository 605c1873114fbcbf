"""What soft tokens are for and of which shapes (SoftREPA; FACTS 2.2).

                  tokens              time table        parameters
SD1.5             4 × 768             100 × 768             79,872
SDXL              4 × 2048            none                   8,192
SD3               5 blocks × 4 × 1536 100 × (5·1536)       798,720
SD3, its trainer  5 blocks × 4 × 4096 100 × (5·1536)       849,920
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from longalign.errors import LongalignError

Rows = Literal["cond", "uncond", "cfg"] | Tensor
Backbone = Literal["sd15", "sdxl", "sd3"]
Stage = Literal["down", "mid", "up"]

NAMES: dict[Backbone, str] = {"sd15": "Stable Diffusion 1 or 2", "sdxl": "SDXL", "sd3": "Stable Diffusion 3"}


@dataclass(frozen=True)
class SoftTokenConfig:
    """The architecture of soft tokens, saved with them.

    Attributes:
        backbone: ``sd15`` (any UNet with text of one encoder), ``sdxl`` or ``sd3``.
        width: D, of the text states where the tokens stand: what a UNet's cross-attention reads, or the text stream
            of SD3's blocks.
        count: n, how many stand at one place.
        stages: of a UNet, whose cross-attention sees them: among ``down``, ``mid``, ``up``.
        layers: of SD3, how many blocks from the first have tokens of their own; 1 for a UNet.
        buckets: the time axis 0…1000 is cut into so many, each with a vector that is added to the tokens; None for
            tokens that do not know the time.
        token_width: of SD3, where the tokens are kept before its context embedder (4096), which then brings them to
            `width`; None for tokens that have this width themselves.
        base: name of the model that they were trained on, for messages.

    Raises:
        LongalignError: values that do not go together.
    """

    backbone: Backbone
    width: int
    count: int = 4
    stages: tuple[Stage, ...] = ()
    layers: int = 1
    buckets: int | None = 100
    token_width: int | None = None
    base: str = ""

    def __post_init__(self) -> None:
        if self.backbone not in NAMES:
            raise LongalignError(f"soft tokens are for one of {', '.join(NAMES)}, not {self.backbone!r}")
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
        if self.backbone == "sd3" and self.stages:
            raise LongalignError("SD3 has no stages: say how many layers get soft tokens")
        if self.backbone != "sd3" and (not self.stages or self.layers != 1 or self.token_width is not None):
            raise LongalignError(
                "soft tokens of a UNet need a stage (down, mid, up), and have neither layers nor another width"
            )

    @classmethod
    def published(cls, backbone: Backbone, **changes: Any) -> SoftTokenConfig:
        """The paper's for a backbone, with changes: SD1.5 down; SDXL down and mid, no time; SD3 5 blocks."""
        known: dict[str, dict[str, Any]] = {
            "sd15": {"width": 768, "stages": ("down",)},
            "sdxl": {"width": 2048, "stages": ("down", "mid"), "buckets": None},
            "sd3": {"width": 1536, "layers": 5},
        }
        return cls(backbone, **{**known.get(backbone, {"width": 1}), **changes})

    @classmethod
    def of(cls, module: nn.Module, **changes: Any) -> SoftTokenConfig:
        """The paper's for a model, of the model's own width. SD3: its first five blocks, or all if it has fewer.

        Raises:
            LongalignError: soft tokens do not know such a model, or the changes do not fit it.
        """
        backbone = backbone_of(module)
        own: dict[str, Any] = {"width": width_of(module), "base": name_of(module)}
        if backbone == "sd3":
            own["layers"] = min(5, len(module.transformer_blocks))  # type: ignore[arg-type]
        config = cls.published(backbone, **{**own, **changes})
        config.check(module)
        return config

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of ``tokens`` (layers, n, D or token_width), and of ``time`` (buckets, layers, D) where there is one."""
        shapes: dict[str, tuple[int, ...]] = {
            "tokens": (self.layers, self.count, self.token_width or self.width)
        }
        if self.buckets is not None:
            shapes["time"] = (self.buckets, self.layers, self.width)
        return shapes

    def check(self, module: nn.Module) -> None:
        """Do such tokens fit this model?

        Raises:
            LongalignError: another backbone or width, or fewer blocks; what they are for and what the model is are
                both said.
        """
        backbone, width = backbone_of(module), width_of(module)
        if (backbone, width) != (self.backbone, self.width):
            raise LongalignError(
                f"these soft tokens are for {_told(self.backbone, self.width, self.base)}, and the model is "
                f"{_told(backbone, width, name_of(module))}"
            )
        if backbone == "sd3":
            blocks = len(module.transformer_blocks)  # type: ignore[arg-type]
            if self.layers > blocks:
                raise LongalignError(f"soft tokens for {self.layers} blocks, and this model has {blocks}")
            text = module.config.joint_attention_dim  # type: ignore[union-attr]
            if self.token_width is not None and self.token_width != text:
                raise LongalignError(
                    f"soft tokens of width {self.token_width} before the context embedder, which takes {text}"
                )
            return
        for stage in self.stages:
            if not unet_blocks(module, stage):
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


def backbone_of(module: nn.Module) -> Backbone:
    """Which backbone a model is. Raises LongalignError: none that soft tokens know."""
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if "SD3Transformer2DModel" in kinds:
        return "sd3"
    if "UNet2DConditionModel" in kinds:
        return "sdxl" if module.config.addition_embed_type == "text_time" else "sd15"  # type: ignore[union-attr]
    raise LongalignError(
        f"soft tokens go into a UNet2DConditionModel or an SD3Transformer2DModel, not into {type(module).__name__}"
    )


def width_of(module: nn.Module) -> int:
    """D, of the text states where tokens stand. Raises LongalignError: it differs from block to block."""
    config: Any = module.config
    width = config.caption_projection_dim if backbone_of(module) == "sd3" else config.cross_attention_dim
    if isinstance(width, int):
        return width
    widths = set(width or ())
    if len(widths) != 1:
        raise LongalignError(
            f"the text of this UNet's blocks has several widths, {width}: no soft tokens fit"
        )
    return widths.pop()


def name_of(module: nn.Module) -> str:
    """The hub's name or the folder that a model was loaded from, if any."""
    return getattr(module.config, "_name_or_path", None) or ""


def unet_blocks(module: Any, stage: Stage) -> list[nn.Module]:
    """The blocks of a UNet's stage that have cross-attention."""
    blocks = [module.mid_block] if stage == "mid" else getattr(module, f"{stage}_blocks")
    return [block for block in blocks if getattr(block, "has_cross_attention", False)]


def _told(backbone: Backbone, width: int, name: str) -> str:
    return f"{NAMES[backbone]} with text of width {width}{f' ({name})' if name else ''}"
