"""`preference.warmth`: how much more red than blue a picture has, as a preference model.

longalign score picture.png --prompt "A sunset." --model warmth
longalign train stickers-reward 'reward.rewards=[{model: warmth, omega: 1}]'
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from longalign import PreferenceModel


class Warmth(PreferenceModel):
    """C_X = (s, √(1 − s²)) with s = mean red − mean blue, and C_P = (1, 0) for every text."""

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return 2

    def parts_prepared(self, x: Tensor) -> tuple[Tensor, None]:
        """Prepared pixels (B, 3, S, S) → (B, 2). Their colours are scaled; s only needs their order."""
        red, _, blue = x.float().mean(dim=(2, 3)).unbind(dim=1)
        s = torch.tanh(red - blue)
        return torch.stack([s, (1 - s**2).clamp_min(1e-6).sqrt()], dim=1), None

    def _encode(self, texts: Sequence[tuple[int, ...]]) -> tuple[Tensor, None]:
        return torch.tensor([[1.0, 0.0]], device=self.device).expand(len(texts), -1), None


def warmth(device: str, dtype: str) -> Warmth:
    """The model, which has a CLIP for its tokenizer and its device."""
    clip = PreferenceModel.from_pretrained("stickers/clip", device=device, dtype=dtype)
    return Warmth(clip.clip, clip.tokenizer, clip.preprocess)
