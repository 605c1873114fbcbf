"""Metrics of generated pictures, and the statistics that evaluations share.

| file | holds |
|---|---|
| `metric.py` | base class of metrics, the batch of pictures that they are given |
| `fid.py`, `cmmd.py`, `denscore.py`, `oracle.py`, … | one metric each |
| `clipscore.py`, `pickscore.py`, `hpsv2.py` | cosines with the first tokens; `first_tokens.py` is their base |
| `imagereward.py`, `aesthetic.py`, `lpips.py` | metrics by published weights; `weight_files.py` reads their heads |
| `vqascore.py`, `tit.py`, `dpg.py` | metrics that ask a vision-language model; `vlm.py` is their base |
| `text_embedder.py` | unit vectors of long texts, for `tit` |
| `geneval.py` | things, colours and places by a detector (`detector.py`) and a CLIP |
| `judge.py` | which of two pictures fits a prompt better; `judge_client.py` asks an endpoint |
| `kid.py`, `precision.py` | metrics of whole sets, with their formulas |
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
        "clipscore": "longalign.metrics.clipscore:ClipScore",
        "pickscore": "longalign.metrics.pickscore:PickScore",
        "hpsv2": "longalign.metrics.hpsv2:HpsV2",
        "imagereward": "longalign.metrics.imagereward:ImageReward",
        "aesthetic": "longalign.metrics.aesthetic:Aesthetic",
        "lpips": "longalign.metrics.lpips:Lpips",
        "kid": "longalign.metrics.kid:Kid",
        "precision": "longalign.metrics.precision:Precision",
        "vqascore": "longalign.metrics.vqascore:VqaScore",
        "tit": "longalign.metrics.tit:Tit",
        "dpg": "longalign.metrics.dpg:Dpg",
        "geneval": "longalign.metrics.geneval:Geneval",
    },
)

__all__ = ["METRICS"]
