"""The `hfembed` command: train, measure, convert, share and use models."""

from typing import Annotated

import typer

<<<<<<< HEAD
from hfembed.cli import convert, evaluate, export, faces, hub, images, search, swap, train, words
=======
from hfembed.cli import convert, demo, evaluate, export, faces, hub, images, swap, words
>>>>>>> main
from hfembed.errors import exit_on_input_error
from hfembed.version import __version__

<<<<<<< HEAD
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(convert.app, name="convert")
app.add_typer(export.app, name="export")
app.add_typer(train.app, name="train")
# without a name, a module's commands are the program's own
for commands in (faces, words, images, swap, search, hub):
    app.add_typer(commands.app)
=======
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# without a name, a module's commands are the program's own; the headings of the help come in this order
for module in (faces, swap, images, words, hub, demo):
    app.add_typer(module.commands.app)
app.add_typer(convert.commands.app, name="convert", rich_help_panel="Hub")
app.add_typer(export.commands.app, name="export", rich_help_panel="Hub")
app.add_typer(hub.datasets.app, name="push-dataset", rich_help_panel="Hub")
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
>>>>>>> main


@exit_on_input_error
def main() -> None:
    """Run the command; an expected error is one line on stderr and exit code 1."""
    app(prog_name="hfembed")
