"""Edits of pictures by two texts: one describes the picture, the other the result (`longalign edit`).

| file | holds |
|---|---|
| `schedule.py` | times and step weights of an edit, as plain numbers |
| `methods.py` | FlowEdit, its counterpart in x_0 space, and DDIM inversion, on latents |
| `options.py` | the settings of an edit, and the choice of what suits the model |
| `edit.py` | pictures and texts in, pictures out: `edit`, `edit_many` |
| `pictures.py` | the size that a model wants, and the difference of two pictures |
| `run.py` | an edit with its run folder and report |
"""
