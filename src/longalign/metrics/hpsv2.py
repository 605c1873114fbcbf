"""HPSv2.1: a ViT-H-14 that was trained on people's preferences (Wu et al. 2023)."""

from __future__ import annotations

from torch import Tensor

from longalign.metrics.first_tokens import FirstTokens
from longalign.metrics.metric import MetricColumn


class HpsV2(FirstTokens):
    """HPSv2.1 of each picture and the first tokens of its prompt, in per cent as published tables have it.

    The checkpoint is read without running code (`longalign.preference.open_clip`). A picture is scaled to 224 px on
    its longer side and padded with black, as in the training of the published model.
    """

    name = "hpsv2"
    columns = (MetricColumn("hpsv2", "HPSv2.1", ".2f", "higher"),)
    published_tokenizer = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    how_to_get = (
        "download HPS_v2.1_compressed.pt of xswu/HPSv2 and the tokenizer of laion/CLIP-ViT-H-14-laion2B-s32B-b79K from "
        "the hub, and give --set hpsv2.model=FILE --set hpsv2.tokenizer=FOLDER"
    )

    # 100 · cos(C_X, C_P)
    def score(self, cosines: Tensor) -> Tensor:
        return 100 * cosines
