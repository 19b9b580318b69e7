"""The command line: parse, call a command, show its result, end with the right exit code.

Nothing heavy is imported at the top: `dlf --help`, `--version` and shell completion never import torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import typer

from dlf.cli import experiments, listing, results, training, understanding  # noqa: F401 -- each adds its commands to the app
from dlf.cli.app import app
from dlf.errors import DlfError, MachineError, UsageError, is_out_of_memory

# what Typer raises for words that do not fit is click's, which newer Typers carry inside of themselves
_BadWords: type[Exception] = typer.BadParameter.__mro__[1]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, or the exit code of the failure (dlf/errors.py)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=words or ["--help"], prog_name="dlf", standalone_mode=False)
    except DlfError as error:
        _fail(error)
    except _BadWords as error:
        _fail(UsageError(_in_words(error)))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except OSError as error:
        _fail(MachineError(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail(MachineError(f"out of memory. Use a smaller data.batch_size or network. {error}".rstrip()))
    sys.exit(code or 0)


# control characters, and those that turn the direction of text: what is quoted from a file must not steer a terminal
_STEERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _fail(error: DlfError) -> NoReturn:
    text = _STEERS.sub(lambda char: ascii(char[0])[1:-1], str(error))
    if sys.stderr is not None:
        with suppress(OSError):  # nobody reads it: the exit code still says it
            print(f"error: {text}", file=sys.stderr, flush=True)
    sys.exit(error.exit_code)


def _in_words(error: Any) -> str:
    """What Typer says of the words of a command, and where the right ones are written."""
    command = error.ctx.command_path if error.ctx else "dlf"
    return f"{error.format_message()}\nSee {command} --help"
