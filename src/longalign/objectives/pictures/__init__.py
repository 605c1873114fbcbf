"""Objectives that train on captioned pictures: supervised fine-tuning and consistency distillation."""
