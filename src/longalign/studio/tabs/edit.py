"""*Edit*: a picture that one text describes becomes one that another text describes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from longalign.editing.options import METHODS
from longalign.picture_info import prompt_of
from longalign.studio import snippets
from longalign.studio.context import MODEL, Context, explain, steps_of
from longalign.studio.edit import Edited, EditJob, edit_picture
from longalign.studio.markup import edited_html, message_html, snippet_html
from longalign.studio.stacks import Choice


class EditTab:
    """The parts of the tab and what they do.

    Args:
        context: the studio.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        stacks, models = context.stacks, context.config.models
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.picture = gr.Image(
                    type="filepath", label="Picture", sources=["upload", "clipboard"], height=320,
                    elem_id="edit-picture",
                )  # fmt: skip
                self.source = gr.Textbox(label="What it shows", lines=4, max_lines=20, elem_id="edit-source")
                self.target = gr.Textbox(
                    label="What it should show", lines=4, max_lines=20, elem_id="edit-target"
                )
                with gr.Accordion("Model and method", open=False):
                    self.model = gr.Dropdown(list(models), value=models[0], label="Base model")
                    self.loras = gr.Dropdown(
                        stacks.loras_of(models[0]), value=[], multiselect=True, label="LoRAs"
                    )
                    self.tokens = gr.Dropdown(
                        ["none", *stacks.tokens_of(models[0])], value="none", label="Soft tokens"
                    )
                    self.method = gr.Radio(["auto", *METHODS], value="auto", label="Method")
                    with gr.Row():
                        self.steps = gr.Number(50, label="Steps", precision=0, minimum=1)
                        self.start = gr.Number(
                            None, label="Share of the steps that are taken (empty: the method's)"
                        )
                        self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                self.go = gr.Button("Edit", variant="primary", elem_id="edit")
            with gr.Column(scale=7, min_width=320):
                self.state = gr.HTML(
                    message_html("Its edit appears here."), elem_id="edit-state", padding=False
                )
                self.result = gr.HTML("", elem_id="edited", padding=False)
                self.snippet = gr.HTML("", padding=False)
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.picture.upload(self._read, self.picture, [self.source, self.target], **private)
        self.model.input(self._offer, self.model, [self.loras, self.tokens], **private)
        asked = [
            self.picture, self.source, self.target, self.model, self.loras, self.tokens, self.method, self.steps,
            self.start, self.seed,
        ]  # fmt: skip
        self.go.click(
            self._edit,
            asked,
            [self.state, self.result, self.snippet],
            concurrency_limit=1,
            concurrency_id=MODEL,
            **private,
        )

    def _read(self, picture: str | None) -> tuple[Any, Any]:
        try:
            prompt = prompt_of(self.context.folders.uploaded(picture)) if picture else ""
        except Exception:
            return gr.skip(), gr.skip()
        return prompt, prompt

    def _offer(self, model: str) -> tuple[Any, Any]:
        stacks = self.context.stacks
        if model not in self.context.config.models:
            return gr.skip(), gr.skip()
        tokens = gr.Dropdown(["none", *stacks.tokens_of(model)], value="none")
        return gr.Dropdown(stacks.loras_of(model), value=[]), tokens

    def _edit(
        self,
        picture: str | None,
        source: str,
        target: str,
        model: str,
        loras: list[str] | None,
        tokens: str | None,
        method: str,
        steps: float | None,
        start: float | None,
        seed: float | None,
    ) -> Iterator[tuple[Any, ...]]:
        context = self.context

        def show(html: str) -> tuple[Any, ...]:
            return html, gr.skip(), gr.skip()

        def end(edited: Edited) -> tuple[Any, ...]:
            code = snippet_html(snippets.edit_command(edited.job), snippets.edit_python(edited.job))
            return message_html(f"Kept in {edited.run}."), edited_html(edited), code

        if not picture:
            yield show(message_html("Load a picture first.", "error"))
            return
        try:
            choice = Choice(model, tuple(loras or ()), None if tokens in (None, "", "none") else tokens)
            job = EditJob(
                context.folders.uploaded(picture), source, target, choice, method,
                50 if steps is None else steps, start, 0 if seed is None else int(seed),  # type: ignore[arg-type]
            )  # fmt: skip
        except Exception as error:
            yield show(message_html(explain(error), "error"))
            return
        yield from steps_of(edit_picture(job, context.stacks, context.folders, context.limits), show, end)
