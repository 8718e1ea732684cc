"""The `hfembed` command: measure, convert and ask models. It never trains."""

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure a model by a published protocol.")
convert_app = typer.Typer(no_args_is_help=True, help="Make a checkpoint folder from a foreign file.")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(convert_app, name="convert")


@app.callback()
def root() -> None:
    """Measure, convert and ask models; training lives in scripts/."""


def main() -> None:
    """Run the command; an expected error is one line on stderr and exit code 1."""
    app()


if __name__ == "__main__":
    main()
