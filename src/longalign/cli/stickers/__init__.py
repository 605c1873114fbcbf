"""The commands `longalign stickers …`, a file each."""
