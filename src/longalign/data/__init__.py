"""Where training data come from.

| file | holds |
|---|---|
| `preferences.py` | pairs of pictures with a preference: what a pair is, and by which name its source goes |
| `jsonl.py` | pairs from a JSONL file and picture files |
| `pickapic.py` | pairs with Pick-a-Pic's columns, from parquet or Arrow files |
"""
