"""Training of preference models (LongAlign, §3.2)."""
