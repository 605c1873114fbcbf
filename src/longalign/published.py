"""Published files, and folders made of them, that recipes and examples name: what they are and how to get them.

None of them is in this package. `docs/published.md` has the whole table. Messages about a missing file add its line.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePath

_SD15 = "the folder of stable-diffusion-v1-5/stable-diffusion-v1-5 (or name that model: model=…)"
# pattern of a path's last parts → what the file or folder is, and how to get it
_PLACES: dict[str, str] = {
    r"sd15-t5": "put it together: a copy of stable-diffusion-v1-5's folder, with the subfolders t5 and t5_tokenizer "
    "(T5-large) and adapter (LaVi-Bridge's)",
    r"models/sd15": f"it is {_SD15}",
    r"models/denscore": "it is the published Denscore, a CLIPModel folder; fit its V once by `longalign decompose "
    "PROMPTS --model FOLDER --beside`",
    r"HPS_v2(\.1)?_compressed\.pt": "it is HPSv2's published open_clip checkpoint",
    r"softrepa-(sd15|sdxl|sd3)": "it is a folder with SoftREPA's released dc_tokens.pth and, where there is one, "
    "dc_t_tokens.pth",
    r"s28750_lora_vis\.pt|sd15-reward-3750\.pt": "it is a LoRA of LongAlign's release (longSD)",
    r"s28750_adapter": "it is the folder of the text adapter of LongAlign's release (longSD)",
    r"data/prompts(-held-out)?\.jsonl": "these are your prompts, one a line or JSONL: name yours, data.prompts=FILE "
    "and data.held_out=FILE",
    r"data/longsd[\w-]*": "make it of your captioned pictures by `longalign cache DATA --model MODEL --strategy … "
    "--out FOLDER`, or name the pictures: data.pictures=DATA",
    r"data/pickapic-long/\w+": "it is a folder of Pick-a-Pic's files with a long caption of each picture: name "
    "yours, data.pairs=FOLDER and data.held_out=FOLDER",
}
_RUN = re.compile(r"runs/([\w-]+)/model")


def how_to_get(path: str | os.PathLike[str]) -> str:
    """What a message about a missing file adds: how to get it. Empty for a file that this package never named.

    Args:
        path: of the file or folder, or its name.
    """
    parts = PurePath(os.fspath(path)).parts
    for count in (1, 2, 3):
        tail = "/".join(parts[-count:])
        for pattern, text in _PLACES.items():
            if re.fullmatch(pattern, tail):
                return f": {text} (docs/published.md)"
    if run := _RUN.fullmatch("/".join(parts[-3:])):
        return f": it is the result of an earlier stage; see `longalign recipes`, and train it with --out runs/{run[1]}"
    return ""
