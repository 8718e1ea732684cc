"""Commands that share checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command("card")
def card(folder: Annotated[Path, typer.Argument(help="Checkpoint folder.")]) -> None:
    """Write the model card (README.md) of a checkpoint folder again, from its results.json and training.json."""
    from hfembed.hub.card import write_card

    print(f"written: {write_card(folder)}")
