"""Rasterise the sticker pictures from the npm package `@iconify-json/fluent-emoji-flat` (MIT).

    npm pack @iconify-json/fluent-emoji-flat && tar xzf iconify-json-*.tgz
    pip install resvg-py
    python tools/make_sprites.py package/icons.json

Writes `src/longalign/stickers/assets/sprites.png`: one row of 96 × 96 RGBA pictures, in the order of
`longalign.stickers.world.KINDS`.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import resvg_py
from PIL import Image

from longalign.stickers.world import KINDS, SPRITE_SOURCE_PX

ASSETS = Path(__file__).parent.parent / "src/longalign/stickers/assets"


def main(icons_json: str) -> None:
    collection = json.loads(Path(icons_json).read_text())
    size = collection["height"]
    sheet = Image.new("RGBA", (SPRITE_SOURCE_PX * len(KINDS), SPRITE_SOURCE_PX))
    for column, icon in enumerate(KINDS.values()):
        body = collection["icons"][icon]["body"]
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}">{body}</svg>'
        png = resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE_SOURCE_PX, height=SPRITE_SOURCE_PX)
        sheet.paste(Image.open(io.BytesIO(bytes(png))).convert("RGBA"), (column * SPRITE_SOURCE_PX, 0))
    sheet.save(ASSETS / "sprites.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
