"""`Denoiser`, solvers, sampling, and pipelines by name."""
