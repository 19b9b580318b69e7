"""The application that the commands of this package add themselves to.

Their modules do not postpone annotations: Typer would compile each of those strings, twice, before it shows a line.
"""

from typing import Annotated

import typer

from dlf import __version__

app = typer.Typer(
    name="dlf",
    help="Deep learning fundamentals: one YAML file in, a trained, evaluated and explained neural network out.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would double the time of `dlf --help`
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dlf {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
