"""*Runs*: what is in the folder of runs, with its pages, and the curves of trainings while they run."""

from __future__ import annotations

from typing import Any

import gradio as gr

from longalign.studio.browse import curves_of, list_runs
from longalign.studio.context import Context, explain
from longalign.studio.markup import message_html, run_html, runs_html

_LIVE_S = 5.0


class RunsTab:
    """The parts of the tab and what they do.

    Args:
        context: the studio.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        with gr.Row():
            self.run = gr.Dropdown([], value=None, label="Run", elem_id="run", scale=4)
            self.again = gr.Button("Look again", scale=1, elem_id="look")
        self.shown = gr.HTML("", elem_id="run-shown", padding=False)
        self.list = gr.HTML("", elem_id="runs", padding=False)
        self.timer = gr.Timer(_LIVE_S, active=False)
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        self.again.click(self.look, None, [self.run, self.list], **private)
        self.run.change(self._show, self.run, [self.shown, self.timer], **private)
        self.timer.tick(self._show, self.run, [self.shown, self.timer], **private)

    def look(self) -> tuple[Any, str]:
        """The runs that are there now."""
        runs = list_runs(self.context.folders)
        return gr.Dropdown([run.name for run in runs]), runs_html(runs)

    def _show(self, name: str | None) -> tuple[str, Any]:
        still = gr.Timer(active=False)
        if not name:
            return "", still
        try:
            found = {run.name: run for run in list_runs(self.context.folders)}
            if name not in found:
                return message_html(f"There is no run {name!r} any more.", "error"), still
            run = found[name]
            curves = curves_of(self.context.folders, name) if run.training else []
            return run_html(run, curves), gr.Timer(_LIVE_S, active=run.running)
        except Exception as error:
            return message_html(explain(error), "error"), still
