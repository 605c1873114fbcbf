"""`longalign generate`: long prompts in, pictures and a sentence-by-sentence report out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from longalign.encoding import T5Branch, Truncation, encode_groups
from longalign.judging import sentence_rows, sentences_of, window_of
from longalign.pipelines import ModelSettings, load_pipeline, quiet, resolve, settings_of, strategy_for
from longalign.report import Case, Panel, Report, SentenceRow, write_report
from longalign.runs import RunFolder
from longalign.sampling import sample_groups, set_scheduler
from longalign.soft_tokens import pipelines as of_tokens
from longalign.versions import versions

ON_STEP = Callable[[int], None]


@dataclass(frozen=True)
class GenerateConfig:
    """The settings of a run, as they go into its `config.yaml`. None: what suits the model.

    `loras`: stages on the model, in the order of their training; `check_base`: refuse those of other weights.
    `strategy`: of `longalign.encode`; auto is what the last LoRA that says so was trained with, else clip-cat.
    `soft_tokens`: file of trained soft text tokens, or the folder that they are in, such as a run folder of
    `longalign train`; `soft_token_scale` and `soft_token_branches`: as in `longalign.soft_tokens.SoftTokens`.
    """

    model: str = "stickers"
    loras: tuple[str, ...] = ()
    soft_tokens: str | None = None
    soft_token_scale: float = 1.0
    soft_token_branches: str = "both"
    strategy: str = "auto"
    segments: str = "sentence"
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
    batch_size: int = 16
    language: str = "en"
    device: str = "auto"
    dtype: str = "auto"
    check_base: bool = True

    def load(self) -> Any:
        """The pipeline, with all that is to be on it.

        Raises:
            LongalignError: what `load_pipeline` refuses; soft tokens that are none, or of another backbone.
        """
        pipe = load_pipeline(
            self.model, device=self.device, dtype=self.dtype, loras=self.loras, check_base=self.check_base
        )
        if self.soft_tokens is not None:
            of_tokens.put_on(
                pipe, self.soft_tokens, scale=self.soft_token_scale, branches=self.soft_token_branches
            )
        return pipe


@dataclass(frozen=True)
class Picture:
    """One picture: of which prompt, from which seed."""

    prompt_index: int
    seed: int
    image: Image.Image
    file: str = ""


@dataclass(frozen=True)
class Generation:
    """All that `generate` made."""

    prompts: list[str]
    pictures: list[Picture]
    rows: list[list[SentenceRow]]
    truncation: list[tuple[Truncation, ...]]
    folder: Path
    settings: ModelSettings = field(default_factory=ModelSettings)

    def to_json(self) -> dict[str, Any]:
        """For `--json`: paths, seeds, sentences with their marks, and what was cut."""
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
    """A sentence as the machine-readable outputs have it."""
    return {"text": row.text, "beyond_window": row.beyond, "marks": dict(row.marks)}


def draw(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], *, sampling: Mapping[str, Any], **encoding: Any
) -> list[Image.Image]:
    """Encodes prompts and draws one picture of each: the thin path through the house.

    Args:
        prompts, seeds: as many of one as of the other.
        sampling: arguments of `longalign.sampling.sample`.
        encoding: arguments of `longalign.encode`.
    """
    groups = encode_groups(pipe, list(prompts), **encoding)
    return sample_groups(pipe, groups, seeds, **sampling)


def t5_branch(model: str, strategy: str, pipe: Any, loras: Sequence[str] = ()) -> T5Branch | None:
    """The T5 branch beside a model, on its pipeline's device, where the strategy asks for one.

    Args:
        loras: stages on the model; the last text adapter that was trained with one of them takes the model's place.
    """
    if "t5" not in strategy:
        return None
    with quiet():
        branch = T5Branch.from_pretrained(resolve(model), dtype=pipe.dtype, device=pipe.device)
    if not loras:
        return branch
    from longalign.stages.stack import text_adapter

    adapter = text_adapter(loras)
    if adapter is None:
        return branch
    return T5Branch(branch.tokenizer, branch.encoder, adapter.to(pipe.device, pipe.dtype))


def generate(
    prompts: Sequence[str],
    config: GenerateConfig | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    pipe: Any = None,
    on_step: ON_STEP = lambda pictures: None,
) -> Generation:
    """Draws `config.num` pictures of each prompt and writes a run folder with images and `report.html`.

    Picture k of every prompt comes from seed `config.seed + k`. Same seed and prompt, same picture.

    Args:
        prompts: of any length.
        config: the settings.
        out: the run folder; None makes `runs/generate-<date>-NNN`.
        overwrite: replace an earlier run in `out`.
        pipe: a pipeline that is loaded already; what `config` says of the model then only says what it is.
        on_step: called after each sampling step with the number of pictures in the batch.
    """
    config = config or GenerateConfig()
    config = replace(config, strategy=strategy_for(config.strategy, config.loras))
    pipe = pipe or config.load()
    settings = settings_of(config.model, pipe)
    guidance = settings.guidance if config.guidance is None else config.guidance
    length = settings.length if config.length is None else config.length
    scheduler = set_scheduler(pipe, config.scheduler)
    jobs = [(i, config.seed + k) for i in range(len(prompts)) for k in range(config.num)]
    groups = encode_groups(
        pipe,
        [prompts[i] for i, _ in jobs],
        config.negative_prompt,
        strategy=config.strategy,
        length=length,
        max_length=config.max_length,
        segments=config.segments,  # type: ignore[arg-type]  # checked there
        pooled=config.pooled,  # type: ignore[arg-type]
        language=config.language,
        t5=t5_branch(config.model, config.strategy, pipe, config.loras),
    )
    cut = {i: lost for members, c in groups for i, lost in zip(members, c.truncation, strict=True)}

    # The folder comes after all that can be wrong with the input, and before the hours that pictures may take.
    resolved = {**asdict(config), "guidance": guidance, "length": length, "scheduler": scheduler}
    recorded = {"command": "generate", **resolved, "prompts": list(prompts)}
    run = RunFolder(out, recorded, overwrite=overwrite) if out else RunFolder.new("generate", recorded)
    files: dict[int, str] = {}

    def keep(job: int, image: Image.Image) -> None:
        i, seed = jobs[job]
        files[job] = str(run.save_image(f"{i:04d}-{seed}", image).relative_to(run.path))

    images = sample_groups(
        pipe,
        groups,
        [seed for _, seed in jobs],
        on_image=keep,
        on_step=on_step,
        steps=config.steps,
        guidance=guidance,
        size=(config.width, config.height) if config.width and config.height else None,
        batch_size=config.batch_size,
    )
    pictures = [Picture(i, seed, images[job], files[job]) for job, (i, seed) in enumerate(jobs)]
    sentences = sentences_of(pipe, prompts, config.language)
    rows = []
    for i, prompt in enumerate(prompts):
        mine = [p for p in pictures if p.prompt_index == i]
        rows.append(sentence_rows(sentences[i], {f"seed {p.seed}": p.image for p in mine}, settings.oracle))
        found = [row_json(row) for row in rows[-1]]
        run.log({"prompt": prompt, "images": [p.file for p in mine], "sentences": found})
    truncation = [cut[i * config.num] for i in range(len(prompts))]
    made = Generation(list(prompts), pictures, rows, truncation, run.path, settings)
    write_report(_report(made, resolved, window_of(pipe)), run.report, jsonl=run.path / "report.jsonl")
    return made


def _report(made: Generation, resolved: dict[str, Any], window: int) -> Report:
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
    ]
    shown = ("model", "strategy", "steps", "guidance", "scheduler", "seed", "length", "negative_prompt")
    facts = {k.replace("_", " "): str(resolved[k]) for k in shown if resolved[k] is not None}
    if resolved["loras"]:
        facts["LoRA"] = " + ".join(resolved["loras"])
    if resolved["soft_tokens"]:
        facts["soft tokens"] = of_tokens.told(
            resolved["soft_tokens"], resolved["soft_token_scale"], resolved["soft_token_branches"]
        )
    return Report(
        title=made.prompts[0]
        if len(made.prompts) == 1 and len(made.prompts[0]) < 80
        else "Generated pictures",
        facts={"command": shlex.join(["longalign", *sys.argv[1:]]), **facts, **versions()},
        cases=cases,
        truncation=[
            f"Prompt {t.prompt_index + 1}, by {t.where}: {t.text}" for cut in made.truncation for t in cut
        ],
        window_tokens=window,
    )
