"""LoRA by peft: attach, stack, merge, save and load.

A layer with weight W becomes W x + (alpha / r) · B A x: A, "down", keeps the layer's kernel, stride and padding and
has r outputs; B, "up", is linear (1×1 for a convolution) and starts at zero. The layers are the published models'
(LongAlign's code; App. A gives rank 32): every Linear and Conv2d in ResnetBlock2D, Attention and GEGLU of a UNet,
and the Linears of attention and feed-forward in SD3's transformer, on which the papers are silent.

The released models had their dropout after `up`, peft has it before `down`; without training both do nothing.

| file | holds |
|---|---|
| `layers.py` | LoRAs on a model: put on, stacked, merged |
| `folders.py` | LoRAs in folders, which know the base that they belong to |
| `text.py` | LoRAs of text encoders, beside the backbone's |
"""

from longalign.lora.folders import (
    ADAPTER_FOLDER,
    load,
    load_text_adapter,
    note_strategy,
    put,
    refuse_other_base,
    save,
)
from longalign.lora.layers import (
    TARGETS,
    attach,
    attached,
    combined,
    component_of,
    merge,
    target_layers,
)
from longalign.lora.text import TEXT_ENCODERS, clips_of, load_text, save_text, text_loras

__all__ = [
    "ADAPTER_FOLDER",
    "TARGETS",
    "TEXT_ENCODERS",
    "attach",
    "attached",
    "clips_of",
    "combined",
    "component_of",
    "load",
    "load_text",
    "load_text_adapter",
    "merge",
    "note_strategy",
    "put",
    "refuse_other_base",
    "save",
    "save_text",
    "target_layers",
    "text_loras",
]
