"""`hfembed convert`: make a checkpoint folder from a foreign file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

app = typer.Typer(no_args_is_help=True, help="Make a checkpoint folder from a foreign file.")


Source = Annotated[
    str, typer.Argument(metavar="SRC", help="File or folder; <owner>/<name> or <owner>/<name>:<file> on the Hub.")
]
Destination = Annotated[Path, typer.Argument(metavar="DST", help="Checkpoint folder to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace DST where it exists.")]


@app.command("mobilefacenet")
def convert_mobilefacenet(source: Source, destination: Destination, overwrite: Overwrite = False) -> None:
    """Convert a MobileFaceNet file of Xiaoccer/MobileFaceNet_Pytorch or foamliu/MobileFaceNet."""
    from hfembed.convert.mobilefacenet import convert_mobilefacenet

    layout = convert_mobilefacenet(source, destination, overwrite)
    print(f"{source}: a MobileFaceNet in the layout of {layout.trainer}; written to {destination}")


@app.command("facenet-pytorch")
def convert_facenet_pytorch(
    source: Source,
    destination: Destination,
    overwrite: Overwrite = False,
    classifier: Annotated[
        bool, typer.Option("--classifier", help="Keep the classifier over the people it was trained on.")
    ] = False,
) -> None:
    """Convert an InceptionResnetV1 of facenet-pytorch."""
    from hfembed.convert.facenet_pytorch import convert_facenet_pytorch

    model = convert_facenet_pytorch(source, destination, overwrite, classifier)
    print(f"{source}: {_network(model)}; written to {destination}")


@app.command("insightface")
def convert_insightface(source: Source, destination: Destination, overwrite: Overwrite = False) -> None:
    """Convert an IResNet of insightface: .pth of arcface_torch, or .onnx."""
    from hfembed.convert.insightface import convert_insightface

    print(f"{source}: {_network(convert_insightface(source, destination, overwrite))}; written to {destination}")


@app.command("adaface")
def convert_adaface(source: Source, destination: Destination, overwrite: Overwrite = False) -> None:
    """Convert an IResNet of AdaFace."""
    from hfembed.convert.adaface import convert_adaface

    print(f"{source}: {_network(convert_adaface(source, destination, overwrite))}; written to {destination}")


@app.command("cvlface")
def convert_cvlface(
    source: Source,
    destination: Destination,
    overwrite: Overwrite = False,
    color: Annotated[
        Literal["rgb", "bgr"] | None,
        typer.Option(help="Colours as the network itself sees them. Default: from model.yaml beside the weights."),
    ] = None,
) -> None:
    """Convert an IResNet of CVLFace."""
    from hfembed.convert.adaface import convert_cvlface

    model = convert_cvlface(source, destination, overwrite, color)
    print(f"{source}: {_network(model)}; written to {destination}")


@app.command("timm-face")
def convert_timm_face(source: Source, destination: Destination, overwrite: Overwrite = False) -> None:
    """Convert a timm-face network, whose head is the embedding."""
    from hfembed.convert.timm_face import convert_timm_face

    print(f"{source}: {_network(convert_timm_face(source, destination, overwrite))}; written to {destination}")


@app.command("mtcnn")
def convert_mtcnn(source: Source, destination: Destination, overwrite: Overwrite = False) -> None:
    """Convert the MTCNN face detector of facenet-pytorch: pnet.pt, rnet.pt and onet.pt in a folder."""
    from hfembed.convert.mtcnn import convert_mtcnn

    convert_mtcnn(source, destination, overwrite)
    print(f"{source}: an MTCNN face detector; written to {destination}")


@app.command("word2vec")
def convert_word2vec(
    source: Source,
    destination: Destination,
    overwrite: Overwrite = False,
    binary: Annotated[bool | None, typer.Option("--binary/--text", help="Default: found out from the file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first so many words.")] = None,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="How numbers are stored.")] = "float32",
    counts: Annotated[Path | None, typer.Option(help="A file of word and count lines.")] = None,
    unicode_errors: Annotated[
        Literal["strict", "replace", "ignore"], typer.Option(help="What to do with words that are not UTF-8.")
    ] = "strict",
) -> None:
    """Convert word vectors: word2vec's text or binary format, GloVe's and fastText's text; .gz, .xz, .bz2 too."""
    from hfembed.atomic import check_destination
    from hfembed.convert.foreign_checkpoint import find_file
    from hfembed.convert.word2vec import convert_word2vec_file

    check_destination(destination, overwrite)
    model = convert_word2vec_file(find_file(source), destination, binary, limit, dtype, counts, unicode_errors)
    print(f"{model.config.vocab_size} words of {model.config.embedding_size} dimensions written to {destination}")


def _network(model: "PreTrainedModel") -> str:
    return f"{model.config.trunk}, embeddings of {model.config.embedding_size} numbers"
