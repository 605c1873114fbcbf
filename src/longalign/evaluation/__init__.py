"""Generated pictures and preference models, measured: metrics of runs, curves, retrieval."""
