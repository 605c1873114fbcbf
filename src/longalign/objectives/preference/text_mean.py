"""The common direction V of text embeddings while the text tower is being trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from longalign.errors import LongalignError


class TextMean:
    """A running mean of text embeddings over all processes, without gradient.

    Eq. 10 needs V, and the paper does not say how it is estimated in training (FACTS §1.3). Here every batch counts
    with its number of texts, and earlier texts count less by e^(−n/h) after n more::

        S ← e^(−n/h) S + Σ c,   N ← e^(−n/h) N + n,   E[C_P] = S / N

    The batch at hand is included, so the first estimate is the batch's own mean. Counted in texts rather than in
    steps it depends little on how many texts come at once.

    Args:
        horizon_texts: h. 0 forgets all but the batch at hand, as the released reward code does.
    """

    def __init__(self, width: int, device: Any, horizon_texts: float) -> None:
        self.horizon_texts = horizon_texts
        self.total = torch.zeros(width, device=device)  # S, (D,)
        self.weight = torch.zeros((), device=device)  # N

    def update(self, embeddings: Tensor, accelerator: Any) -> None:
        """Count in the (N, D) embeddings of this process and of all others, which may differ in number."""
        c = embeddings.detach()
        added = torch.cat([c.sum(0), c.new_full((1,), len(c))])  # (D + 1,): one call, not two
        added = accelerator.reduce(added, reduction="sum")
        total, number = added[:-1], added[-1]
        kept = (-number / self.horizon_texts).exp() if self.horizon_texts else torch.zeros_like(number)
        self.total = kept * self.total.to(total) + total
        self.weight = kept * self.weight.to(total) + number

    @property
    def mean(self) -> Tensor:
        """E[C_P], (D,); its length is the mean η."""
        return self.total / self.weight

    # V = E[C_P] / |E[C_P]|
    @property
    def v(self) -> Tensor:
        """(D,), unit length."""
        return torch.nn.functional.normalize(self.total, dim=0)

    def state_dict(self) -> dict[str, Tensor]:
        return {"text_sum": self.total, "text_weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave.

        Raises:
            LongalignError: there is none, or one of another width.
        """
        if "text_sum" not in state:
            raise LongalignError(
                "the checkpoint holds no running mean of text embeddings: another loss made it"
            )
        total = state["text_sum"]
        if total.shape != self.total.shape:
            raise LongalignError(
                f"the saved V has width {len(total)}, but the model's embeddings have width {len(self.total)}: "
                "the checkpoint is of another model"
            )
        device = self.total.device
        self.total, self.weight = total.clone().to(device), state["text_weight"].clone().to(device)
