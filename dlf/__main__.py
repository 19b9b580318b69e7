"""`python -m dlf` is `dlf`."""

from dlf.cli import main

main()
