"""The `hfembed` command: measure, convert and ask models. It never trains."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hfembed.errors import exit_on_input_error

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure a model by a published protocol.")
convert_app = typer.Typer(no_args_is_help=True, help="Make a checkpoint folder from a foreign file.")
export_app = typer.Typer(no_args_is_help=True, help="Write a checkpoint in another program's format.")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(convert_app, name="convert")
app.add_typer(export_app, name="export")


@app.callback()
def root() -> None:
    """Measure, convert and ask models; training lives in scripts/."""


@evaluate_app.command("lfw")
def evaluate_lfw(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of a face embedder.")],
    images: Annotated[str, typer.Option(help="LFW's archive (.tgz, .zip), folder, URL or Hub id.")],
    pairs: Annotated[str, typer.Option(help="pairs.txt for View 2, pairsDevTest.txt for View 1.")],
    output: Annotated[Path, typer.Option(help="Folder for results.json, roc.png and mistakes.png.")],
    landmarks: Annotated[
        Path | None, typer.Option(help="JSON: file -> five points; without it, centre crops.")
    ] = None,
    threshold_pairs: Annotated[
        str | None, typer.Option(help="View 1: pairsDevTrain.txt, to choose the threshold on.")
    ] = None,
    fold: Annotated[
        list[int] | None, typer.Option(help="Only this fold, from 0; repeat it for more. Default: all of them.")
    ] = None,
    undetected: Annotated[
        Literal["error", "centre-crop"], typer.Option(help="What a null in the landmarks means.")
    ] = "error",
    mirror: Annotated[
        Literal["none", "sum", "concatenate"] | None, typer.Option(help="Test-time mirror; default: the checkpoint's.")
    ] = None,
    floor: Annotated[bool, typer.Option("--floor", help="Also score raw pixels and eigenfaces.")] = False,
    store_thresholds: Annotated[
        bool, typer.Option("--store-thresholds", help="Put the thresholds into MODEL's config, for model.verify().")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that decode and align.")] = 2,
    num_threads: Annotated[
        int,
        typer.Option(min=1, help="Threads of torch on a CPU: small parts gain nothing by more."),
    ] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")] = "auto",
) -> None:
    """Measure a face embedder on Labeled Faces in the Wild."""
    import torch

    from hfembed.data.lfw import read_pairs
    from hfembed.evaluation import lfw_report
    from hfembed.evaluation.lfw import LfwVerification
    from hfembed.loading import load_face_embedder

    torch.set_num_threads(num_threads)
    embedder, processor = load_face_embedder(model, device)
    if mirror is not None:
        embedder.config.mirror = mirror
    chosen = read_pairs(pairs).in_folds(fold) if fold else pairs
    lfw = LfwVerification(
        images, chosen, landmarks, threshold_pairs, undetected, batch_size=batch_size, num_workers=num_workers
    )
    files = {"images": images, "pairs": pairs, "landmarks": landmarks, "threshold_pairs": threshold_pairs}
    report = lfw_report.report_lfw(lfw, embedder, processor, output, floor, files=files)
    print(lfw_report.summary(lfw.name, report))
    print(f"  written to {output}")
    if store_thresholds:
        lfw_report.store_thresholds(model, report[lfw.name]["thresholds"], embedder.config.mirror)


@app.command("card")
def card(folder: Annotated[Path, typer.Argument(help="Checkpoint folder.")]) -> None:
    """Write the model card (README.md) of a checkpoint folder again, from its results.json and training.json."""
    from hfembed.hub.card import write_card

    print(f"written: {write_card(folder)}")


@convert_app.command("mobilefacenet")
def convert_mobilefacenet(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The file, or <owner>/<name>:<file> on the Hub.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Checkpoint folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST where it exists.")] = False,
) -> None:
    """Convert a MobileFaceNet file of Xiaoccer/MobileFaceNet_Pytorch or foamliu/MobileFaceNet."""
    from hfembed.convert.mobilefacenet import convert_mobilefacenet

    layout = convert_mobilefacenet(source, destination, overwrite)
    print(f"{source}: a MobileFaceNet in the layout of {layout.trainer}; written to {destination}")


@app.command("neighbours")
def neighbours(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of word vectors.")],
    words: Annotated[list[str], typer.Argument(help="Words; 'czech+currency' and 'king-man+woman' compose.")],
    topn: Annotated[int, typer.Option(min=1, help="How many neighbours a word.")] = 10,
    restrict_vocab: Annotated[int | None, typer.Option(min=1, help="Search the most frequent words only.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")] = "auto",
) -> None:
    """Show the words whose vectors lie nearest."""
    from hfembed.evaluation.word_report import parse_composition
    from hfembed.loading import load_word2vec

    vectors = load_word2vec(model, device)
    for number, text in enumerate(words):
        positive, negative = parse_composition(text, vectors.vocabulary)
        found = vectors.most_similar(positive, negative, topn=topn, restrict_vocab=restrict_vocab)
        print(("\n" if number else "") + text)
        print("\n".join(f"  {score:6.3f}  {word}" for word, score in found))


@app.command("analogy")
def analogy(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of word vectors.")],
    a: Annotated[str, typer.Argument(help="A is to B ...")],
    b: Annotated[str, typer.Argument(help="")],
    c: Annotated[str, typer.Argument(help="... as C is to ?")],
    topn: Annotated[int, typer.Option(min=1, help="How many answers.")] = 5,
    method: Annotated[Literal["3cosadd", "3cosmul"], typer.Option(help="How candidates are scored.")] = "3cosadd",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")] = "auto",
) -> None:
    """Answer 'A is to B as C is to ?': man king woman, walk walked swim."""
    from hfembed.errors import input_errors
    from hfembed.loading import load_word2vec

    vectors = load_word2vec(model, device)
    with input_errors():
        answers = vectors.analogy(a, b, c, topn, method)
    print("\n".join(f"  {score:6.3f}  {word}" for word, score in answers))


@evaluate_app.command("words")
def evaluate_words(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of word vectors.")],
    output: Annotated[Path, typer.Option(help="Folder for results.json.")],
    analogies: Annotated[list[Path] | None, typer.Option(help="A file like questions-words.txt; may repeat.")] = None,
    word_pairs: Annotated[
        list[Path] | None, typer.Option(help="A file of word, word, score lines, or a folder of such; may repeat.")
    ] = None,
    restrict_vocab: Annotated[int, typer.Option(min=1, help="Use the most frequent words only.")] = 300_000,
    fold_case: Annotated[bool, typer.Option(help="Words that differ in case alone are the same.")] = True,
    unknown_is_wrong: Annotated[
        bool, typer.Option("--unknown-is-wrong", help="Unknown words count as wrong answers; else they are not asked.")
    ] = False,
    method: Annotated[Literal["3cosadd", "3cosmul"], typer.Option(help="How candidates are scored.")] = "3cosadd",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")] = "auto",
) -> None:
    """Measure word vectors by analogies and by word pairs rated by people."""
    from hfembed.evaluation.word_report import report_words
    from hfembed.evaluation.word_tests import WordTests
    from hfembed.loading import load_word2vec

    tests = WordTests(analogies or [], word_pairs or [], restrict_vocab, fold_case, unknown_is_wrong, method)
    print(report_words(tests, load_word2vec(model, device), output))
    print(f"  written to {output}")


@app.command("map")
def word_map(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of word vectors.")],
    words: Annotated[list[str], typer.Argument(help="Words to draw; 'france:paris' joins two by a line.")],
    output: Annotated[Path, typer.Option(help="The picture to write (.png, .svg, .pdf).")],
    method: Annotated[Literal["pca", "t-sne"], typer.Option(help="How the plane is laid.")] = "pca",
    projector: Annotated[Path | None, typer.Option(help="Also a folder for TensorBoard's projector.")] = None,
) -> None:
    """Draw words on a 2-D map."""
    from hfembed.evaluation.word_report import draw_words
    from hfembed.loading import load_word2vec

    draw_words(load_word2vec(model, "cpu"), words, output, method, projector)
    print(f"written to {output}")


@convert_app.command("word2vec")
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


@export_app.command("word2vec")
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


@export_app.command("gensim")
def export_gensim(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of word vectors.")],
    output: Annotated[Path, typer.Argument(help="The file to write; large matrices go beside it.")],
) -> None:
    """Write a gensim Word2Vec that goes on training, or KeyedVectors where there are no output rows."""
    from hfembed.export.gensim import export_gensim_model

    kind = export_gensim_model(model, output)
    print(f"a gensim {kind} written to {output}: load it with gensim.models.{kind}.load")


@exit_on_input_error
def main() -> None:
    """Run the command; an expected error is one line on stderr and exit code 1."""
    app()


if __name__ == "__main__":
    main()
