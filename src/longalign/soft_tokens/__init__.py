"""SoftREPA's soft text tokens: trained vectors that are inserted into the text states of a frozen denoiser.

| file | holds |
|---|---|
| `config.py` | `SoftTokenConfig`: backbone and shapes |
| `tokens.py` | `SoftTokens`: parameters, time buckets, saving and loading |
| `attachment.py` | hooks by which a UNet or transformer sees them |
| `loading.py` | tokens by name, on a whole pipeline |

::

    tokens = SoftTokens.from_pretrained("soft_tokens.safetensors")
    with tokens.attach(pipe.unet, scale=0.7):
        pipe("A fox.")
"""

from longalign.soft_tokens.attachment import Attachment, attached, branch
from longalign.soft_tokens.config import SoftTokenConfig
from longalign.soft_tokens.tokens import FILE_NAME, SoftTokens

__all__ = ["FILE_NAME", "Attachment", "SoftTokenConfig", "SoftTokens", "attached", "branch"]
