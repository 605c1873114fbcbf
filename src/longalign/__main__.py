"""`python -m longalign`, and what `accelerate launch -m longalign` runs."""

from longalign.cli import main

main()
