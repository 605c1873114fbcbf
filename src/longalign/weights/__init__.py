"""LoRAs on models, stacks and merges of LoRAs, and weight files in published formats."""
