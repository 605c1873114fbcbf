"""The page: its tabs, what a deep link restores, and the API beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from longalign.errors import LongalignError
from longalign.studio.api import endpoints
from longalign.studio.context import Context
from longalign.studio.folders import Folders
from longalign.studio.settings import StudioConfig
from longalign.studio.stacks import Stacks, comparisons
from longalign.studio.tabs.check import CheckTab
from longalign.studio.tabs.draw import JOIN, LINKED, DrawTab
from longalign.studio.tabs.edit import EditTab
from longalign.studio.tabs.runs import RunsTab
from longalign.worlds import owner

_LISTS = ("lora", "compare")
_NUMBERS = ("seed", "steps", "guidance", "num", "best")


def page(config: StudioConfig, stacks: Stacks, folders: Folders, *, example: bool = False) -> gr.Blocks:
    """The page.

    Args:
        config: what it offers.
        stacks: the models.
        folders: where results are.
        example: begin with an example prompt.
    """
    context = Context(config, stacks, folders)
    with gr.Blocks(
        title="longalign studio", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True
    ) as blocks:
        gr.HTML(
            '<header class="la top"><h1>longalign studio</h1><p>Long prompts, sentence by sentence.</p></header>',
            padding=False,
        )
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Draw", id="draw"):
                drawing = DrawTab(context, _example(config) if example else "")
            with gr.Tab("Check", id="check"):
                CheckTab(context)
            with gr.Tab("Edit", id="edit"):
                EditTab(context)
            with gr.Tab("Runs", id="runs") as runs_tab:
                runs = RunsTab(context)
        endpoints(context)
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        runs_tab.select(runs.look, None, [runs.run, runs.list], **private)
        blocks.load(drawing.begin, None, drawing.cut, **private)
        blocks.load(_restore(context), None, [tabs, runs.run, *drawing.linked], **private)
    return blocks


def _example(config: StudioConfig) -> str:
    world = owner(config.models[0])
    try:
        return str(world.pictures(4, "test", 4, ((9, 9),)).text(3)) if world else ""
    except LongalignError:
        return ""


def _restore(context: Context) -> Any:
    """What a deep link holds → the parts of the page."""

    def restore(request: gr.Request) -> list[Any]:
        told = {
            key: value
            for key, value in request.query_params.items()
            if len(value) <= context.limits.prompt_chars
        }
        tab = told.get("tab", "draw")
        found: list[Any] = [gr.Tabs(selected=tab if tab in ("draw", "check", "edit", "runs") else "draw")]
        found.append(gr.Dropdown(value=told["run"]) if tab == "runs" and "run" in told else gr.skip())
        return found + _values(told, context)

    return restore


def _values(told: Mapping[str, str], context: Context) -> list[Any]:
    """The parts of `LINKED`. What is not offered is left out."""
    stacks = context.stacks
    model = told.get("model", context.config.models[0])
    if model not in context.config.models:
        return [gr.skip()] * len(LINKED)
    offered = {
        "model": list(context.config.models),
        "lora": stacks.loras_of(model),
        "tokens": ["none", *stacks.tokens_of(model)],
        "compare": list(comparisons(model, stacks)),
    }
    found: list[Any] = []
    for name in LINKED:
        if name in _LISTS:
            values = [value for value in told.get(name, "").split(JOIN) if value in offered[name]]
            found.append(
                gr.Dropdown(offered[name], value=values) if name in told or "model" in told else gr.skip()
            )
        elif name not in told or (name in offered and told[name] not in offered[name]):
            found.append(gr.Dropdown(offered[name]) if name in offered and "model" in told else gr.skip())
        elif name in offered:
            found.append(gr.Dropdown(offered[name], value=told[name]))
        elif name in _NUMBERS:
            found.append(_number(told[name]))
        else:
            found.append(told[name])
    return found


def _number(text: str) -> Any:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return gr.skip()
