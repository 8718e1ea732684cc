"""`hfembed export`: write a checkpoint in another program's format."""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

_WITH_CODE = "--with-code"


class ExportGroup(TyperGroup):
    """Formats are sub-commands, and `--with-code MODEL OUT` stands for the one of that name without the dashes."""

    def parse_args(self, context, arguments: list[str]) -> list[str]:
        """Put the sub-command's name first where its option is given instead of one."""
        if _WITH_CODE in arguments and arguments[0] not in self.commands:
            arguments = [_WITH_CODE.removeprefix("--"), *(given for given in arguments if given != _WITH_CODE)]
        return super().parse_args(context, arguments)


app = typer.Typer(cls=ExportGroup, no_args_is_help=True, help="Write a checkpoint in another program's format.")


@app.callback()
def export(
    with_code: Annotated[
        bool,
        typer.Option(_WITH_CODE, help="MODEL OUT: a folder that loads by trust_remote_code where hfembed is missing."),
    ] = False,
) -> None:
    """Write a checkpoint in another program's format."""


@app.command("with-code", hidden=True)
def export_with_code(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id.")],
    output: Annotated[Path, typer.Argument(help="The folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT where it exists.")] = False,
) -> None:
    """Copy a checkpoint and put the code beside it that its Auto classes need."""
    from hfembed.export.with_code import export_with_code

    classes = export_with_code(model, output, overwrite)
    print(f"written to {output}: {', '.join(classes)} load it with trust_remote_code=True")


@app.command("word2vec")
def export_word2vec(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of word vectors.")],
    output: Annotated[Path, typer.Argument(help="The file to write; .gz, .xz and .bz2 compress.")],
    binary: Annotated[bool, typer.Option("--binary", help="Binary format; else text.")] = False,
    header: Annotated[bool, typer.Option(help="Text without a header is GloVe's format.")] = True,
    counts: Annotated[Path | None, typer.Option(help="Also write a file of word and count lines.")] = None,
) -> None:
    """Write word vectors in word2vec's format, which nearly every program reads."""
    from hfembed.checkpoint.loading import load_word2vec
    from hfembed.export.gensim import export_word2vec_format

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


@app.command("onnx")
def export_onnx(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of a face embedder or autoencoder.")],
    output: Annotated[Path, typer.Argument(help="A file ending in .onnx, or a folder with a file for each part.")],
) -> None:
    """Write networks as ONNX with a free batch size, checked against torch."""
    from hfembed.export.onnx import export_onnx

    for file in export_onnx(model, output):
        print(f"written to {file.path}: within {file.largest_difference:.0e} of torch, run by onnxruntime")
