"""`hfembed models`: the known checkpoints of others, and how to get them."""

from pathlib import Path
from typing import Annotated

import typer

from hfembed.atomic import check_destination
from hfembed.cli import options
from hfembed.cli.commands import Answer, Commands, Json, Token, lazy_imports, print_answer

with lazy_imports():
    from hfembed.convert import get_checkpoint, known_checkpoints

commands = Commands(help="List known checkpoints of others: what they are, who may use them, how to get them.")


@commands.app.callback(invoke_without_command=True, no_args_is_help=False)
def models(context: typer.Context, as_json: Json = False) -> None:
    """List known checkpoints of others: what they are, who may use them, how to get them."""
    if context.invoked_subcommand is None:
        known = known_checkpoints.KNOWN_CHECKPOINTS.values()
        print_answer(Answer({"models": [one.record() for one in known]}, _table()), as_json)


@commands.command("get")
def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `hfembed models` lists them.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Checkpoint folder to write.")],
    file: Annotated[
        Path | None, typer.Option(help="A file or folder that was downloaded already, instead of fetching it.")
    ] = None,
    overwrite: options.Overwrite = False,
    token: Token = None,
) -> Answer:
    """Fetch a known checkpoint, check its sha256, and convert it."""
    known = known_checkpoints.known_checkpoint(name)
    check_destination(destination, overwrite)
    source = get_checkpoint.get_checkpoint(known, destination, overwrite, file, token=token)
    text = f"{known.title} ({known.license}) from {source}; written to {destination}"
    return Answer.written(destination, text, name=name, license=known.license, source=str(source))


def _table() -> str:
    header = ("name", "what", "license", "commercial use", "MB", "LFW", "get it from")
    rows, notes = [], []
    for known in known_checkpoints.KNOWN_CHECKPOINTS.values():
        size = "" if known.size is None else f"{known.size / 1e6:.1f}"
        lfw = "" if known.lfw is None else str(known.lfw)
        rows.append((known.name, known.what, known.license, known.commercial_use, size, lfw, known.how_to_get))
        notes.append(f"  {known.name}: {known.title}; {known.note}")
        if known.lfw is not None:
            notes.append(f"    LFW by: {known.lfw.command}")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in (header, *rows)
    ]
    return "\n".join([*lines, "", *notes, "", "hfembed models get NAME DST fetches, checks and converts one."])
