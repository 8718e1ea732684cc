"""The `hfembed` command: measure, convert, share and ask models. It never trains."""

import typer

from hfembed.cli import convert, evaluate, export, faces, hub, images, search, swap, train, words
from hfembed.errors import exit_on_input_error

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(convert.app, name="convert")
app.add_typer(export.app, name="export")
app.add_typer(train.app, name="train")
# without a name, a module's commands are the program's own
for commands in (faces, words, images, swap, search, hub):
    app.add_typer(commands.app)


@exit_on_input_error
def main() -> None:
    """Run the command; an expected error is one line on stderr and exit code 1."""
    app()
