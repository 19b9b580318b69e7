"""The command `dlf`, and `python -m dlf`."""

import gc

# Importing torch makes 300,000 objects that stay, and looking at them again and again takes a tenth of a second of each
# start. Not in dlf.cli, since the collector is the process'; before Typer, whose import is quicker for it as well.
gc.set_threshold(100_000, 20, 100)

from dlf.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
