"""Editing a picture by two texts, the one that describes it and the one that should: `longalign edit`.

| file | holds |
|---|---|
| `schedule.py` | times and step weights of an edit, as plain numbers |
| `methods.py` | FlowEdit, its counterpart in x_0 space, and DDIM inversion, on latents |
| `options.py` | the settings of an edit, and what is taken where nothing is said |
| `edit.py` | pictures and texts in, pictures out: `edit`, `edit_many` |
| `pictures.py` | the size that a model wants, and what differs between two pictures |
| `run.py`, `cli.py` | the command and its run folder |
"""
