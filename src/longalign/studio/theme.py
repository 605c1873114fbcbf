"""The looks of the page: those of the reports. No font, script or style comes from elsewhere."""

from __future__ import annotations

import inspect
from importlib.resources import as_file, files
from typing import Any

_LIGHT = {
    "paper": "#fdfdfb", "ink": "#1d1e20", "soft": "#5a5d62", "line": "#e4e3de", "tint": "#f4f1e9", "edge": "#b9a778",
    "accent": "#2b5c8c", "true": "#0f766e", "false": "#b9421b", "unclear": "#63666c", "field": "#ffffff",
    "border": "#8a8d92",
}  # fmt: skip
_DARK = {
    "paper": "#17181a", "ink": "#e5e4e0", "soft": "#a9a8a3", "line": "#313337", "tint": "#272419", "edge": "#8d7c4d",
    "accent": "#8fb9e3", "true": "#5cc3b6", "false": "#f08a5f", "unclear": "#a5a8ae", "field": "#1f2023",
    "border": "#7c7f85",
}  # fmt: skip
_SANS = [
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Noto Sans",
    "Liberation Sans",
    "Arial",
    "sans-serif",
]


def theme() -> Any:
    """Gradio's theme with the colours of the reports."""
    import gradio as gr

    made = gr.themes.Base(
        font=_SANS,
        font_mono=["ui-monospace", "Consolas", "Liberation Mono", "monospace"],
        radius_size=gr.themes.sizes.radius_sm,
    )
    values: dict[str, str] = {}
    for name, colour in {
        "body_background_fill": "paper",
        "body_text_color": "ink",
        "body_text_color_subdued": "soft",
        "background_fill_primary": "paper",
        "background_fill_secondary": "paper",
        "block_background_fill": "paper",
        "block_border_color": "line",
        "block_label_background_fill": "paper",
        "block_label_text_color": "soft",
        "block_title_text_color": "ink",
        "block_info_text_color": "soft",
        "border_color_primary": "line",
        "border_color_accent": "accent",
        "color_accent": "accent",
        "color_accent_soft": "tint",
        "input_background_fill": "field",
        "input_border_color": "border",
        "input_border_color_focus": "accent",
        "input_placeholder_color": "soft",
        "link_text_color": "accent",
        "link_text_color_hover": "accent",
        "link_text_color_visited": "accent",
        "link_text_color_active": "accent",
        "button_primary_background_fill": "accent",
        "button_primary_background_fill_hover": "accent",
        "button_primary_text_color": "paper",
        "button_primary_text_color_hover": "paper",
        "button_primary_border_color": "accent",
        "button_secondary_background_fill": "paper",
        "button_secondary_background_fill_hover": "tint",
        "button_secondary_text_color": "ink",
        "button_secondary_text_color_hover": "ink",
        "button_secondary_border_color": "border",
        "checkbox_background_color": "field",
        "checkbox_background_color_selected": "accent",
        "checkbox_border_color": "border",
        "checkbox_border_color_focus": "accent",
        "checkbox_border_color_selected": "accent",
        "checkbox_label_background_fill": "paper",
        "checkbox_label_background_fill_hover": "tint",
        "checkbox_label_background_fill_selected": "tint",
        "checkbox_label_text_color": "ink",
        "checkbox_label_text_color_selected": "ink",
        "checkbox_label_border_color": "line",
        "slider_color": "accent",
        "panel_background_fill": "paper",
        "panel_border_color": "line",
        "accordion_text_color": "ink",
        "table_text_color": "ink",
        "error_text_color": "false",
        "error_background_fill": "paper",
        "error_border_color": "false",
        "code_background_fill": "tint",
    }.items():
        values[name], values[f"{name}_dark"] = _LIGHT[colour], _DARK[colour]
    values |= dict.fromkeys(["block_shadow", "block_label_shadow", "shadow_drop"], "none")
    values |= {"input_border_width": "1px", "button_border_width": "1px"}
    known = inspect.signature(made.set).parameters  # some have no value of their own for dark pages
    return made.set(**{name: value for name, value in values.items() if name in known})


def css() -> str:
    """The style of our own parts, with the colours of both themes, and the curves of the reports."""

    def colours(of: dict[str, str]) -> str:
        return " ".join(f"--la-{name}: {colour}; --{name}: {colour};" for name, colour in of.items())

    own = (files("longalign.studio") / "static" / "studio.css").read_text(encoding="utf-8")
    reports = (files("longalign.report") / "templates" / "style.css").read_text(encoding="utf-8")
    lines = reports.partition("/* lines */")[2].partition("/* estimates, as numbers */")[0]
    return f":root {{ {colours(_LIGHT)} }}\n.dark {{ {colours(_DARK)} }}\n.la {{ {lines} }}\n{own}"


def head() -> str:
    """The page's own script."""
    script = (files("longalign.studio") / "static" / "studio.js").read_text(encoding="utf-8")
    return f'<script>{script}</script><meta name="color-scheme" content="light dark">'


def icon() -> str:
    """The file of the icon."""
    with as_file(files("longalign.studio") / "static" / "icon.png") as path:
        return str(path)
