"""`generate`: from prompts to a run folder with pictures and a report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from longalign.engine import Engine, run_work
from longalign.errors import Interrupted, LongalignError
from longalign.generation.page import write_page
from longalign.generation.painter import ON_STEP, Painter
from longalign.generation.repairs import FOLDER, check_settings
from longalign.generation.result import Generation
from longalign.generation.settings import GenerateConfig
from longalign.generation.work import GenerateWork
from longalign.paths import need_local
from longalign.report import counted
from longalign.runs import RunFolder, remove_leftovers

_LISTED = 200  # prompts that config.yaml has as they are; of more it has a hash
# Settings that may differ when a run goes on. Another device changes the last bits of the pictures, but there may be
# good reasons for it. Another batch size changes them for nothing, and is refused.
_FREE = ("device",)


def generate(
    prompts: str | Sequence[str],
    config: GenerateConfig | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    pipe: Any = None,
    engine: Engine | None = None,
    command_line: str | None = None,
    on_step: ON_STEP = lambda pictures: None,
    on_pictures: Callable[[int], None] = lambda pictures: None,
) -> Generation:
    """Draws `config.num` pictures of each prompt and writes a run folder with images and `report.html`.

    Picture k of every prompt comes from seed `config.seed + k`. With `config.best_of` or `config.repair` it is the
    result of `longalign.repair` that begins with this seed, and the report shows it before and after. The same seed
    and prompt give the same picture. Prompts are drawn in blocks of 64 pictures; the same call with the same ``out``
    goes on where it was stopped, and gives the same files. The device alone may be another one, which changes the last
    bits of the pictures; other settings are refused. Memory does not grow with the number of pictures. Up to 200
    pictures are on one page; of more there is a
    folder of pages.

    Args:
        prompts: P prompts of any length; a string is one. They may be a sequence that reads them from a file.
        config: the settings; None is `GenerateConfig()`.
        out: the run folder; None makes `runs/generate-<date>-NNN`.
        overwrite: replace an earlier run in `out`.
        pipe: a pipeline that is loaded already. `config.model` then only names it. For this process alone.
        engine: where pictures are drawn; None: in this process. Other processes load the model.
        command_line: what the user typed, for the report.
        on_step: called after each sampling step of this process with the number of pictures in the batch.
        on_pictures: called with the number of pictures of each block that was finished.

    Returns:
        The pictures, their sentences and the run folder.

    Raises:
        LongalignError: the model, a LoRA or soft tokens cannot be loaded; a setting is unknown or out of range; the
            run folder cannot be written, or has a run of other settings or prompts; `pipe` with other processes.
        Interrupted: Ctrl-C while pictures are drawn. The pictures that were finished are kept, with their report.
    """
    need_local(out, "pictures and their pages")
    prompts = [prompts] if isinstance(prompts, str) else prompts
    here = engine is None or engine.on == "local"
    if pipe is not None and not here:
        raise LongalignError(
            "a loaded pipeline cannot be sent to other processes: name a model in the settings"
        )
    # Workers of Ray load the model themselves. It is loaded here, too: its defaults are settings of the run, and what
    # is wrong with it is said before workers start.
    check_settings(config or GenerateConfig())
    painter = Painter(config or GenerateConfig(), pipe)
    config = painter.config
    if prompts:
        painter.encode(prompts[:1])  # so is what is wrong with how prompts are read
    # The folder comes after all that can be wrong with the input, and before the hours that pictures may take.
    recorded = {"command": "generate", **painter.resolved, "prompts": _listed(prompts)}
    run = _folder(out, recorded, overwrite)
    work = GenerateWork(prompts, config, str(run.path), painter if here else None, on_step)
    stopped = False
    try:
        run_work(work, engine, on_pictures)
    except KeyboardInterrupt:
        stopped = True
    _sweep(run)
    made = Generation(prompts, run.path, work.blocks, painter.settings, work.unfinished)
    pictures = write_page(made, painter, run, command_line)
    if stopped:
        if not pictures:
            raise Interrupted(
                f"no picture was finished. A smaller --batch-size finishes the first ones sooner. {run.path} holds "
                "the settings alone"
            )
        wanted = len(prompts) * config.num
        command = "The same command" if out is not None else f"The same command with --out {run.path}"
        raise Interrupted(
            f"{pictures} of {counted(wanted, 'picture')} are kept, with their report: {run.report}. {command} goes on "
            "with the rest"
        )
    return made


def _sweep(run: RunFolder) -> None:
    """Removes what killed processes had begun to write, of this run and of those that it goes on from."""
    folders = (run.path / name for name in ("parts", "pages", FOLDER))
    for folder in (run.path, run.images, *folders, *(run.path / "thumbnails").glob("*")):
        remove_leftovers(folder)


def _folder(out: str | Path | None, recorded: dict[str, Any], overwrite: bool) -> RunFolder:
    if out is None:
        return RunFolder.new("generate", recorded)
    if overwrite:
        return RunFolder(out, recorded, overwrite=True)
    return RunFolder.resume(out, recorded, free=_FREE)


def _listed(prompts: Sequence[str]) -> list[str] | dict[str, Any]:
    """The prompts for config.yaml: as they are, or how many and their hash."""
    if len(prompts) <= _LISTED:
        return list(prompts)
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(prompt.encode("utf-8", "backslashreplace") + b"\0")
    return {"count": len(prompts), "sha256": digest.hexdigest()}
