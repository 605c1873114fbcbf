"""Pictures that know how they were made: settings written into PNG files, and read from those of others.

Three layouts are read: ours (a text chunk ``longalign`` with JSON), A1111's (``parameters``, which Forge, SD.Next and
many viewers share) and ComfyUI's (``prompt``, its graph of nodes). Ours is written together with A1111's, so that other
tools show the prompt, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from longalign.errors import LongalignError

KEY = "longalign"
_MOST_CHARACTERS = 1 << 20  # of one text chunk
_SETTINGS_LINE = re.compile(r"^\s*Steps: \d+", re.M)
_SETTING = re.compile(r'\s*([\w /+-]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_A1111_NAMES = {
    "steps": "Steps",
    "scheduler": "Sampler",
    "guidance": "CFG scale",
    "seed": "Seed",
    "size": "Size",
    "model": "Model",
}
_TEXT_INPUTS = ("text", "text_g", "text_l", "t5xxl", "clip_l", "clip_g", "prompt", "string", "value")


@dataclass(frozen=True)
class PictureInfo:
    """How a picture was made.

    Attributes:
        prompt: what was asked for.
        negative_prompt: what was asked to be left out; None where nothing is said of it.
        settings: the rest, as the tool calls it (`steps`, `seed`, `model`, …).
        source: ``longalign``, ``a1111`` or ``comfyui``.
    """

    prompt: str
    negative_prompt: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = KEY


def png_text(info: PictureInfo) -> PngImagePlugin.PngInfo:
    """The text chunks of a PNG file, for ``image.save(file, pnginfo=…)``: ours and A1111's."""
    chunks = PngImagePlugin.PngInfo()
    ours = {"prompt": info.prompt, "negative_prompt": info.negative_prompt, **info.settings}
    chunks.add_itxt(KEY, json.dumps(ours, ensure_ascii=False, default=str))
    chunks.add_itxt("parameters", _a1111_text(info))
    return chunks


def read_info(path: str | Path) -> PictureInfo | None:
    """What a picture file says of how it was made; None where it says nothing that is known here.

    Raises:
        LongalignError: no such file, or no picture.
    """
    try:
        with Image.open(path) as image:
            chunks = {
                k: v for k, v in image.info.items() if isinstance(v, str) and len(v) <= _MOST_CHARACTERS
            }
            if "parameters" not in chunks and (comment := _exif_comment(image)):
                chunks["parameters"] = comment  # A1111 writes it there in JPEG and WebP files
    except FileNotFoundError:
        raise LongalignError(f"{path}: no such image file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise LongalignError(f"{path}: cannot be read as a picture: {error}") from error
    if KEY in chunks and (found := _of_ours(chunks[KEY])) is not None:
        return found
    if "parameters" in chunks:
        return _of_a1111(chunks["parameters"])
    if "prompt" in chunks:
        return _of_comfyui(chunks["prompt"])
    return None


def prompt_of(path: str | Path) -> str:
    """The prompt that a picture file was made from.

    Raises:
        LongalignError: it says nothing of one, or is no picture.
    """
    info = read_info(path)
    if info is None or not info.prompt.strip():
        raise LongalignError(
            f"{path}: has no prompt in it (of longalign, A1111 or ComfyUI); give the prompt itself"
        )
    return info.prompt


def _of_ours(text: str) -> PictureInfo | None:
    try:
        row = json.loads(text)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        return None
    negative = row.get("negative_prompt")
    settings = {k: v for k, v in row.items() if k not in ("prompt", "negative_prompt")}
    return PictureInfo(row["prompt"], negative if isinstance(negative, str) else None, settings, KEY)


# prompt, then "Negative prompt: …" on a line of its own, then "Steps: 25, Sampler: …, Seed: 1, …" as the last line
def _of_a1111(text: str) -> PictureInfo | None:
    settings: dict[str, Any] = {}
    starts = list(_SETTINGS_LINE.finditer(text))
    if starts:
        line = text[starts[-1].start() :].strip()
        settings = {name.strip(): _plain(value) for name, value in _SETTING.findall(line)}
        text = text[: starts[-1].start()]
    prompt, found, negative = text.strip().partition("\nNegative prompt:")
    if not found and prompt.startswith("Negative prompt:"):
        prompt, found, negative = "", "yes", prompt.removeprefix("Negative prompt:")
    return PictureInfo(prompt.strip(), negative.strip() if found else None, settings, "a1111")


def _a1111_text(info: PictureInfo) -> str:
    lines = [info.prompt]
    if info.negative_prompt:
        lines.append(f"Negative prompt: {info.negative_prompt}")
    names = {
        "steps": "Steps",
        "scheduler": "Sampler",
        "guidance": "CFG scale",
        "seed": "Seed",
        "size": "Size",
        "model": "Model",
    }
    told = {names[k]: v for k, v in info.settings.items() if k in names and v is not None}
    if "Steps" in told:  # readers look for a line that begins so
        told = {"Steps": told.pop("Steps"), **told}
        lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in told.items()))
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def _plain(value: str) -> str:
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value.strip()


def _of_comfyui(text: str) -> PictureInfo | None:
    """From the graph: what leads to the `positive` and `negative` inputs of a sampler, else the longest text."""
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(graph, dict):
        return None
    nodes = {str(k): v for k, v in graph.items() if isinstance(v, dict) and isinstance(v.get("inputs"), dict)}
    for node in nodes.values():
        if "positive" in node["inputs"]:
            positive = _text_behind(nodes, node["inputs"]["positive"])
            if positive:
                negative = _text_behind(nodes, node["inputs"].get("negative"))
                kept = {k: v for k, v in node["inputs"].items() if isinstance(v, (int, float, str))}
                return PictureInfo(positive, negative or None, kept, "comfyui")
    texts = [
        t for node in nodes.values() for k in _TEXT_INPUTS if isinstance(t := node["inputs"].get(k), str)
    ]
    return PictureInfo(max(texts, key=len), None, {}, "comfyui") if texts else None


def _text_behind(nodes: Mapping[str, Any], link: Any) -> str:
    """The text that a link ``[node, output]`` leads to, breadth first; "" where there is none."""
    queue, seen = [link], set()
    while queue:
        link = queue.pop(0)
        if not (isinstance(link, list) and link and str(link[0]) in nodes) or str(link[0]) in seen:
            continue
        seen.add(str(link[0]))
        inputs = nodes[str(link[0])]["inputs"]
        for key in _TEXT_INPUTS:
            if isinstance(inputs.get(key), str) and inputs[key].strip():
                return str(inputs[key])
        queue += [value for value in inputs.values() if isinstance(value, list)]
    return ""


def _exif_comment(image: Image.Image) -> str | None:
    """The user comment of JPEG and WebP files (tag 0x9286 of the Exif block), in the encodings that tools write."""
    try:
        comment = image.getexif().get_ifd(0x8769).get(0x9286)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return None
    if isinstance(comment, str):
        return comment
    if not isinstance(comment, bytes) or len(comment) > _MOST_CHARACTERS:
        return None
    head, body = comment[:8], comment[8:]
    if head.startswith(b"UNICODE"):
        for encoding in ("utf-16-be", "utf-16-le"):
            text = body.decode(encoding, errors="replace")
            if sum(c.isascii() for c in text) * 2 > len(text):
                return text
    return body.decode("utf-8", errors="replace") if head.startswith((b"ASCII", b"\0")) else None
