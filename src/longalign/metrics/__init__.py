"""How good is a preference model? Retrieval, identification of its two parts, localisation of what is wrong.

| file | holds |
|---|---|
| `embedding.py` | models by name, and the embeddings of pictures and captions |
| `pairs.py` | pictures with captions: sticker scenes, JSONL files |
| `matching.py` | how many candidates score above the true one; R@k from it |
| `intervals.py` | paired bootstrap, and partial correlations with their intervals |
| `retrieval.py`, `claims.py` | Tables 1 and 4 of the paper, and what it concludes from them |
| `identification.py` | does C_X·V follow looks, and C_X·C⊥ truth? |
| `localisation.py` | is the one false sentence the lowest-scored? |
| `renders.py` | sticker pictures of known truth and looks, for these two |
| `output.py` | run folders |
| `cli.py`, `sticker_cli.py`, `options.py` | commands |
"""
