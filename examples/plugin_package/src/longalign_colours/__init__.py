"""An example of a package that adds to longalign: a preference model and a source of captioned pictures."""
