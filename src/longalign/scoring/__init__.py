"""`longalign score` and `longalign decompose`: pictures judged sentence by sentence, one or a whole data set of them.

| file | holds |
|---|---|
| `data.py` | pairs of picture and caption from JSONL, folders and the sticker world |
| `texts.py` | prompts from text, JSONL, parquet, datasets and WebDataset files, streamed |
| `stream.py` | `score_pairs`: batches of pairs → scores, each picture read once, each sentence encoded once |
| `ranking.py` | the best picture for each sentence; the lowest sentences of a data set |
| `score.py`, `decompose.py` | the two commands as functions, with their run folders |
| `measure.py` | the three scores of §4.1 on paired and unpaired data |
| `histogram.py`, `page.py` | plots and pages |
| `show.py`, `cli.py` | the terminal |
"""
