"""The denoiser, its solver and sampling, and pipelines by name."""
