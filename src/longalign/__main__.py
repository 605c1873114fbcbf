"""`python -m longalign`, and what `accelerate launch -m longalign` runs."""

from longalign.cli.main import main

main()
