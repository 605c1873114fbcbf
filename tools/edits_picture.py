"""The picture in docs/soft-tokens.md: the first edit of each kind of a study, at twice its size.

longalign stickers edits --model stickers-sd3 --soft-tokens stickers-sd3/softrepa --out runs/edits
python tools/edits_picture.py runs/edits before flowedit ddim
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE, GAP, CAPTION = 2, 14, 30


def main(run: str, *names: str) -> None:
    edits = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    first = {row["change"]: row["edit"] for row in reversed(edits)}  # in the order of the study
    rows = sorted((edit, change) for change, edit in first.items())
    pictures = [[Image.open(Path(run) / "images" / f"{edit:03d}-{n}.png") for n in names] for edit, _ in rows]
    side = SCALE * pictures[0][0].width
    block = side + GAP
    # two kinds of edits beside each other
    width, height = 2 * (len(names) * block + 2 * GAP), ((len(rows) + 1) // 2) * (side + CAPTION + GAP) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for place, ((_, change), shown) in enumerate(zip(rows, pictures, strict=True)):
        left, top = (place % 2) * (width // 2) + GAP, (place // 2) * (side + CAPTION + GAP) + GAP
        for column, (name, picture) in enumerate(zip(names, shown, strict=True)):
            x = left + column * block
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x, top))
            said = f"{change}: {name}" if column == 0 else name
            draw.text((x + side / 2, top + side + 6), said, font=font, fill="#333", anchor="ma")
    sheet.save(Path(__file__).parent.parent / "docs" / "edits.png", optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
