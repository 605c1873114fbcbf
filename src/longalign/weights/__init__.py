"""LoRAs on models, stacks and merges of them, and the weight files of others."""
