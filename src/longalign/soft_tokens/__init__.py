"""SoftREPA's soft text tokens: trained vectors that stand among the text states of a frozen denoiser.

`config` says what they are for and of which shapes, `tokens` holds, saves and loads them, `attachment` hangs them into
a UNet or a transformer by hooks.

    tokens = SoftTokens.from_pretrained("soft_tokens.safetensors")
    with tokens.attach(pipe.unet, scale=0.7):
        pipe("A fox.")
"""

from longalign.soft_tokens.attachment import Attachment, attached, branch
from longalign.soft_tokens.config import SoftTokenConfig
from longalign.soft_tokens.tokens import FILE_NAME, SoftTokens

__all__ = ["FILE_NAME", "Attachment", "SoftTokenConfig", "SoftTokens", "attached", "branch"]
