"""*Check*: which sentence is false of a picture; of many pictures, the worst first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from longalign.picture_info import prompt_of
from longalign.studio import snippets
from longalign.studio.browse import list_runs, pictures_of
from longalign.studio.check import Checked, CheckedMany, check_many, check_picture
from longalign.studio.context import MODEL, Context, explain, steps_of
from longalign.studio.markup import checked_html, many_html, message_html, progress_html, snippet_html
from longalign.studio.stepping import Progress


class CheckTab:
    """The parts of the tab and what they do.

    Args:
        context: the studio.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.picture = gr.Image(
                    type="filepath", label="Picture", sources=["upload", "clipboard"], height=320,
                    elem_id="check-picture",
                )  # fmt: skip
                self.prompt = gr.Textbox(
                    label="What it should show", lines=5, max_lines=20, elem_id="check-prompt",
                    placeholder="Empty: what the file says. Pictures of longalign, A1111 and ComfyUI say it",
                )  # fmt: skip
                self.go = gr.Button("Check", variant="primary", elem_id="check")
            with gr.Column(scale=7, min_width=320):
                self.result = gr.HTML(message_html("Load a picture."), elem_id="checked", padding=False)
                self.snippet = gr.HTML("", padding=False)
        with gr.Accordion("Many pictures, the worst first", open=False):
            with gr.Row():
                self.files = gr.File(
                    file_count="multiple",
                    label="Pictures, with NAME.txt or metadata.jsonl",
                    elem_id="check-files",
                )
                with gr.Column():
                    self.run = gr.Dropdown(self._runs(), value=None, label="or the pictures of a run")
                    self.many = gr.Button("Check all", elem_id="check-many")
            self.list = gr.HTML("", elem_id="checked-many", padding=False)
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        turns: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": MODEL}
        self.picture.upload(self._read, self.picture, [self.prompt, self.result], **private)
        gr.on(
            [self.go.click, self.prompt.submit],
            self._check,
            [self.picture, self.prompt],
            [self.result, self.snippet],
            **turns,
            **private,
        )
        self.many.click(self._check_many, [self.files, self.run], self.list, **turns, **private)
        self.run.focus(lambda: gr.Dropdown(self._runs()), None, self.run, **private)

    def _runs(self) -> list[str]:
        return [run.name for run in list_runs(self.context.folders) if run.pictures]

    def _read(self, picture: str | None) -> tuple[Any, Any]:
        try:
            prompt = prompt_of(self.context.folders.uploaded(picture)) if picture else ""
        except Exception:
            hint = "The file does not say its prompt. Write what the picture should show."
            return gr.skip(), message_html(hint)
        return prompt, message_html("The prompt was read from the file.")

    def _check(self, picture: str | None, prompt: str) -> Iterator[tuple[Any, Any]]:
        if not picture:
            yield message_html("Load a picture first.", "error"), ""
            return
        yield progress_html(Progress(0.1, "reading the picture")), ""
        context = self.context
        try:
            checked = check_picture(context.folders.uploaded(picture), prompt, context.stacks, context.limits)
        except Exception as error:
            yield message_html(explain(error), "error"), ""
            return
        yield checked_html(checked), self._code(checked)

    def _code(self, checked: Checked) -> str:
        scorer = self.context.config.scorer
        return snippet_html(
            snippets.score_command(checked.name, checked.prompt, scorer),
            snippets.score_python(checked.name, checked.prompt, scorer),
        )

    def _check_many(self, files: list[str] | None, run: str | None) -> Iterator[Any]:
        context = self.context

        def end(many: CheckedMany) -> Any:
            return many_html(many)

        try:
            paths = [context.folders.uploaded(file) for file in files or []]
            if run and not paths:
                paths = pictures_of(context.folders, run)
        except Exception as error:
            yield message_html(explain(error), "error")
            return
        yield from steps_of(check_many(paths, context.stacks, context.limits), lambda html: html, end)
