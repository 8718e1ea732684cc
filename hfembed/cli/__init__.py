"""The `hfembed` command: train, measure, convert, share and use models."""

import logging
from typing import Annotated

import typer

from hfembed.cli import convert, demo, evaluate, export, faces, hub, images, models, swap, train, words
from hfembed.errors import exit_on_input_error, printable
from hfembed.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# without a name, a module's commands are the program's own; the headings of the help come in this order
for module in (faces, swap, images, words, hub, demo):
    app.add_typer(module.commands.app)
app.add_typer(models.commands.app, name="models", rich_help_panel="Hub")
app.add_typer(convert.commands.app, name="convert", rich_help_panel="Hub")
app.add_typer(export.commands.app, name="export", rich_help_panel="Hub")
app.add_typer(hub.datasets.app, name="push-dataset", rich_help_panel="Hub")
app.add_typer(train.app, name="train", rich_help_panel="Training")
app.add_typer(train.prepare_app, name="prepare", rich_help_panel="Training")
app.add_typer(evaluate.commands.app, name="evaluate", rich_help_panel="Training")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hfembed {__version__}")
        raise typer.Exit


@app.callback()
def hfembed(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train, measure, convert, share and use models for faces, images and words."""


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@exit_on_input_error
def main() -> None:
    """Run the command; an expected error is one line on stderr and exit code 1."""
    if logging.lastResort:  # what prints a warning where no logging is set up
        logging.lastResort.setFormatter(_PrintableFormatter())
    app(prog_name="hfembed")
