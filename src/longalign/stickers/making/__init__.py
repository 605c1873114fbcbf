"""How the tiny models of the sticker world were trained."""
