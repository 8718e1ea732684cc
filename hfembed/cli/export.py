"""`hfembed export`: write a checkpoint in another program's format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from hfembed.atomic import check_destination, check_output_folder, check_writable
from hfembed.cli import options
from hfembed.cli.commands import Answer, Commands, Hub, lazy_imports, say_new_name
from hfembed.errors import InputError

with lazy_imports():
    from hfembed.checkpoint import loading
    from hfembed.export import diffusers_vae, floret, gensim, onnx, spacy, static, with_code

if TYPE_CHECKING:
    from hfembed.models.word2vec.modeling_word2vec import Word2VecModel

_OLD_FORM = "--with-code"


class ExportGroup(TyperGroup):
    """Accepts `export --with-code MODEL OUT`, the old form of `export with-code MODEL OUT`."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        """Replace the old form before the sub-command is looked up."""
        if _OLD_FORM in arguments and arguments[0] not in self.commands:
            say_new_name("hfembed export --with-code MODEL OUT", "hfembed export with-code MODEL OUT")
            arguments = ["with-code", *(given for given in arguments if given != _OLD_FORM)]
        return super().parse_args(context, arguments)


commands = Commands(help="Write a checkpoint in another program's format.", group=ExportGroup)

OutputFile = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; .gz, .xz and .bz2 compress.")]


@commands.command("with-code")
def export_with_code(
    model: options.AnyModel,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    hub: Hub,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Copy a checkpoint with its code, so that it loads by trust_remote_code without hfembed."""
    check_destination(output, overwrite, model)
    classes = with_code.export_with_code(hub.model(model), output, overwrite)
    text = f"written to {output}: {', '.join(classes)} load it with trust_remote_code=True"
    return Answer.written(output, text, classes=classes)


@commands.command("word2vec")
def export_word2vec(
    model: options.WordVectors,
    output: OutputFile,
    hub: Hub,
    binary: Annotated[bool, typer.Option("--binary", help="Binary format; otherwise text.")] = False,
    header: Annotated[bool, typer.Option(help="Text without a header is GloVe's format.")] = True,
    counts: Annotated[Path | None, typer.Option(help="Also write a file of word and count lines.")] = None,
) -> Answer:
    """Write word vectors in word2vec's format, which nearly every program reads."""
    check_writable(output)
    gensim.export_word2vec_format(loading.load_word2vec(hub.model(model), "cpu"), output, binary, header, counts)
    return Answer.written(output)


@commands.command("static")
def export_static(
    model: options.WordVectors,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    hub: Hub,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Write a StaticEmbedding that SentenceTransformer and model2vec load without hfembed; only known words count."""
    check_destination(output, overwrite, model)
    vectors = loading.load_word2vec(hub.model(model), "cpu")
    static.export_static(vectors, output)
    return Answer.written(
        output, f"written to {output}: SentenceTransformer({str(output)!r}) loads it{_lost(vectors)}"
    )


@commands.command("spacy")
def export_spacy(
    model: options.WordVectors,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    hub: Hub,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Write word vectors that spaCy 3 loads into its vocabulary."""
    check_destination(output, overwrite, model)
    vectors = loading.load_word2vec(hub.model(model), "cpu")
    spacy.export_spacy(vectors, output)
    lost = "" if vectors.config.hash_count is not None else _lost(vectors)  # spaCy knows floret's subwords
    text = f"written to {output}: load it with nlp.vocab.from_disk({str(output)!r}){lost}"
    return Answer.written(output, text)


def _lost(vectors: "Word2VecModel") -> str:
    """What a reader without hfembed does not know of the model."""
    analyzer = vectors.require_vocabulary().rules.analyzer
    text = "" if analyzer is None else f"; texts must be analyzed by {analyzer} first"
    if vectors.config.subwords is not None:
        text += "; it has no subwords, so unknown words have no vector there"
    return text


@commands.command("gensim")
def export_gensim(
    model: options.WordVectors,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; large matrices go beside it.")],
    hub: Hub,
) -> Answer:
    """Write a gensim Word2Vec that can continue training, or KeyedVectors where there are no output vectors."""
    check_writable(output)
    kind = gensim.export_gensim_model(hub.model(model), output)
    text = f"a gensim {kind} written to {output}: load it with gensim.models.{kind}.load"
    return Answer.written(output, text, kind=kind)


@commands.command("diffusers-vae")
def export_diffusers_vae(
    model: options.Autoencoder,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    hub: Hub,
    scaling_factor: Annotated[
        float, typer.Option(help="What pipelines multiply latents by: one over their standard deviation.")
    ] = 1.0,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Write an autoencoder_kl network that diffusers' AutoencoderKL.from_pretrained loads."""
    check_destination(output, overwrite, model)
    diffusers_vae.export_diffusers_vae(loading.load_autoencoder(hub.model(model), "cpu")[0], output, scaling_factor)
    return Answer.written(output, f"written to {output}: AutoencoderKL.from_pretrained({str(output)!r}) loads it")


@commands.command("fasttext")
def export_fasttext(
    model: options.WordVectors,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The .bin file to write.")],
    hub: Hub,
) -> Answer:
    """Write fastText's .bin, which fastText and gensim load, with subwords where the model has them."""
    if output.suffix != ".bin":
        raise InputError(f"{output} does not end in .bin; `hfembed export word2vec` writes text")
    check_writable(output)
    trainable = gensim.export_fasttext(hub.model(model), output)
    text = f"written to {output}: load it with fasttext.load_model or gensim.models.fasttext.load_facebook_model"
    return Answer.written(output, text + ("" if trainable else "; its output rows are 0"), output_rows=trainable)


@commands.command("floret")
def export_floret(model: options.WordVectors, output: OutputFile, hub: Hub) -> Answer:
    """Write floret's table of a model with hash_count, for spaCy's init vectors --mode floret."""
    check_writable(output)
    floret.export_floret(loading.load_word2vec(hub.model(model), "cpu"), output)
    return Answer.written(output)


@commands.command("onnx")
def export_onnx(
    model: options.AnyModel,
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="A file ending in .onnx, or a folder with one file per part.")
    ],
    hub: Hub,
) -> Answer:
    """Write networks as ONNX with a dynamic batch size, checked against torch."""
    (check_writable if output.suffix == ".onnx" else check_output_folder)(output)
    files = onnx.export_onnx(hub.model(model), output)
    lines = [
        f"written to {file.path}: within {file.largest_difference:.0e} of torch, run by onnxruntime" for file in files
    ]
    return Answer.written(output, "\n".join(lines), files=[vars(file) for file in files])
