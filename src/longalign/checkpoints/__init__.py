"""Files that others publish, and ours: read safely, written whole.

`safe` reads and writes tensors, `lora_file` is a LoRA as diffusers stores it, `base` says which model a LoRA
belongs to, `longsd` and `soft_tokens` are the papers' published formats, `convert` and `cli` the commands
``import`` and ``export``.
"""
