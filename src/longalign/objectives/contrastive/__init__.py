"""Soft text tokens, trained by contrast (SoftREPA) or by its successor."""
