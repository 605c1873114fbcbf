"""Studies of the sticker world, where the truth about every picture is known.

| file | holds |
|---|---|
| `demo.py` | `longalign demo` |
| `compare.py` | columns: ways of drawing the same prompts from the same noise |
| `accuracy.py` | shares of true sentences with intervals |
| `scenes.py`, `scenes_folder.py`, `scenes_objects.py`, `scenes_page.py` | `longalign stickers study` |
| `edits.py`, `edit_scenes.py`, `edits_page.py` | `longalign stickers edits` |
| `check.py` | `longalign stickers check`: the oracle and the base models |
| `renders.py`, `identification.py`, `localisation.py` | what preference models measure: `identify`, `localise` |
| `claims.py` | the claims of LongAlign's Table 1, for `longalign retrieve` |
"""
