"""Preference models: how well does an image fit a long text, sentence by sentence? (LongAlign, §2.2, §3.2)

| file | holds |
|---|---|
| `model.py` | `PreferenceModel`: unit embeddings of images and texts, and their scores |
| `scores.py` | `Scores`, and the arithmetic from embeddings to scores |
| `late.py` | late interaction: a sentence's tokens against a picture's patches |
| `calibration.py` | from scores to P(true) and verdicts |
| `preprocess.py` | pixels → a model's input, as differentiable tensor operations |
| `images.py` | image files of every kind → RGB |
| `loading.py` | models by name, folder or file |
| `open_clip.py` | open_clip checkpoints (HPSv2) → `CLIPModel` |
"""

from longalign.preference.calibration import Calibration
from longalign.preference.images import load_image, to_pixels
from longalign.preference.late import LateHead, ZeroShot
from longalign.preference.model import PreferenceModel
from longalign.preference.preprocess import Preprocess, crop
from longalign.preference.scores import Scores, SegmentScore, segment_mean

__all__ = [
    "Calibration",
    "LateHead",
    "PreferenceModel",
    "Preprocess",
    "Scores",
    "SegmentScore",
    "ZeroShot",
    "crop",
    "load_image",
    "segment_mean",
    "to_pixels",
]
