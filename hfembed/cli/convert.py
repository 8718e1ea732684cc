"""`hfembed convert`: make a checkpoint folder from a foreign file."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(no_args_is_help=True, help="Make a checkpoint folder from a foreign file.")


@app.command("mobilefacenet")
def convert_mobilefacenet(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The file, or <owner>/<name>:<file> on the Hub.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Checkpoint folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST where it exists.")] = False,
) -> None:
    """Convert a MobileFaceNet file of Xiaoccer/MobileFaceNet_Pytorch or foamliu/MobileFaceNet."""
    from hfembed.convert.mobilefacenet import convert_mobilefacenet

    layout = convert_mobilefacenet(source, destination, overwrite)
    print(f"{source}: a MobileFaceNet in the layout of {layout.trainer}; written to {destination}")


@app.command("mtcnn")
def convert_mtcnn(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder with pnet.pt, rnet.pt and onet.pt.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Checkpoint folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST where it exists.")] = False,
) -> None:
    """Convert the MTCNN face detector of timesler/facenet-pytorch."""
    from hfembed.convert.mtcnn import convert_mtcnn

    convert_mtcnn(source, destination, overwrite)
    print(f"{source}: an MTCNN face detector; written to {destination}")


@app.command("word2vec")
def convert_word2vec(
    source: Annotated[Path, typer.Argument(help="word2vec's text or binary format or GloVe's text; .gz, .xz, .bz2.")],
    folder: Annotated[Path, typer.Argument(help="The checkpoint folder to make.")],
    binary: Annotated[bool | None, typer.Option("--binary/--text", help="Default: found out from the file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first so many words.")] = None,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="How numbers are stored.")] = "float32",
    counts: Annotated[Path | None, typer.Option(help="A file of word and count lines.")] = None,
    unicode_errors: Annotated[
        Literal["strict", "replace", "ignore"], typer.Option(help="What to do with words that are not UTF-8.")
    ] = "strict",
) -> None:
    """Make a checkpoint folder from word vectors in a file."""
    from hfembed.convert.word2vec import convert_word2vec_file

    model = convert_word2vec_file(source, folder, binary, limit, dtype, counts, unicode_errors)
    print(f"{model.config.vocab_size} words of {model.config.embedding_size} dimensions written to {folder}")
