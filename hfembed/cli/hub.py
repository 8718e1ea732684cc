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


@app.command("push")
def push(
    folder: Annotated[Path, typer.Argument(help="Checkpoint folder.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the Hub; made where it is new.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to; default: main.")] = None,
    tag: Annotated[str | None, typer.Option(help="Also give this version a tag, such as v1.0.")] = None,
    message: Annotated[str, typer.Option(help="Title of the commit.")] = "Upload model",
) -> None:
    """Share a checkpoint folder on the Hub, in one commit; the same folder again makes none."""
    from hfembed.hub.push import push_folder

    pushed = push_folder(folder, repo_id, private=private or None, revision=revision, tag=tag, commit_message=message)
    print(f"{'pushed' if pushed.changed else 'nothing to push, it is there already'}: {pushed.url}")
