"""The settings of `longalign generate`."""

from __future__ import annotations

from dataclasses import dataclass

from longalign.weights.stack import Stack


@dataclass(frozen=True)
class GenerateConfig(Stack):
    """The settings of `generate`, as they go into `config.yaml`. None stands for what suits the model.

    Attributes:
        model, loras, soft_tokens, soft_token_scale, soft_token_branches, strategy, device, dtype, check_base: as in
            `Stack`.
        syntax: notation of weights in the prompts: ``plain`` (none), ``a1111`` or ``compel``.
        clip_skip: how many of CLIP's last layers are skipped, as in diffusers.
        segments: how prompts are cut: ``sentence``, ``packed`` or ``released``; ``auto``: as the LoRA was trained, else
            ``sentence``.
        pooled: pooled vector of SDXL and SD3: ``first``, ``mean`` or ``whole``.
        negative_prompt: of any length.
        length: text is padded to a multiple of this many tokens.
        max_length: text is cut after so many tokens, and the report says so.
        steps, guidance, scheduler: of sampling. ``auto`` is UniPC, or a flow model's own solver.
        seed: of the first picture of each prompt.
        num: pictures of each prompt, from seeds seed, seed + 1, ….
        width, height: in pixels; None is the model's own.
        round_size: take the nearest size that the model can draw; else another one is refused.
        batch_size: most pictures at once. It decides the last bits of the pictures, so a run goes on with the same one.
        language: of the prompts, for cutting sentences (ISO 639-1).
        scorer: name of a preference model that scores each sentence against each picture. None: none does.
        repair: rounds in which doubtful sentences of a picture are drawn again (`longalign.repair`). Needs a scorer.
        best_of: pictures that are drawn for each one, of which the best by the scorer is kept.
    """

    strategy: str = "auto"
    syntax: str = "plain"
    clip_skip: int | None = None
    segments: str = "auto"
    pooled: str = "whole"
    negative_prompt: str | None = None
    length: int | None = None
    max_length: int | None = None
    steps: int = 25
    guidance: float | None = None
    scheduler: str = "auto"
    seed: int = 0
    num: int = 1
    width: int | None = None
    height: int | None = None
    round_size: bool = False
    batch_size: int = 16
    language: str = "en"
    scorer: str | None = None
    repair: int = 0
    best_of: int = 1

    @property
    def repairs(self) -> bool:
        """Whether pictures are chosen or repaired by the scorer."""
        return self.repair > 0 or self.best_of > 1

    @property
    def most_steps(self) -> int:
        """Sampling steps of one picture, with all that may be drawn for it."""
        return self.steps * (self.best_of + self.repair)
