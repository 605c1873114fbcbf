"""CLIPScore: cosine between CLIP's embeddings of a picture and of its prompt (Hessel et al. 2021)."""

from __future__ import annotations

from torch import Tensor

from longalign.metrics.first_tokens import FirstTokens
from longalign.metrics.metric import MetricColumn


class ClipScore(FirstTokens):
    """CLIPScore with the factor that most papers and torchmetrics use: 100, not the paper's 2.5."""

    name = "clipscore"
    columns = (MetricColumn("clipscore", "CLIPScore", ".2f", "higher"),)
    published = "openai/clip-vit-base-patch32"
    how_to_get = "any CLIPModel serves: --set clipscore.model=FOLDER"

    # 100 · max(cos(C_X, C_P), 0)
    def score(self, cosines: Tensor) -> Tensor:
        return 100 * cosines.clamp(min=0)
