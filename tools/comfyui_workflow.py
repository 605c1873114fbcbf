"""The example workflow of integrations/comfyui, and the pictures in its README.

    python tools/comfyui_workflow.py

`workflow.png` is a drawing of the graph with the workflow in it, as ComfyUI writes it into its own pictures: it can be
dropped onto ComfyUI's page. `marked.png` is what the score node makes of two pictures of the embedded sticker model
(DDIM, 25 steps, guidance 2, seed 0), drawn from the first 77 tokens and from all sentences. ComfyUI was not run.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

import longalign
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import scene

FOLDER = Path(__file__).resolve().parent.parent / "integrations" / "comfyui"
PROMPT = (
    "A watercolour of a harbour at dawn. Three fishing boats lie at a wooden pier. The boat in the middle is red, and "
    "the other two are blue. A man in a yellow coat mends a net on the pier. A black dog sleeps at his feet. Gulls "
    "circle above the masts. On the left stands a white lighthouse with a green door. Behind it rise hills, on which "
    "the first light falls. The water is calm and mirrors the boats."
)
COLOURS = {
    "MODEL": "#b39ddb", "CLIP": "#c9a227", "VAE": "#d9534f", "CONDITIONING": "#e08a3c", "LATENT": "#c56cc5",
    "IMAGE": "#4a8fd9", "STRING": "#77b255", "LONGALIGN_PREFERENCE": "#3aa6a6", "FLOAT": "#8a8a8a",
}  # fmt: skip

# name: (type, title, (x, y, width, height), inputs, outputs, widget values, mode). Mode 4 is bypassed.
# An input is (name, type, widget?).
NODES: dict[str, tuple[Any, ...]] = {
    "checkpoint": (
        "CheckpointLoaderSimple", "Load Checkpoint", (20, 40, 300, 130), [],
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE")], ["sd_xl_base_1.0.safetensors"], 0,
    ),
    "tokens": (
        "LongalignSoftTokens", "LongAlign: soft tokens (bypassed)", (380, 40, 300, 120),
        [("model", "MODEL", False)], [("MODEL", "MODEL")], ["soft_tokens.safetensors", 1.0], 4,
    ),
    "prompt": (
        "PrimitiveStringMultiline", "Prompt", (20, 230, 300, 260), [], [("STRING", "STRING")], [PROMPT], 0,
    ),
    "encode": (
        "LongalignEncode", "LongAlign: encode by sentence", (380, 220, 300, 300),
        [("clip", "CLIP", False), ("prompt", "STRING", True)],
        [("positive", "CONDITIONING"), ("negative", "CONDITIONING"), ("report", "STRING")],
        ["", "blurry, low quality", "auto", 240, "sentence", "whole", "paper", "en"], 0,
    ),
    "report": (
        "PreviewAny", "How the prompt was cut", (740, 560, 300, 160), [("source", "*", False)], [], [], 0,
    ),
    "latent": (
        "EmptyLatentImage", "Empty Latent Image", (380, 570, 300, 120), [], [("LATENT", "LATENT")], [1024, 1024, 1], 0,
    ),
    "sampler": (
        "KSampler", "KSampler", (740, 220, 300, 280),
        [("model", "MODEL", False), ("positive", "CONDITIONING", False), ("negative", "CONDITIONING", False),
         ("latent_image", "LATENT", False)],
        [("LATENT", "LATENT")], [0, "fixed", 25, 7.0, "uni_pc", "normal", 1.0], 0,
    ),
    "decode": (
        "VAEDecode", "VAE Decode", (1100, 220, 220, 80), [("samples", "LATENT", False), ("vae", "VAE", False)],
        [("IMAGE", "IMAGE")], [], 0,
    ),
    "preference": (
        "LongalignLoadPreference", "LongAlign: load preference model", (1100, 40, 300, 120), [],
        [("preference", "LONGALIGN_PREFERENCE")], ["openai/clip-vit-large-patch14", "", "zero-shot"], 0,
    ),
    "score": (
        "LongalignScore", "LongAlign: score by sentence", (1380, 220, 260, 200),
        [("preference", "LONGALIGN_PREFERENCE", False), ("image", "IMAGE", False), ("prompt", "STRING", True)],
        [("marked", "IMAGE"), ("report", "STRING"), ("score", "FLOAT"), ("worst", "FLOAT")], [""], 0,
    ),
    "save": ("SaveImage", "Save Image", (1100, 480, 220, 200), [("images", "IMAGE", False)], [], ["longalign"], 0),
    "preview": ("PreviewImage", "Sentences, marked", (1380, 480, 260, 200), [("images", "IMAGE", False)], [], [], 0),
}  # fmt: skip
LINKS = [  # from node, output, to node, input
    ("checkpoint", "MODEL", "tokens", "model"), ("tokens", "MODEL", "sampler", "model"),
    ("checkpoint", "CLIP", "encode", "clip"), ("prompt", "STRING", "encode", "prompt"),
    ("encode", "positive", "sampler", "positive"), ("encode", "negative", "sampler", "negative"),
    ("encode", "report", "report", "source"), ("latent", "LATENT", "sampler", "latent_image"),
    ("sampler", "LATENT", "decode", "samples"), ("checkpoint", "VAE", "decode", "vae"),
    ("decode", "IMAGE", "save", "images"), ("decode", "IMAGE", "score", "image"),
    ("preference", "preference", "score", "preference"), ("prompt", "STRING", "score", "prompt"),
    ("score", "marked", "preview", "images"),
]  # fmt: skip


def workflow() -> dict[str, Any]:
    """The graph as ComfyUI's page saves it."""
    ids = {name: i for i, name in enumerate(NODES, start=1)}
    nodes = []
    for order, (name, (kind, title, (x, y, w, h), inputs, outputs, values, mode)) in enumerate(NODES.items()):
        nodes.append(
            {
                "id": ids[name],
                "type": kind,
                "title": title,
                "pos": [x, y],
                "size": [w, h],
                "flags": {},
                "order": order,
                "mode": mode,
                "inputs": [
                    {"name": i, "type": t, "link": None, **({"widget": {"name": i}} if widget else {})}
                    for i, t, widget in inputs
                ],
                "outputs": [{"name": o, "type": t, "links": []} for o, t in outputs],
                "properties": {"Node name for S&R": kind},
                "widgets_values": values,
            }
        )
    by_name = dict(zip(NODES, nodes, strict=True))
    links = []
    for number, (source, out, target, into) in enumerate(LINKS, start=1):
        slot, output = _named(by_name[source]["outputs"], out)
        place, given = _named(by_name[target]["inputs"], into)
        output["links"].append(number)
        given["link"] = number
        if given["type"] == "*":
            given["type"] = output["type"]
        links.append([number, ids[source], slot, ids[target], place, output["type"]])
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _named(slots: list[dict[str, Any]], name: str) -> tuple[int, dict[str, Any]]:
    return next((i, slot) for i, slot in enumerate(slots) if slot["name"] == name)


def drawing(graph: dict[str, Any]) -> Image.Image:
    """Boxes and cables."""
    sheet = Image.new("RGB", (1670, 750), "#20242a")
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(16), ImageFont.load_default(13)
    nodes = {node["id"]: node for node in graph["nodes"]}

    def place(node: dict[str, Any], slot: int, right: bool) -> tuple[float, float]:
        x, y = node["pos"]
        return (x + node["size"][0] if right else x), y + 46 + 20 * slot

    # Behind the boxes, so that no text is crossed.
    for _, source, slot, target, into, kind in graph["links"]:
        a, b = place(nodes[source], slot, True), place(nodes[target], into, False)
        bend = max(abs(b[0] - a[0]) / 2, 40)
        path = [_bezier(a, (a[0] + bend, a[1]), (b[0] - bend, b[1]), b, i / 40) for i in range(41)]
        draw.line(path, fill=COLOURS[kind], width=3, joint="curve")
    for node in nodes.values():
        (x, y), (w, h) = node["pos"], node["size"]
        ours = node["type"].startswith("Longalign")
        draw.rounded_rectangle([x, y, x + w, y + h], 8, fill="#343a42" if not ours else "#28424a")
        draw.rounded_rectangle([x, y, x + w, y + 28], 8, fill="#454d57" if not ours else "#1f6673")
        draw.text((x + 10, y + 5), node["title"], fill="#ffffff", font=font)
        top = y + 40 + 20 * max(len(node["inputs"]), len(node["outputs"]))
        linked = {i["name"] for i in node["inputs"]}
        values = [v for v in node["widgets_values"] if not (v == "" and "prompt" in linked)]
        for line in (line for value in values for line in _lines(str(value), small, w - 24)):
            if top + 16 <= y + h:
                draw.text((x + 12, top), line, fill="#b9c2cc", font=small)
            top += 18
    for node in nodes.values():
        for right, slots in ((False, node["inputs"]), (True, node["outputs"])):
            for i, slot in enumerate(slots):
                x, y = place(node, i, right)
                draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=COLOURS[slot["type"]])
                at, anchor = ((x - 10, y), "rm") if right else ((x + 10, y), "lm")
                draw.text(at, slot["name"], fill="#e6e6e6", font=small, anchor=anchor)
    return sheet


def _bezier(a: Any, b: Any, c: Any, d: Any, t: float) -> tuple[float, float]:
    u = 1 - t
    return tuple(
        u**3 * p + 3 * u * u * t * q + 3 * u * t * t * r + t**3 * s
        for p, q, r, s in zip(a, b, c, d, strict=True)
    )


def _lines(text: str, font: Any, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines, word] if font.getlength(longer) > width else [*lines[:-1], longer]
    return lines


def marked_example() -> Image.Image:
    """The score node on two pictures of one crowded held-out scene."""
    spec = importlib.util.spec_from_file_location("longalign_nodes", FOLDER / "__init__.py")
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["longalign_nodes"] = pack
    spec.loader.exec_module(pack)
    prompt = text_of(caption(scene(3, objects=(7, 9), split="test"), 3))
    pipe = longalign.load_pipeline("stickers")
    pictures = []
    for strategy in ("plain", "auto"):
        cond = longalign.encode(pipe, prompt, strategy=strategy)
        noise = torch.Generator().manual_seed(0)
        drawn = pipe(
            **cond.pipeline_kwargs(), num_inference_steps=25, guidance_scale=2.0, generator=noise
        ).images[0]
        pictures.append(pack.nodes._tensor(drawn.convert("RGB")))
    [preference] = pack.NODE_CLASS_MAPPINGS["LongalignLoadPreference"]().load("stickers")
    marked, _, _, _ = pack.NODE_CLASS_MAPPINGS["LongalignScore"]().score(
        preference, torch.stack(pictures), prompt
    )
    pages = [Image.fromarray((page.numpy() * 255).round().astype("uint8")) for page in marked]
    sheet = Image.new("RGB", (2 * pages[0].width + 20, pages[0].height), "white")
    for i, page in enumerate(pages):
        sheet.paste(page, (i * (page.width + 20), 0))
    return sheet


def main() -> None:
    """Writes the three files."""
    graph = workflow()
    text = json.dumps(graph, indent=1, ensure_ascii=False)
    (FOLDER / "workflow.json").write_text(text + "\n", encoding="utf-8")
    info = PngInfo()
    info.add_text("workflow", json.dumps(graph))
    drawing(graph).quantize(64).save(FOLDER / "workflow.png", pnginfo=info, optimize=True)
    marked_example().quantize(200).save(FOLDER / "marked.png", optimize=True)


if __name__ == "__main__":
    main()
