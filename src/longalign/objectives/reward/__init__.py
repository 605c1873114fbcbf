"""Reward fine-tuning (LongAlign, §2.3, §4.2)."""
