"""LoRA stages (LongAlign, §5.1: SFT → LCM → RFT): names, stacks of them on a pipeline, and several merged into one.

| file | holds |
|---|---|
| `factors.py` | the algebra of ΔW = up · down: sum, rank reduction |
| `stack.py` | by name, checked, onto a pipeline, one over the other |
| `merge.py`, `cli.py` | several files as one file, or into a model's weights |
"""
