"""Generated pictures and preference models, measured: metrics of runs, curves, retrieval.

The way of `longalign evaluate`:

| file | holds |
|---|---|
| `settings.py`, `contenders.py`, `sweep.py` | what is compared and how: options, recipes, models by name, sweeps |
| `pictures.py`, `matched.py`, `sets.py` | sets of pictures with their prompts |
| `evaluate.py` | `EvaluationJob`, which calls the rest; `choice.py`: which metrics are possible |
| `drawing.py` | pictures of models, block by block |
| `measuring.py`, `parts.py`, `memory.py` | metrics block by block; finished blocks; models in memory |
| `judging.py` | a judge of pairs |
| `comparison.py` | paired differences, win rates, words |
| `result.py`, `results.py`, `page.py`, `report.py`, `attention.py` | the result, its files and pages |
| `merging.py`, `processes.py`, `estimate.py` | shards, several processes, forecasts |
| `of_sets.py` | the same for pictures in memory |

Other commands: `curves.py`, `retrieval.py` and `pairs.py`, `information.py`; `output.py` writes their run folders.
"""
