"""*Draw*: a prompt is written, cut while it is written, and drawn; its sentences stand beside the picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from longalign.studio import snippets
from longalign.studio.context import MODEL, Context, explain, steps_of
from longalign.studio.cut import Cut
from longalign.studio.draw import Drawing, DrawJob, draw
from longalign.studio.markup import cut_html, drawing_html, mended_html, message_html, snippet_html
from longalign.studio.repair import Mended, RepairJob, mend
from longalign.studio.stacks import STRATEGIES, Choice, comparisons
from longalign.studio.verdicts import lowest

# What a deep link holds: name in the address → part of the page
LINKED = (
    "prompt",
    "model",
    "lora",
    "tokens",
    "strategy",
    "seed",
    "steps",
    "guidance",
    "num",
    "best",
    "compare",
)
JOIN = "\x1f"  # between the values of a list in an address


class DrawTab:
    """The parts of the tab and what they do.

    Args:
        context: the studio.
        example: a prompt to begin with.
    """

    def __init__(self, context: Context, example: str = "") -> None:
        self.context, self.example = context, example
        stacks, model = context.stacks, context.config.models[0]
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.prompt = gr.Textbox(
                    label="Prompt", lines=7, max_lines=20, value=example, elem_id="prompt",
                    placeholder="Sentence by sentence, what the picture shows",
                )  # fmt: skip
                with gr.Row():
                    self.go = gr.Button("Draw", variant="primary", elem_id="draw")
                    self.stop = gr.Button("Stop", elem_id="stop")
                self.compare = gr.Dropdown(
                    list(comparisons(model, stacks)), value=[], multiselect=True,
                    label="Draw beside it, from the same seed", elem_id="compare",
                )  # fmt: skip
                self.cut = gr.HTML(cut_html(Cut("", (), 0, 0)), elem_id="cut", padding=False)
                with gr.Accordion("Model", open=False):
                    self.model = gr.Dropdown(list(context.config.models), value=model, label="Base model")
                    self.loras = gr.Dropdown(
                        stacks.loras_of(model), value=[], multiselect=True, label="LoRAs"
                    )
                    self.tokens = gr.Dropdown(
                        ["none", *stacks.tokens_of(model)], value="none", label="Soft tokens"
                    )
                    self.strategy = gr.Radio(
                        list(STRATEGIES), value="auto", label="Text encoding",
                        info="auto: by sentence where the prompt does not fit the window",
                    )  # fmt: skip
                with gr.Accordion("Picture", open=False):
                    with gr.Row():
                        self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                        self.steps = gr.Number(25, label="Steps", precision=0, minimum=1)
                        self.guidance = gr.Number(None, label="Guidance (empty: the model's)")
                    with gr.Row():
                        self.num = gr.Number(1, label="Pictures", precision=0, minimum=1)
                        self.best = gr.Number(1, label="Best of so many tries", precision=0, minimum=1)
                    with gr.Row():
                        self.width = gr.Number(None, label="Width (empty: the model's)", precision=0)
                        self.height = gr.Number(None, label="Height", precision=0)
                    self.negative = gr.Textbox(label="Negative prompt", lines=2)
                    self.syntax = gr.Radio(
                        ["plain", "a1111", "compel"], value="plain", label="Notation of weights"
                    )
                    self.attention = gr.Checkbox(True, label="Keep where each sentence was looked at")
            with gr.Column(scale=7, min_width=320):
                self.state = gr.HTML(
                    message_html("Pictures appear here."), elem_id="draw-state", padding=False
                )
                self.result = gr.HTML("", elem_id="drawing", padding=False)
                with gr.Row():
                    self.repair = gr.Button("Repair", interactive=False, elem_id="repair")
                    self.rounds = gr.Number(4, label="Rounds at most", precision=0, minimum=1, maximum=8)
                    self.download = gr.DownloadButton(
                        "Download the report", interactive=False, elem_id="report"
                    )
                self.mended = gr.HTML("", elem_id="mended", padding=False)
                self.snippet = gr.HTML("", padding=False)
        self.last = gr.State(None)
        self._connect()

    @property
    def asked(self) -> list[Any]:
        """The parts that a job is read from."""
        return [
            self.prompt, self.model, self.loras, self.tokens, self.strategy, self.compare, self.seed, self.steps,
            self.guidance, self.num, self.best, self.width, self.height, self.negative, self.syntax, self.attention,
        ]  # fmt: skip

    @property
    def linked(self) -> list[Any]:
        """The parts that a deep link holds, in the order of `LINKED`."""
        return [
            self.prompt, self.model, self.loras, self.tokens, self.strategy, self.seed, self.steps, self.guidance,
            self.num, self.best, self.compare,
        ]  # fmt: skip

    def _connect(self) -> None:
        private: dict[str, Any] = {"api_visibility": "private"}
        gr.on(
            [self.prompt.input, self.prompt.change, self.model.change, self.syntax.change],
            self._cut,
            [self.prompt, self.model, self.syntax],
            self.cut,
            trigger_mode="always_last",
            show_progress="hidden",
            concurrency_id="cut",
            **private,
        )
        self.model.input(
            self._offer,
            self.model,
            [self.loras, self.tokens, self.compare],
            show_progress="hidden",
            **private,
        )
        outputs = [self.state, self.result, self.download, self.snippet, self.last, self.repair, self.mended]
        event = gr.on(
            [self.go.click, self.prompt.submit],
            self._draw,
            self.asked,
            outputs,
            concurrency_limit=1,
            concurrency_id=MODEL,
            show_progress="hidden",
            **private,
        )
        gr.on(
            [self.go.click, self.prompt.submit],
            None,
            self.linked,
            None,
            js="(...values) => window.longalign.remember('draw', values)",
            **private,
        )
        mending = self.repair.click(
            self._repair,
            [self.last, self.rounds],
            [self.state, self.mended, self.download, self.snippet],
            concurrency_limit=1,
            concurrency_id=MODEL,
            show_progress="hidden",
            **private,
        )
        self.stop.click(
            lambda: message_html("Stopped. Nothing was kept."),
            None,
            self.state,
            cancels=[event, mending],
            show_progress="hidden",
            **private,
        )

    def begin(self) -> str:
        """The first prompt, cut. The page asks for it when it is open: the tokenizer takes a moment to load."""
        return self._cut(self.example, self.context.config.models[0], "plain")

    def _cut(self, prompt: str, model: str, syntax: str) -> str:
        limits = self.context.limits
        try:
            if not prompt.strip():
                return cut_html(Cut("", (), 0, 0))
            limits.text(prompt)
            return cut_html(self.context.stacks.cut(prompt, model, syntax))
        except Exception as error:
            return message_html(explain(error), "error")

    def _offer(self, model: str) -> tuple[Any, ...]:
        stacks = self.context.stacks
        if model not in self.context.config.models:
            return gr.skip(), gr.skip(), gr.skip()
        return (
            gr.Dropdown(stacks.loras_of(model), value=[]),
            gr.Dropdown(["none", *stacks.tokens_of(model)], value="none"),
            gr.Dropdown(list(comparisons(model, stacks)), value=[]),
        )

    def _draw(self, *values: Any) -> Iterator[tuple[Any, ...]]:
        def show(html: str) -> tuple[Any, ...]:
            return html, *[gr.skip()] * 6

        def end(drawing: Drawing) -> tuple[Any, ...]:
            folders = self.context.folders
            seed = drawing.shown[0].seed
            scorer = self.context.config.scorer
            code = snippet_html(
                snippets.draw_command(drawing.job, seed, scorer), snippets.draw_python(drawing.job, seed)
            )
            report = gr.DownloadButton(value=folders.to_give(drawing.report), interactive=True)
            done = message_html(f"Kept in {drawing.run}.")
            repairable = gr.Button(interactive=scorer is not None)
            return done, drawing_html(drawing), report, code, drawing, repairable, ""

        try:
            job = job_of(*values)
        except Exception as error:
            yield show(message_html(explain(error), "error"))
            return
        context = self.context
        yield from steps_of(draw(job, context.stacks, context.folders, context.limits), show, end)

    def _repair(self, drawing: Drawing | None, rounds: float | None) -> Iterator[tuple[Any, ...]]:
        context = self.context

        def show(html: str) -> tuple[Any, ...]:
            return html, *[gr.skip()] * 3

        def end(mended: Mended) -> tuple[Any, ...]:
            scorer = context.config.scorer
            code = snippet_html(
                snippets.repair_command(mended.job, scorer), snippets.repair_python(mended.job, scorer)
            )
            report = gr.DownloadButton(value=context.folders.to_give(f"{mended.run}/report.html"))
            return message_html(f"Kept in {mended.run}."), mended_html(mended), report, code

        if drawing is None:
            yield show(message_html("Draw something first.", "error"))
            return
        worst = min(drawing.shown[: drawing.job.num], key=lambda one: lowest(one.sentences))
        job = RepairJob(drawing.job, worst.seed, 4 if rounds is None else rounds)  # type: ignore[arg-type]
        yield from steps_of(mend(job, context.stacks, context.folders, context.limits), show, end)


def job_of(
    prompt: str,
    model: str,
    loras: list[str] | None,
    tokens: str | None,
    strategy: str,
    compare: list[str] | None,
    seed: float | None,
    steps: float | None,
    guidance: float | None,
    num: float | None,
    best: float | None,
    width: float | None,
    height: float | None,
    negative: str | None,
    syntax: str,
    attention: bool,
) -> DrawJob:
    """The job that the parts of the page describe. Empty numbers are the defaults."""
    choice = Choice(model, tuple(loras or ()), None if tokens in (None, "", "none") else tokens, strategy)
    return DrawJob(
        prompt=prompt,
        choice=choice,
        negative=negative or "",
        compare=tuple(compare or ()),
        steps=25 if steps is None else steps,  # type: ignore[arg-type]  # checked by the job
        guidance=guidance,
        seed=0 if seed is None else int(seed),
        num=1 if num is None else num,  # type: ignore[arg-type]
        best_of=1 if best is None else best,  # type: ignore[arg-type]
        width=None if not width else int(width),
        height=None if not height else int(height),
        syntax=syntax,
        attention=bool(attention),
    )
