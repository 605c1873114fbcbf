"""Hundreds of one-change edits in several ways from the same noise, judged by the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.diffusion.denoiser import Denoiser
from longalign.diffusion.pipelines import ModelSettings, settings_of
from longalign.diffusion.sampling import (
    draw,
    set_scheduler,
)
from longalign.editing.edit import edit_many
from longalign.editing.options import METHODS, EditOptions, EditSettings
from longalign.errors import LongalignError
from longalign.runs import RunFolder
from longalign.soft_tokens.loading import attach_tokens
from longalign.stickers.world import render
from longalign.studies.edit_scenes import EditVerdict, SceneEdit, judge_edit, scene_edits
from longalign.weights.stack import Stack

COMMAND = "stickers edits"
NOTHING, REDRAWN = "no edit", "redrawn"
BASELINES = (NOTHING, REDRAWN)
WITH_TOKENS = " + soft tokens"


@dataclass(frozen=True)
class EditStudyConfig(EditSettings, Stack):
    """What is edited, and how: the settings of `Stack` and `EditSettings` (without `method`), and these.

    Attributes:
        steps: of the whole schedule.
        count: how many edits.
        objects: least and greatest number of stickers of a scene.
        changes: names in `longalign.studies.edit_scenes.CHANGES`, which take turns.
        methods: of `longalign.editing`, a column each; with `soft_tokens` each has a second column. None: all methods
            that fit the model.
        seed: of the scenes and of the first edit's noise.
    """

    steps: int = 20

    count: int = 200
    objects: tuple[int, int] = (2, 5)
    changes: tuple[str, ...] = ("swap", "recolour", "move", "remove")
    methods: tuple[str, ...] | None = None
    seed: int = 0

    def load(self) -> Any:
        """The pipeline with its LoRAs. Soft tokens are not on it: only some columns have them."""
        return Stack(model=self.model, loras=self.loras, device=self.device).load()


@dataclass(frozen=True)
class EditStudy:
    """The result of `edit_study`.

    Attributes:
        config: the settings.
        edits: the edits that were asked for.
        verdicts, images: column → one for each edit; images of the first `keep_pictures` edits alone.
        options: column → how it edited.
        run: the run folder.
    """

    config: EditStudyConfig
    edits: list[SceneEdit]
    verdicts: Mapping[str, list[EditVerdict]]
    images: Mapping[str, list[Image.Image]]
    options: Mapping[str, EditOptions]
    run: RunFolder


def edit_steps(config: EditStudyConfig, pipe: Any) -> int:
    """The sum of the numbers that `edit_study` passes to `on_step`: pictures times steps."""
    options = _columns(Denoiser.of(pipe), config, settings_of(config.model, pipe))
    return config.count * (config.steps + sum(how.calls for how in options.values()))


def edit_study(
    config: EditStudyConfig | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    batch_size: int = 50,
    keep_pictures: int = 8,
    pipe: Any = None,
    on_step: Callable[[int], None] = lambda pictures: None,
) -> EditStudy:
    """Edits renders of scenes of the `test` split in every column and judges the results.

    Two columns are baselines: ``no edit`` is the VAE's reconstruction of the picture, ``redrawn`` draws the target from
    noise. Edit i has the noise of seed ``config.seed + i`` in all columns.

    Args:
        out: the run folder; None makes `runs/stickers-edits-<date>-NNN`.
        batch_size: most pictures at once.
        keep_pictures: the run folder and the page have the pictures of this many edits.
        pipe: a pipeline that is loaded already, without soft tokens. `config.model` then only names it.
        on_step: called after each step with the number of pictures; `edit_steps` is the sum.

    Raises:
        LongalignError: the model draws no sticker scenes; what `EditOptions` and `scene_edits` refuse.
    """
    config = config or EditStudyConfig()
    edits = scene_edits(config.count, objects=config.objects, changes=config.changes, seed=config.seed)
    pipe = pipe or config.load()
    settings = settings_of(config.model, pipe)
    if settings.oracle != "stickers":
        raise LongalignError(f"model {config.model!r} draws no sticker scenes, so the oracle cannot judge it")
    options = _columns(Denoiser.of(pipe), config, settings)
    if config.soft_tokens is not None:  # wrong ones are refused before anything is drawn
        attach_tokens(pipe, config.soft_tokens).detach()
    settings_given = {k: v for k, v in asdict(config).items() if k != "method"}  # `columns` have methods
    recorded = {"command": COMMAND, **settings_given, "columns": {k: asdict(o) for k, o in options.items()}}
    run = RunFolder(out, recorded, overwrite=overwrite) if out else RunFolder.new("stickers-edits", recorded)
    renders = [render(edit.before) for edit in edits]
    seeds = [config.seed + i for i in range(config.count)]

    encoding = {"strategy": "clip-cat", "length": settings.length}

    def edited(how: EditOptions) -> list[Image.Image]:
        sources, targets = [e.source for e in edits], [e.target for e in edits]
        common: dict[str, Any] = {"batch_size": batch_size, "on_step": on_step, **encoding}
        made = edit_many(pipe, renders, sources, targets, seeds, how, **common)
        return [result.image for result in made]

    own_scheduler = pipe.scheduler
    set_scheduler(pipe, "auto")
    redrawn = draw(
        pipe,
        [e.target for e in edits],
        seeds,
        **encoding,
        sampling={
            "steps": config.steps,
            "guidance": settings.guidance,
            "batch_size": batch_size,
            "on_step": on_step,
        },
    )
    pipe.scheduler = own_scheduler
    images = {NOTHING: edited(EditOptions("ddim", 1, 0.0, 1.0, 1.0)), REDRAWN: redrawn}
    images |= {label: edited(how) for label, how in options.items() if not label.endswith(WITH_TOKENS)}
    if config.soft_tokens is not None:
        with attach_tokens(pipe, config.soft_tokens, scale=config.soft_token_scale):
            images |= {label: edited(how) for label, how in options.items() if label.endswith(WITH_TOKENS)}
    verdicts = {k: [judge_edit(e, x) for e, x in zip(edits, of, strict=True)] for k, of in images.items()}
    for i, edit in enumerate(edits):
        said = {k: asdict(of[i]) for k, of in verdicts.items()}
        texts = {"source": edit.source, "target": edit.target}
        run.log({"edit": i, "change": edit.change, **texts, "verdicts": said})
    kept = {k: of[:keep_pictures] for k, of in images.items()}
    return EditStudy(config, edits, verdicts, kept, options, run)


def _columns(denoiser: Denoiser, config: EditStudyConfig, settings: ModelSettings) -> dict[str, EditOptions]:
    """Label → how to edit, for each method without soft tokens, and for each with them where there are some."""
    methods = config.methods
    if methods is None:
        methods = tuple(m for m in METHODS if m != "flowedit" or denoiser.parameterisation == "flow")
    found = {}
    for with_tokens in (False, True) if config.soft_tokens is not None else (False,):
        for method in methods:
            own = {"samples": 1} if method == "ddim" else {"iterations": 1}  # each belongs to other methods
            found[method + WITH_TOKENS * with_tokens] = EditOptions.choose(
                denoiser,
                settings.guidance or 1.0,
                flowedit=settings.flowedit,
                soft_tokens=with_tokens,
                asked=config,
                method=method,
                **own,
            )
    return found
