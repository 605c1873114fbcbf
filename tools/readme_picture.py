"""The picture in README.md: one scene of a demo run, at three times its size.

longalign demo --out runs/demo
python tools/readme_picture.py runs/demo 3
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE, GAP, CAPTION = 3, 18, 30
COLUMNS = {
    "reference": "reference",
    "plain": "first 77 tokens",
    "clip-cat": "segment by segment",
    "sft": "and fine-tuned",
}


def main(run: str, scene: str) -> None:
    folder = Path(run) / "images"
    pictures = {n: Image.open(folder / f"{int(scene):02d}-{n}.png") for n in COLUMNS}
    side = SCALE * next(iter(pictures.values())).width
    sheet = Image.new(
        "RGB", (len(COLUMNS) * side + (len(COLUMNS) + 1) * GAP, side + 2 * GAP + CAPTION), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for column, (name, picture) in enumerate(pictures.items()):
        left = GAP + column * (side + GAP)
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, GAP))
        draw.text((left + side / 2, side + 1.6 * GAP), COLUMNS[name], font=font, fill="#333", anchor="ma")
    out = Path(__file__).parent.parent / "docs" / "demo.png"
    out.parent.mkdir(exist_ok=True)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
