"""Makes docs/hero.png: one crowded scene by the plain encoding, by sentence, and repaired, with the false sentences.

    python tools/hero_picture.py --out docs/hero.png

The scene is the studio's example (split `test`, seed 4). Needs playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
from pathlib import Path

from markupsafe import Markup, escape
from PIL import Image
from playwright.sync_api import sync_playwright

import longalign
from longalign.generation import GenerateConfig, Painter
from longalign.stickers.as_world import StickerWorld
from longalign.studio.theme import css

_STYLE = """
body { margin: 0; padding: 26px 30px; width: 1140px; background: var(--la-paper); }
body { font-family: "DejaVu Sans", system-ui, sans-serif; }
.prompt { color: var(--la-soft); font-size: 15px; margin: 0 0 20px; }
.row { display: grid; grid-template-columns: repeat(3, 1fr); gap: 30px; }
img { width: 100%; image-rendering: pixelated; border-radius: 4px; display: block; }
h2 { font-size: 17px; margin: 12px 0 2px; } .tally { color: var(--la-soft); font-size: 14px; margin: 0 0 6px; }
ul { list-style: none; margin: 0; padding: 0; }
li { color: var(--la-false); font-size: 14px; font-weight: 600; padding: 2px 0; }
li.good { color: var(--la-true); }
"""


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.resize((480, 480), Image.Resampling.NEAREST).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/hero.png"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    world = StickerWorld()
    prompt = world.pictures(1, "test", 4, ((9, 9),)).text(0)
    pictures: dict[str, Image.Image] = {}
    for name, strategy in (
        ("Plain: the first 77 tokens", "plain"),
        ("longalign: sentence by sentence", "clip-cat"),
    ):
        painter = Painter(GenerateConfig(strategy=strategy))
        [pictures[name]] = painter.paint(painter.encode([prompt]), [options.seed])
    repaired = longalign.repair(
        painter.pipe, prompt, scorer="stickers", rounds=4, seed=options.seed, strategy="clip-cat"
    )
    pictures["longalign: and repaired"] = repaired.image
    sentences = [segment.text for segment in longalign.Segmenter()(prompt)]
    cards = []
    for name, image in pictures.items():
        marks = world.judge(image, sentences)
        false = [text for text, mark in zip(sentences, marks, strict=True) if mark != "true"]
        items = Markup("").join(Markup("<li>✕ {}</li>").format(text) for text in false)
        items = items or Markup('<li class="good">✓ every sentence is true</li>')
        cards.append(
            Markup(
                '<div><img src="{}"><h2>{}</h2><p class="tally">{} of {} sentences true</p><ul>{}</ul></div>'
            ).format(_uri(image), name, len(sentences) - len(false), len(sentences), items)
        )
    row = Markup("").join(cards)
    html = f"<style>{css()}{_STYLE}</style><p class=prompt>“{escape(prompt)}”</p><div class=row>{row}</div>"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 400})
        page.set_content(html)
        shot = page.screenshot(full_page=True)
        browser.close()
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(128).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
