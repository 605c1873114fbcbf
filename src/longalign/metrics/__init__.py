"""Metrics of generated pictures, and the statistics that evaluations share.

| file | holds |
|---|---|
| `metric.py` | base class of metrics, the batch of pictures that they are given |
| `fid.py`, `cmmd.py`, `denscore.py`, `oracle.py`, … | one metric each |
| `distances.py` | FID, CMMD and diversity as functions of features |
| `features.py` | feature extractors by name: any preference model, a CLIP image tower, DINOv2 |
| `embedding.py` | embeddings of many pictures and captions by preference models |
| `matching.py` | rank of the right match among many candidates, for R@k |
| `intervals.py` | intervals of shares, paired differences, partial correlations |
| `prompt_bootstrap.py` | bootstrap that draws whole prompts |
"""

from longalign.plugins import Table

METRICS = Table(
    "metric",
    {
        "fid": "longalign.metrics.fid:Fid",
        "cmmd": "longalign.metrics.cmmd:Cmmd",
        "denscore": "longalign.metrics.denscore:Denscore",
        "denscore_o": "longalign.metrics.denscore_o:DenscoreO",
        "verdict": "longalign.metrics.verdict:Verdict",
        "oracle": "longalign.metrics.oracle:Oracle",
        "diversity": "longalign.metrics.diversity:Diversity",
        "counting": "longalign.metrics.counting:Counting",
        "looks": "longalign.metrics.looks:Looks",
    },
)

__all__ = ["METRICS"]
