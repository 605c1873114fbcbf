"""Pictures of long prompts, with a report on each sentence: `longalign generate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.diffusion.pipelines import ModelSettings, settings_of
from longalign.diffusion.sampling import sample_groups, set_scheduler
from longalign.diffusion.sizes import size_for
from longalign.encoding import Truncation, encode_groups
from longalign.encoding.conditioning import Conditioning
from longalign.encoding.encode import fits
from longalign.encoding.options import EncodeOptions
from longalign.errors import Interrupted
from longalign.picture_info import PictureInfo, png_text
from longalign.preference import PreferenceModel
from longalign.preference.sentences import score_rows, words_of_scores
from longalign.report import Case, Panel, Report, SentenceRow, counted, write_report
from longalign.report.sentences import sentence_rows, sentences_of, window_of
from longalign.runs import RunFolder
from longalign.versions import VERSION, provenance
from longalign.weights.stack import Stack, encoding_for

ON_STEP = Callable[[int], None]


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
        batch_size: most pictures at once.
        language: of the prompts, for cutting sentences (ISO 639-1).
        scorer: name of a preference model that scores each sentence against each picture. None: none does.
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


class Painter:
    """A model that draws prompts by fixed settings.

    Args:
        config: the settings. `num`, `scorer` and `round_size` are the caller's.
        pipe: a pipeline that is loaded already; None: `config` loads it.

    Attributes:
        pipe: the pipeline.
        config: the settings, with the strategy and the segments that the model or its LoRA asks for.
        settings: the model's defaults.
        encoding: arguments of `longalign.encode`.

    Raises:
        LongalignError: the model, a LoRA or soft tokens cannot be loaded; a setting is unknown or out of range.
    """

    def __init__(self, config: GenerateConfig, pipe: Any = None) -> None:
        self.pipe = pipe or config.load()
        self.settings = settings_of(config.model, self.pipe)
        strategy, segments, length = encoding_for(config, self.settings, config.segments, config.length)
        self.config = config = replace(config, strategy=strategy, segments=segments)
        self.guidance = self.settings.guidance if config.guidance is None else config.guidance
        self.scheduler = set_scheduler(self.pipe, config.scheduler)
        self.size = size_for(self.pipe, config.width, config.height, round_size=config.round_size)
        self.encoding: EncodeOptions = {
            "strategy": config.strategy,
            "length": length,
            "max_length": config.max_length,
            "segments": config.segments,  # type: ignore[typeddict-item]  # checked there
            "pooled": config.pooled,  # type: ignore[typeddict-item]
            "language": config.language,
            "syntax": config.syntax,  # type: ignore[typeddict-item]
            "clip_skip": config.clip_skip,
            "t5": config.t5_branch(self.pipe),
        }

    @property
    def resolved(self) -> dict[str, Any]:
        """All settings, with the model's own where the user left the choice to it."""
        width, height = self.size or (None, None)
        used = {"guidance": self.guidance, "length": self.encoding["length"], "scheduler": self.scheduler}
        return {**asdict(self.config), **used, "width": width, "height": height}

    def encode(self, prompts: Sequence[str]) -> list[tuple[list[int], Conditioning]]:
        """The conditioning of prompts, in groups of one length, as of `longalign.encode_groups`."""
        return encode_groups(self.pipe, list(prompts), self.config.negative_prompt, **self.encoding)

    def paint(
        self,
        groups: Sequence[tuple[Sequence[int], Conditioning]],
        seeds: Sequence[int],
        *,
        on_image: Callable[[int, Image.Image], None] = lambda index, image: None,
        on_step: ON_STEP = lambda pictures: None,
    ) -> list[Image.Image]:
        """One picture for each prompt that `encode` was given, in order.

        Args:
            groups: of `encode`.
            seeds: one a prompt.
            on_image: called with the place of a prompt and its picture.
            on_step: called after each sampling step with the number of pictures in the batch.
        """
        return sample_groups(
            self.pipe,
            groups,
            seeds,
            on_image=on_image,
            on_step=on_step,
            steps=self.config.steps,
            guidance=self.guidance,
            size=self.size,
            batch_size=self.config.batch_size,
        )


@dataclass(frozen=True)
class Picture:
    """One picture: of which prompt, from which seed."""

    prompt_index: int
    seed: int
    image: Image.Image
    file: str = ""


@dataclass(frozen=True)
class Generation:
    """The result of `generate`.

    Attributes:
        prompts: P prompts.
        pictures: P · num pictures, prompt after prompt; fewer in what an interrupted run reports on.
        rows: of each prompt its sentences, with marks where the model's world has a judge.
        truncation: of each prompt the text that was cut off.
        folder: the run folder.
        settings: the model's defaults.
    """

    prompts: list[str]
    pictures: list[Picture]
    rows: list[list[SentenceRow]]
    truncation: list[tuple[Truncation, ...]]
    folder: Path
    settings: ModelSettings = field(default_factory=ModelSettings)

    def to_json(self) -> dict[str, Any]:
        """For `--json`: paths, seeds, sentences with their marks, and the text that was cut off."""
        return {
            "folder": str(self.folder),
            "report": str(self.folder / "report.html"),
            "prompts": [
                {
                    "prompt": prompt,
                    "images": [
                        {"seed": p.seed, "file": str(self.folder / p.file)}
                        for p in self.pictures
                        if p.prompt_index == i
                    ],
                    "sentences": [row_json(r) for r in self.rows[i]],
                    "truncation": [asdict(t) for t in self.truncation[i]],
                }
                for i, prompt in enumerate(self.prompts)
            ],
        }


def row_json(row: SentenceRow) -> dict[str, Any]:
    """A sentence as the machine-readable outputs have it; with scores where a preference model gave some."""
    scores = {"scores": dict(row.scores)} if row.scores else {}
    return {"text": row.text, "beyond_window": row.beyond, "marks": dict(row.marks), **scores}


def generate(
    prompts: str | Sequence[str],
    config: GenerateConfig | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    pipe: Any = None,
    command_line: str | None = None,
    on_step: ON_STEP = lambda pictures: None,
) -> Generation:
    """Draws `config.num` pictures of each prompt and writes a run folder with images and `report.html`.

    Picture k of every prompt comes from seed `config.seed + k`. The same seed and prompt give the same picture.

    Args:
        prompts: P prompts of any length; a string is one.
        config: the settings; None is `GenerateConfig()`.
        out: the run folder; None makes `runs/generate-<date>-NNN`.
        overwrite: replace an earlier run in `out`.
        pipe: a pipeline that is loaded already. `config.model` then only names it.
        command_line: what the user typed, for the report.
        on_step: called after each sampling step with the number of pictures in the batch.

    Returns:
        The pictures, their sentences and the run folder.

    Raises:
        LongalignError: the model, a LoRA or soft tokens cannot be loaded; a setting is unknown or out of range; the
            run folder cannot be written.
        Interrupted: Ctrl-C while pictures are drawn. The pictures that were finished are kept, with their report.
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts
    painter = Painter(config or GenerateConfig(), pipe)
    pipe, config, settings = painter.pipe, painter.config, painter.settings
    jobs = [(i, config.seed + k) for i in range(len(prompts)) for k in range(config.num)]
    groups = painter.encode([prompts[i] for i, _ in jobs])
    cut = {i: lost for members, c in groups for i, lost in zip(members, c.truncation, strict=True)}

    scorer = None
    if config.scorer is not None:
        scorer = PreferenceModel.from_pretrained(config.scorer, device=config.device, dtype=config.dtype)

    # The folder comes after all that can be wrong with the input, and before the hours that pictures may take.
    resolved = painter.resolved
    if config.strategy == "auto":
        resolved["strategy"] = _auto(fits(pipe, prompts, config.negative_prompt, **painter.encoding))
    recorded = {"command": "generate", **resolved, "prompts": list(prompts)}
    run = RunFolder(out, recorded, overwrite=overwrite) if out else RunFolder.new("generate", recorded)
    images: dict[int, Image.Image] = {}
    files: dict[int, str] = {}

    def keep(job: int, image: Image.Image) -> None:
        i, seed = jobs[job]
        images[job] = image
        text = png_text(picture_info(prompts[i], image, {**resolved, "seed": seed}))
        files[job] = str(run.save_image(f"{i:04d}-{seed}", image, text).relative_to(run.path))

    try:
        painter.paint(groups, [seed for _, seed in jobs], on_image=keep, on_step=on_step)
    except KeyboardInterrupt:
        if not files:
            raise Interrupted(
                f"no picture was finished. A smaller --batch-size finishes the first ones sooner. {run.path} holds "
                "the settings alone"
            ) from None
    pictures = [
        Picture(i, seed, images[job], files[job]) for job, (i, seed) in enumerate(jobs) if job in files
    ]
    sentences = sentences_of(pipe.tokenizer, prompts, config.language, config.syntax)  # type: ignore[arg-type]
    rows = []
    for i, prompt in enumerate(prompts):
        mine = [p for p in pictures if p.prompt_index == i]
        shown = {f"seed {p.seed}": p.image for p in mine}
        rows.append(sentence_rows(sentences[i], shown, settings.oracle))
        if scorer is not None:
            rows[-1] = score_rows(scorer, rows[-1], shown, prompt)
        if not mine:
            continue
        found = [row_json(row) for row in rows[-1]]
        run.log({"prompt": prompt, "images": [p.file for p in mine], "sentences": found})
    truncation = [cut[i * config.num] for i in range(len(prompts))]
    made = Generation(list(prompts), pictures, rows, truncation, run.path, settings)
    write_report(
        _report(made, config, resolved, window_of(pipe.tokenizer), command_line),
        run.report,
        jsonl=run.path / "report.jsonl",
    )
    if len(pictures) < len(jobs):
        raise Interrupted(
            f"{len(pictures)} of {counted(len(jobs), 'picture')} are kept, with their report: {run.report}. The same "
            "command draws all again, and the same ones"
        )
    return made


def _auto(whole: Sequence[bool]) -> str:
    """What `auto` chose, for the report."""
    if len(set(whole)) == 1:
        return "auto: plain (the text fits the window)" if whole[0] else "auto: clip-cat"
    return f"auto: plain for the {sum(whole)} of {len(whole)} prompts that fit the window, clip-cat for the others"


def picture_info(prompt: str, image: Image.Image, resolved: Mapping[str, Any]) -> PictureInfo:
    """What a picture says of how it was made. Settings that say nothing are left out.

    Args:
        prompt: its prompt.
        image: the picture.
        resolved: all settings, with the seed of this picture.
    """
    silent = ("negative_prompt", "width", "height", "round_size", "num", "batch_size", "device", "check_base")
    settings = {k: v for k, v in resolved.items() if k not in silent and v not in (None, (), "")}
    size = f"{image.width}x{image.height}"
    return PictureInfo(prompt, resolved["negative_prompt"], {**settings, "size": size, "version": VERSION})


def _report(
    made: Generation,
    config: GenerateConfig,
    resolved: dict[str, Any],
    window: int,
    command_line: str | None,
) -> Report:
    cases = [
        Case(
            title=f"Prompt {i + 1}",
            prompt=prompt,
            panels=[
                Panel(f"seed {p.seed}", p.image, file=p.file) for p in made.pictures if p.prompt_index == i
            ],
            sentences=made.rows[i],
        )
        for i, prompt in enumerate(made.prompts)
        if any(p.prompt_index == i for p in made.pictures)
    ]
    shown = (
        "model",
        "strategy",
        "steps",
        "guidance",
        "scheduler",
        "seed",
        "length",
        "negative_prompt",
        "scorer",
    )
    facts = {k.replace("_", " "): str(resolved[k]) for k in shown if resolved[k] is not None}
    return Report(
        title=made.prompts[0]
        if len(made.prompts) == 1 and len(made.prompts[0]) < 80
        else "Generated pictures",
        facts=provenance({**facts, **config.facts()}, command_line),
        cases=cases,
        truncation=[
            f"Prompt {t.prompt_index + 1}, by {t.where}: {t.text}" for cut in made.truncation for t in cut
        ],
        window_tokens=window,
        scores=words_of_scores(config.scorer) if config.scorer else "",
    )
