"""`hfembed demo`: a page in the browser to try models on."""

from typing import Annotated

import typer

from hfembed.cli import options
from hfembed.cli.commands import Commands, Hub, lazy_imports

with lazy_imports():
    from hfembed.demo import page

commands = Commands("Hub")


@commands.command("demo")
def demo(
    hub: Hub,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL...]",
            help="At most one of each: face analyzer, words, autoencoder, swap. Without any, the default face model.",
        ),
    ] = None,
    gallery: Annotated[
        str | None, typer.Option(help="EmbeddingIndex to identify people in: folder or Hub id.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: the first free one from 7860 on.")] = None,
    device: options.Device = "auto",
) -> None:
    """Open a page in the browser to try models on; needs the demo extra."""
    checkpoints = [hub.model(model) for model in models or []] or [hub.face_model(None)]
    page.serve(checkpoints, gallery, host, port, device)
