"""`hfembed export`: write a checkpoint in another program's format."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Write a checkpoint in another program's format.")


@app.command("word2vec")
def export_word2vec(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of word vectors.")],
    output: Annotated[Path, typer.Argument(help="The file to write; .gz, .xz and .bz2 compress.")],
    binary: Annotated[bool, typer.Option("--binary", help="Binary format; else text.")] = False,
    header: Annotated[bool, typer.Option(help="Text without a header is GloVe's format.")] = True,
    counts: Annotated[Path | None, typer.Option(help="Also write a file of word and count lines.")] = None,
) -> None:
    """Write word vectors in word2vec's format, which nearly every program reads."""
    from hfembed.export.gensim import export_word2vec_format
    from hfembed.loading import load_word2vec

    export_word2vec_format(load_word2vec(model, "cpu"), output, binary, header, counts)
    print(f"written to {output}")


@app.command("gensim")
def export_gensim(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of word vectors.")],
    output: Annotated[Path, typer.Argument(help="The file to write; large matrices go beside it.")],
) -> None:
    """Write a gensim Word2Vec that goes on training, or KeyedVectors where there are no output rows."""
    from hfembed.export.gensim import export_gensim_model

    kind = export_gensim_model(model, output)
    print(f"a gensim {kind} written to {output}: load it with gensim.models.{kind}.load")
