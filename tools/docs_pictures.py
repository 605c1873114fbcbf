"""Makes the pictures of the guide in docs/ that show the sticker world: `python tools/docs_pictures.py`.

All are drawn from held-out scenes with fixed seeds, 25 steps, on one core in about two minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image, ImageDraw, ImageFont

import longalign
from longalign.generation import GenerateConfig
from longalign.stickers.captions import caption, text_of
from longalign.stickers.world import render, scene
from longalign.worlds import owner_of_texts

DOCS = Path(__file__).resolve().parent.parent / "docs"
INK, PALE, GREEN, RED, BLUE = "#1c2430", "#eef1f5", "#1b7f3b", "#c62828", "#2f4a9e"
SIDE = 288  # px of a scene: 96 times 3
MARKS = {"true": ("+", GREEN), "false": ("x", RED)}


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def of_scene(index: int, count: int = 9) -> tuple[Image.Image, str]:
    """A held-out scene of so many stickers: its rendering and its caption."""
    found = scene(index, objects=(count, count), split="test")
    return render(found), text_of(caption(found, index))


def drawn(prompt: str, **settings: Any) -> Image.Image:
    """The picture of seed 0."""
    with TemporaryDirectory() as folder:
        found = longalign.generate(prompt, GenerateConfig(**settings), out=Path(folder) / "run")
        return found.pictures[0].image.copy()


def marks(image: Image.Image, prompt: str) -> list[tuple[str, str]]:
    """Each sentence with the oracle's verdict."""
    sentences = [s.text for s in longalign.Segmenter()(prompt)]
    judge = owner_of_texts(sentences)
    assert judge is not None
    return list(zip(sentences, judge.judge(image, sentences), strict=True))


def panels(columns: Sequence[tuple[str, Image.Image, str]], width: int = SIDE) -> Image.Image:
    """Pictures side by side, each with a title above and a line below."""
    gap, top, below = 18, 34, 34
    sheet = Image.new("RGB", (len(columns) * (width + gap) + gap, width + top + below + 2 * gap), "white")
    pen = ImageDraw.Draw(sheet)
    for k, (title, image, line) in enumerate(columns):
        x = gap + k * (width + gap)
        pen.text((x, gap), title, INK, font(19))
        sheet.paste(image.convert("RGB").resize((width, width), Image.Resampling.NEAREST), (x, gap + top))
        colour = RED if "wrong" in line else GREEN
        pen.text((x, gap + top + width + 8), line, colour, font(17))
    return sheet


def verdict(image: Image.Image, prompt: str) -> str:
    found = [mark for _, mark in marks(image, prompt)]
    wrong = found.count("false")
    return f"{found.count('true')} of {len(found)} sentences true" + (f", {wrong} wrong" if wrong else "")


def listed(image: Image.Image, lines: Sequence[tuple[str, str, str]], width: int = 900) -> Image.Image:
    """A picture beside its sentences: mark, colour, text."""
    height = max(SIDE, 29 * len(lines)) + 36
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST), (18, 18))
    pen = ImageDraw.Draw(sheet)
    for k, (mark, colour, text) in enumerate(lines):
        y = 20 + 29 * k
        pen.text((SIDE + 44, y), mark, colour, font(18))
        pen.text((SIDE + 108, y), text, colour if colour == RED else INK, font(18))
    return sheet


def tour() -> Image.Image:
    prompt = of_scene(3)[1]
    plain, segments = drawn(prompt, strategy="plain"), drawn(prompt)
    tuned = drawn(prompt, loras=("stickers/sft",))
    return panels(
        [
            ("first 77 tokens", plain, verdict(plain, prompt)),
            ("all sentences", segments, verdict(segments, prompt)),
            ("all sentences, fine-tuned", tuned, verdict(tuned, prompt)),
        ]
    )


def models() -> Image.Image:
    prompt = of_scene(5)[1]
    found = {name: drawn(prompt, model=name) for name in ("stickers", "stickers-sdxl", "stickers-sd3")}
    titles = ("SD 1.5", "SDXL", "SD3")
    return panels([(t, im, verdict(im, prompt)) for t, im in zip(titles, found.values(), strict=True)])


def wrong_sentences() -> Image.Image:
    prompt = of_scene(7)[1]
    image = drawn(prompt, strategy="plain")
    model = longalign.PreferenceModel.from_pretrained("stickers")
    rows = model.score([image], [prompt]).segments[0]
    lines = [
        (f"{100 * (row.probability or 0):3.0f} %", RED if row.verdict == "false" else GREEN, row.text)
        for row in rows
    ]
    return listed(image, lines)


def clean_captions() -> Image.Image:
    """A right caption with one sentence of another scene in it: the lowest score finds it."""
    image, caption_of_it = of_scene(11, 5)
    sentences = [s.text for s in longalign.Segmenter()(caption_of_it)]
    other = [s.text for s in longalign.Segmenter()(of_scene(12, 5)[1])]
    sentences[2] = next(s for s in other if s not in sentences and " is in " in s)
    model = longalign.PreferenceModel.from_pretrained("stickers")
    rows = model.score([image], [" ".join(sentences)]).segments[0]
    worst = min(rows, key=lambda row: row.score)
    lines = [(f"{row.score:5.1f}", RED if row is worst else GREEN, row.text) for row in rows]
    return listed(image, lines)


def fine_tune() -> Image.Image:
    wanted, prompt = of_scene(17)
    before, after = drawn(prompt), drawn(prompt, loras=("stickers/sft",))
    return panels(
        [
            ("a picture of the set", wanted, "its caption has 10 sentences"),
            ("before training", before, verdict(before, prompt)),
            ("with the LoRA", after, verdict(after, prompt)),
        ]
    )


def segments() -> Image.Image:
    """Two sentences: encoded one by one, joined without end tokens and pads, filled with pad*."""
    sheet = Image.new("RGB", (960, 290), "white")
    pen = ImageDraw.Draw(sheet)

    def cells(x: int, y: int, words: Sequence[str], colours: Sequence[str]) -> None:
        for word, colour in zip(words, colours, strict=True):
            width = 22 + 8 * len(word)
            pen.rounded_rectangle((x, y, x + width, y + 34), 7, fill=colour)
            pen.text((x + width / 2, y + 17), word, "white", font(15), anchor="mm")
            x += width + 5

    grey = "#8a94a3"
    one, two = ["a", "fox", "sits", "."], ["snow", "falls", "."]
    pen.text((18, 12), "each sentence alone through CLIP", INK, font(17))
    cells(18, 40, ["<sot>", *one, "<eot>", "pad", "pad"], [BLUE, *[GREEN] * 4, grey, grey, grey])
    cells(520, 40, ["<sot>", *two, "<eot>", "pad", "pad"], [BLUE, *["#a65a00"] * 3, grey, grey, grey])
    pen.text(
        (18, 100), "joined: every <sot> stays, every <eot> and pad goes, pad* fills the rest", INK, font(17)
    )
    cells(18, 128, ["<sot>", *one, "<sot>", *two, "pad*", "pad*", "pad*"],
          [BLUE, *[GREEN] * 4, BLUE, *["#a65a00"] * 3, *[grey] * 3])  # fmt: skip
    pen.text((18, 188), "plain: one text, and what is beyond token 77 is not read", INK, font(17))
    cells(18, 216, ["<sot>", *one, *two[:2]], [BLUE, *[GREEN] * 4, *["#a65a00"] * 2])
    x = 18 + sum(27 + 8 * len(w) for w in ["<sot>", *one, *two[:2]])
    pen.line((x + 4, 208, x + 4, 258), fill=RED, width=3)
    pen.text((x + 16, 224), "cut", RED, font(17))
    return sheet


PICTURES = {
    "tour": tour,
    "models": models,
    "wrong-sentences": wrong_sentences,
    "clean-captions": clean_captions,
    "fine-tune": fine_tune,
    "segments": segments,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PICTURES)}; else all")
    for name in parser.parse_args().names or PICTURES:
        file = DOCS / f"{name}.png"
        PICTURES[name]().quantize(128).save(file, optimize=True)
        print(f"{file.name}: {file.stat().st_size // 1024} kB")
