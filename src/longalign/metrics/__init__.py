"""How good are pictures, and how good is a preference model that judges them?

| file | holds |
|---|---|
| `distances.py` | FID, CMMD, diversity of features |
| `features.py` | which model's features: any CLIP, a CLIP vision tower, DINOv2 |
| `pictures.py`, `evaluate.py`, `evaluation.py`, `evaluate_page.py` | `evaluate`: runs side by side, metric by metric |
| `curves.py` | `curves`: evaluations of several training runs in one figure |
| `embedding.py` | models by name, and the embeddings of pictures and captions |
| `pairs.py` | pictures with captions: sticker scenes, JSONL files |
| `matching.py` | how many candidates score above the true one; R@k from it |
| `draws.py` | bootstrap over whole prompts |
| `intervals.py` | paired bootstrap, and partial correlations with their intervals |
| `retrieval.py`, `claims.py` | Tables 1 and 4 of the paper, and what it concludes from them |
| `identification.py` | does C_X·V follow looks, and C_X·C⊥ truth? |
| `localisation.py` | is the one false sentence the lowest-scored? |
| `renders.py` | sticker pictures of known truth and looks, for these two |
| `output.py` | run folders |
| `mutual_information.py` | how much the text says about the picture, by the contrastive bound |
| `cli.py`, `evaluate_cli.py`, `information_cli.py`, `sticker_cli.py`, `options.py` | commands |
"""
