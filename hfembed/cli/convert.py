"""`hfembed convert`: make a checkpoint folder from a foreign file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hfembed.atomic import check_destination
from hfembed.cli.commands import Answer, Commands, lazy_imports

with lazy_imports():
    from hfembed.convert import (
        adaface,
        diffusers_vae,
        dlib,
        facenet_pytorch,
        fasttext,
        floret,
        foreign_checkpoint,
        insightface,
        mobilefacenet,
        mtcnn,
        navec,
        retinaface,
        sface,
        static,
        timm_face,
        word2vec,
        yunet,
    )
if TYPE_CHECKING:
    from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification, FaceEmbedderModel
    from hfembed.models.word2vec.modeling_word2vec import Word2VecModel

commands = Commands(help="Make a checkpoint folder from a foreign file.")

Source = Annotated[
    str, typer.Argument(metavar="SRC", help="File or folder; <owner>/<name> or <owner>/<name>:<file> on the Hub.")
]
Destination = Annotated[Path, typer.Argument(metavar="DST", help="Checkpoint folder to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace DST if it exists.")]


@commands.command("mobilefacenet")
def convert_mobilefacenet(source: Source, destination: Destination, overwrite: Overwrite = False) -> Answer:
    """Convert a MobileFaceNet file of Xiaoccer/MobileFaceNet_Pytorch or foamliu/MobileFaceNet."""
    check_destination(destination, overwrite, source)
    layout = mobilefacenet.convert_mobilefacenet(source, destination, overwrite)
    text = f"{source}: a MobileFaceNet in the layout of {layout.trainer}; written to {destination}"
    return Answer.written(destination, text, trainer=layout.trainer)


@commands.command("facenet-pytorch")
def convert_facenet_pytorch(
    source: Source,
    destination: Destination,
    overwrite: Overwrite = False,
    classifier: Annotated[
        bool, typer.Option("--classifier", help="Keep the classifier over the people it was trained on.")
    ] = False,
) -> Answer:
    """Convert an InceptionResnetV1 of facenet-pytorch."""
    check_destination(destination, overwrite, source)
    model = facenet_pytorch.convert_facenet_pytorch(source, destination, overwrite, classifier)
    return _answer(source, model, destination)


@commands.command("insightface")
def convert_insightface(source: Source, destination: Destination, overwrite: Overwrite = False) -> Answer:
    """Convert an IResNet or a ViT of insightface: .pth or .pt of arcface_torch; an IResNet's .onnx too."""
    check_destination(destination, overwrite, source)
    return _answer(source, insightface.convert_insightface(source, destination, overwrite), destination)


@commands.command("adaface")
def convert_adaface(source: Source, destination: Destination, overwrite: Overwrite = False) -> Answer:
    """Convert an IResNet of AdaFace."""
    check_destination(destination, overwrite, source)
    return _answer(source, adaface.convert_adaface(source, destination, overwrite), destination)


@commands.command("cvlface")
def convert_cvlface(
    source: Source,
    destination: Destination,
    overwrite: Overwrite = False,
    color: Annotated[
        Literal["rgb", "bgr"] | None,
        typer.Option(help="Color order that the network expects. Default: from model.yaml beside the weights."),
    ] = None,
) -> Answer:
    """Convert an IResNet of CVLFace."""
    check_destination(destination, overwrite, source)
    return _answer(source, adaface.convert_cvlface(source, destination, overwrite, color), destination)


@commands.command("timm-face")
def convert_timm_face(source: Source, destination: Destination, overwrite: Overwrite = False) -> Answer:
    """Convert a timm-face network, whose head is the embedding."""
    check_destination(destination, overwrite, source)
    return _answer(source, timm_face.convert_timm_face(source, destination, overwrite), destination)


@commands.command("sface")
def convert_sface(source: Source, destination: Destination, overwrite: Overwrite = False) -> Answer:
    """Convert SFace of the OpenCV model zoo: face_recognition_sface_2021dec.onnx, or its int8bq file."""
    check_destination(destination, overwrite, source)
    return _answer(source, sface.convert_sface(source, destination, overwrite), destination)


@commands.command("dlib")
def convert_dlib(source: Source, destination: Destination, overwrite: Overwrite = False) -> Answer:
    """Convert dlib's face recognition network: dlib_face_recognition_resnet_model_v1.dat."""
    check_destination(destination, overwrite, source)
    return _answer(source, dlib.convert_dlib(source, destination, overwrite), destination)


@commands.command("mtcnn")
def convert_mtcnn(source: Source, destination: Destination, overwrite: Overwrite = False) -> Answer:
    """Convert the MTCNN face detector of facenet-pytorch: pnet.pt, rnet.pt and onet.pt in a folder."""
    check_destination(destination, overwrite, source)
    mtcnn.convert_mtcnn(source, destination, overwrite)
    return Answer.written(destination, f"{source}: an MTCNN face detector; written to {destination}")


@commands.command("yunet")
def convert_yunet(source: Source, destination: Destination, overwrite: Overwrite = False) -> Answer:
    """Convert a YuNet face detector, n or s: .pth of libfacedetection.train, or .onnx, also OpenCV's int8."""
    check_destination(destination, overwrite, source)
    model = yunet.convert_yunet(source, destination, overwrite)
    text = f"{source}: a YuNet face detector of {model.num_parameters():,} weights; written to {destination}"
    return Answer.written(destination, text)


@commands.command("retinaface")
def convert_retinaface(
    source: Source,
    destination: Destination,
    overwrite: Overwrite = False,
    trainer: Annotated[
        Literal["Face-Detector-1MB-with-landmark", "Pytorch_Retinaface"],
        typer.Option(help="Repository of biubug6 that the file is from; activations and priors differ."),
    ] = "Face-Detector-1MB-with-landmark",
) -> Answer:
    """Convert the RetinaFace MobileNet-0.25 face detector of biubug6: mobilenet0.25_Final.pth."""
    check_destination(destination, overwrite, source)
    retinaface.convert_retinaface(source, destination, overwrite, trainer)
    return Answer.written(destination, f"{source}: a RetinaFace face detector; written to {destination}")


@commands.command("diffusers-vae")
def convert_diffusers_vae(source: Source, destination: Destination, overwrite: Overwrite = False) -> Answer:
    """Convert an AutoencoderKL of diffusers, such as the VAE of Stable Diffusion: its folder, or a file in it."""
    check_destination(destination, overwrite, source)
    config = diffusers_vae.convert_diffusers_vae(source, destination, overwrite).config
    size = f"{config.image_size[0]} x {config.image_size[1]}"
    text = f"{source}: AutoencoderKL, f{config.stride}, {config.latent_channels} channels; written to {destination}"
    return Answer.written(destination, text, stride=config.stride, latent_channels=config.latent_channels, size=size)


@commands.command("word2vec")
def convert_word2vec(
    source: Source,
    destination: Destination,
    overwrite: Overwrite = False,
    binary: Annotated[bool | None, typer.Option("--binary/--text", help="Default: detected from the file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only this many words, the first ones.")] = None,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="How numbers are stored.")] = "float32",
    counts: Annotated[Path | None, typer.Option(help="A file of word and count lines.")] = None,
    unicode_errors: Annotated[
        Literal["strict", "replace", "ignore"], typer.Option(help="What to do with words that are not UTF-8.")
    ] = "strict",
    lowercase: Annotated[
        bool, typer.Option("--lowercase", help="Texts are to be lowercased, as those of the vectors were.")
    ] = False,
    word_pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression whose matches are the words of a text; default: split at spaces."),
    ] = None,
) -> Answer:
    """Convert word vectors: word2vec's text or binary format, GloVe's and fastText's text; .gz, .xz, .bz2 too."""
    check_destination(destination, overwrite, source)
    file = foreign_checkpoint.find_file(source)
    model = word2vec.convert_word2vec_file(
        file, destination, binary, limit, dtype, counts, unicode_errors, lowercase, word_pattern
    )
    return _words_answer(model, destination)


@commands.command("fasttext")
def convert_fasttext(
    source: Source,
    destination: Destination,
    overwrite: Overwrite = False,
    output_rows: Annotated[bool, typer.Option(help="Keep the output rows, which only training on needs.")] = True,
) -> Answer:
    """Convert fastText's .bin or .ftz (also .gz) with its n-grams, so that unknown words have vectors too."""
    check_destination(destination, overwrite, source)
    model = fasttext.convert_fasttext(foreign_checkpoint.find_file(source), destination, output_rows)
    subwords = model.config.subwords
    ngrams = "" if subwords is None else f" and n-grams of {subwords[0]} to {subwords[1]} characters"
    return _words_answer(model, destination, ngrams, subwords=subwords)


@commands.command("floret")
def convert_floret(
    source: Source,
    destination: Destination,
    overwrite: Overwrite = False,
    words: Annotated[Path | None, typer.Option(help="A file of words, which queries answer with.")] = None,
) -> Answer:
    """Convert floret's table in text (.floret), in which words and n-grams share rows; all words have vectors."""
    check_destination(destination, overwrite, source)
    model = floret.convert_floret(foreign_checkpoint.find_file(source), destination, words)
    answer = _words_answer(model, destination, f" in a table of {model.config.buckets} rows")
    if words:
        return answer
    return answer._replace(text=f"{answer.text}; it has no words to answer queries with: --words FILE names some")


@commands.command("navec")
def convert_navec(source: Source, destination: Destination, overwrite: Overwrite = False) -> Answer:
    """Convert navec's .tar, Russian word vectors; they stay product-quantized."""
    check_destination(destination, overwrite, source)
    model = navec.convert_navec(foreign_checkpoint.find_file(source), destination)
    return _words_answer(model, destination)


@commands.command("static")
def convert_static(source: Source, destination: Destination, overwrite: Overwrite = False) -> Answer:
    """Convert a StaticEmbedding of sentence-transformers or a model2vec folder; whole words only, no word pieces."""
    check_destination(destination, overwrite, source)
    done = static.convert_static(source, destination)
    notes = [f"{done.pieces} word pieces left out"] if done.pieces else []
    notes += [f"not carried over: {', '.join(done.differences)}"] if done.differences else []
    more = f" ({'; '.join(notes)})" if notes else ""
    return _words_answer(done.model, destination, more, pieces=done.pieces, differences=done.differences)


def _answer(source: str, model: "FaceEmbedderModel | FaceEmbedderForClassification", destination: Path) -> Answer:
    trunk, dimensions = model.config.trunk, model.config.embedding_size
    text = f"{source}: {trunk}, embeddings of {dimensions} dimensions; written to {destination}"
    return Answer.written(destination, text, trunk=trunk, dimensions=dimensions)


def _words_answer(model: "Word2VecModel", destination: Path, more: str = "", **record: Any) -> Answer:
    words, dimensions = model.config.vocab_size, model.config.embedding_size
    text = f"{words} words of {dimensions} dimensions{more} written to {destination}"
    return Answer.written(destination, text, words=words, dimensions=dimensions, **record)
