"""PickScore: the score that Pick-a-Pic's preference model was trained with (Kirstain et al. 2023)."""

from __future__ import annotations

from torch import Tensor

from longalign.metrics.first_tokens import FirstTokens
from longalign.metrics.metric import MetricColumn


class PickScore(FirstTokens):
    """PickScore of each picture and the first tokens of its prompt."""

    name = "pickscore"
    columns = (MetricColumn("pickscore", "PickScore", ".2f", "higher"),)
    published = "yuvalkirstain/PickScore_v1"
    published_tokenizer = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    how_to_get = (
        "download yuvalkirstain/PickScore_v1 and the tokenizer of laion/CLIP-ViT-H-14-laion2B-s32B-b79K from the hub, "
        "and give --set pickscore.model=FOLDER --set pickscore.tokenizer=FOLDER"
    )

    # exp(logit_scale) · cos(C_X, C_P)
    def score(self, cosines: Tensor) -> Tensor:
        return self.memory.model.clip.logit_scale.detach().float().exp().cpu() * cosines
