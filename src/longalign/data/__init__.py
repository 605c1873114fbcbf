"""Where training data come from.

| file | holds |
|---|---|
| `preferences.py` | pairs of pictures with a preference: what a pair is, and by which name its source goes |
| `jsonl.py` | pairs from a JSONL file and picture files |
| `pickapic.py` | pairs with Pick-a-Pic's columns, from parquet or Arrow files |
| `entries.py`, `sources.py` | a captioned picture, and by which name its source goes |
| `files.py`, `tables.py`, `tars.py` | … in JSONL, CSV, COCO's JSON, .txt files; parquet and Arrow; WebDataset |
| `arrow.py` | what is needed of pyarrow |
| `captioned.py` | captioned pictures to train on, and what is skipped |
| `latents.py`, `texts.py` | pictures and captions through the frozen encoders, one by one |
| `cache.py`, `store.py`, `cached.py` | that computed once: making it, its files, training from it |
| `recaption.py` | long captions by a vision-language model |
| `cli.py` | `longalign cache`, `longalign caption` |
"""
