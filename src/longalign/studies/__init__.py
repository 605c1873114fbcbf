"""What is measured on the sticker world, whose truth is known."""
