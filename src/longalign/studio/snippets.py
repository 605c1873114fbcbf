"""What the page just did, as a command and as Python."""

from __future__ import annotations

import shlex

from longalign.studio.draw import DrawJob
from longalign.studio.edit import EditJob
from longalign.studio.repair import RepairJob
from longalign.studio.stacks import Choice


def _options(choice: Choice, **others: object) -> list[str]:
    words = ["--model", choice.model]
    for lora in choice.loras:
        words += ["--lora", lora]
    if choice.soft_tokens:
        words += ["--soft-tokens", choice.soft_tokens]
    if choice.strategy != "auto":
        words += ["--strategy", choice.strategy]
    for name, value in others.items():
        if value is not None and value != "":
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _line(words: list[str]) -> str:
    return "longalign " + " ".join(shlex.quote(word) for word in words)


def _text(prompt: str) -> str:
    """A prompt as an argument. One that begins with @ or is - would be read as a file."""
    return f" {prompt}" if prompt.startswith("@") or prompt == "-" else prompt


def draw_command(job: DrawJob, seed: int, scorer: str | None) -> str:
    """The command that draws one of the pictures.

    Args:
        job: what the page did.
        seed: of the picture.
        scorer: the preference model.
    """
    return _line(
        [
            "generate",
            _text(job.prompt),
            *_options(
                job.choice,
                negative=job.negative,
                steps=job.steps,
                guidance=job.guidance,
                seed=seed,
                width=job.width,
                height=job.height,
                syntax=None if job.syntax == "plain" else job.syntax,
                scorer=scorer,
            ),
        ]
    )


def repair_command(job: RepairJob, scorer: str | None) -> str:
    """The command that draws and repairs a picture.

    Args:
        job: what the page did.
        scorer: the preference model.
    """
    return f"{draw_command(job.job, job.seed, scorer)} --repair {job.rounds}"


def repair_python(job: RepairJob, scorer: str | None) -> str:
    """Python that draws and repairs a picture.

    Args:
        job: what the page did.
        scorer: the preference model.
    """
    asked = job.job
    options = f"scorer={scorer!r}, rounds={job.rounds}, seed={job.seed}, steps={asked.steps}"
    if asked.guidance is not None:
        options += f", guidance={asked.guidance!r}"
    if asked.width and asked.height:
        options += f", size=({asked.width}, {asked.height})"
    if asked.negative:
        options += f", negative_prompt={asked.negative!r}"
    if asked.choice.strategy != "auto":
        options += f", strategy={asked.choice.strategy!r}"
    if asked.syntax != "plain":
        options += f", syntax={asked.syntax!r}"
    return "\n".join(
        [
            "import longalign",
            "from longalign.diffusion.sampling import set_scheduler",
            "",
            *_python_stack(asked.choice),
            "set_scheduler(pipe)  # UniPC, or the flow model's own",
            f"prompt = {asked.prompt!r}",
            f"repaired = longalign.repair(pipe, prompt, {options})",
            'repaired.image.save("repaired.png")',
        ]
    )


def _python_stack(choice: Choice) -> list[str]:
    lines = [f"pipe = longalign.Stack({choice.model!r}, loras={choice.loras!r}"]
    if choice.soft_tokens:
        lines[0] += f", soft_tokens={choice.soft_tokens!r}"
    lines[0] += ").load()"
    return lines


def draw_python(job: DrawJob, seed: int) -> str:
    """Python that draws one of the pictures.

    Args:
        job: what the page did.
        seed: of the picture.
    """
    options = ""
    if job.negative:
        options += f", negative_prompt={job.negative!r}"
    if job.choice.strategy != "auto":
        options += f", strategy={job.choice.strategy!r}"
    if job.syntax != "plain":
        options += f", syntax={job.syntax!r}"
    calls = [f"num_inference_steps={job.steps}"]
    if job.guidance is not None:
        calls.append(f"guidance_scale={job.guidance!r}")
    if job.width:
        calls.append(f"width={job.width}")
    if job.height:
        calls.append(f"height={job.height}")
    return "\n".join(
        [
            "import longalign",
            "import torch",
            "from longalign.diffusion.sampling import set_scheduler",
            "",
            *_python_stack(job.choice),
            "set_scheduler(pipe)  # UniPC, or the flow model's own",
            f"prompt = {job.prompt!r}",
            f"cond = longalign.encode(pipe, prompt{options})",
            f"generator = torch.Generator().manual_seed({seed})",
            f"image = pipe(**cond.pipeline_kwargs(), generator=generator, {', '.join(calls)}).images[0]",
            'image.save("picture.png")',
        ]
    )


def score_command(picture: str, prompt: str, scorer: str | None) -> str:
    """The command that checks a picture.

    Args:
        picture: name of its file.
        prompt: its text.
        scorer: the preference model.
    """
    words = ["score", picture, "--prompt", _text(prompt)]
    return _line([*words, "--model", scorer] if scorer else words)


def score_python(picture: str, prompt: str, scorer: str | None) -> str:
    """Python that checks a picture.

    Args:
        picture: name of its file.
        prompt: its text.
        scorer: the preference model.
    """
    return "\n".join(
        [
            "import longalign",
            "",
            f"model = longalign.PreferenceModel.from_pretrained({scorer or 'stickers'!r})",
            f"scores = model.score([{picture!r}], {prompt!r})",
            "for segment in scores.segments[0]:",
            "    print(segment.verdict, segment.probability, segment.text)",
        ]
    )


def edit_command(job: EditJob) -> str:
    """The command that edits a picture.

    Args:
        job: what the page did.
    """
    words = ["edit", str(job.picture), "--source", _text(job.source), "--target", _text(job.target)]
    method = None if job.method == "auto" else job.method
    return _line(
        [
            *words,
            *_options(job.choice, method=method, steps=job.steps, start=job.start, seed=job.seed),
            "--resize",
        ]
    )


def edit_python(job: EditJob) -> str:
    """Python that edits a picture.

    Args:
        job: what the page did.
    """
    strategy = "" if job.choice.strategy == "auto" else f", strategy={job.choice.strategy!r}"
    start = "" if job.start is None else f", start={job.start!r}"
    return "\n".join(
        [
            "import longalign",
            "",
            *_python_stack(job.choice),
            f"source = {job.source!r}",
            f"target = {job.target!r}",
            f"edited = longalign.edit(pipe, {str(job.picture)!r}, source, target, method={job.method!r}, "
            f"steps={job.steps}, seed={job.seed}, resize=True{start}{strategy})",
            'edited.image.save("edited.png")',
        ]
    )
