"""Commands for word vectors: neighbors, analogies, word forms, phrases, the odd one out, a map, compression."""

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from hfembed.atomic import atomic_folder, check_destination, check_output_folder, check_writable
from hfembed.cli import options
from hfembed.cli.commands import Answer, Commands, Hub, lazy_imports
from hfembed.errors import InputError, input_errors

with lazy_imports():
    from hfembed.checkpoint import loading
    from hfembed.words.data import corpora
    from hfembed.words.evaluation import report
    from hfembed.words.training import sentence_weights

commands = Commands("Words")


@commands.command("neighbors", "neighbours")
def neighbors(
    model: options.WordVectors,
    words: Annotated[
        list[str], typer.Argument(metavar="WORD...", help="Words; 'czech+currency' and 'king-man+woman' add up.")
    ],
    hub: Hub,
    top_k: options.TopK = 10,
    restrict_vocab: Annotated[
        int | None, typer.Option(min=1, help="Search only this many of the most frequent words.")
    ] = None,
    device: options.Device = "auto",
) -> Answer:
    """List the words with the most similar vectors."""
    vectors = loading.load_word2vec(hub.model(model), device)
    found = {}
    for text in words:
        positive, negative = report.parse_composition(text, vectors)
        with input_errors():
            found[text] = vectors.most_similar(positive, negative, top_k=top_k, restrict_vocab=restrict_vocab)
    lists = [f"{text}\n{_lines(answers)}" for text, answers in found.items()]
    return Answer({"neighbors": found}, "\n\n".join(lists))


@commands.command("analogy")
def analogy(
    model: options.WordVectors,
    a: Annotated[str, typer.Argument(help="A is to B ...")],
    b: Annotated[str, typer.Argument(help="... B,")],
    c: Annotated[str, typer.Argument(help="... as C is to ?")],
    hub: Hub,
    top_k: options.TopK = 5,
    method: Annotated[Literal["3cosadd", "3cosmul"], typer.Option(help="How candidates are scored.")] = "3cosadd",
    device: options.Device = "auto",
) -> Answer:
    """Answer 'A is to B as C is to ?': man king woman, walk walked swim."""
    vectors = loading.load_word2vec(hub.model(model), device)
    with input_errors():
        answers = vectors.analogy(a, b, c, top_k, method)
    return Answer({"answers": answers}, _lines(answers))


@commands.command("forms")
def forms(
    model: options.WordVectors,
    a: Annotated[str, typer.Argument(help="A word: walk ...")],
    form: Annotated[str, typer.Argument(metavar="A2", help="... a form of it: walked,")],
    b: Annotated[str, typer.Argument(help="... and another word: swim.")],
    hub: Hub,
    top_k: options.TopK = 5,
    device: options.Device = "auto",
) -> Answer:
    """Find the same form of another word: walk walked swim -> swam."""
    vectors = loading.load_word2vec(hub.model(model), device)
    with input_errors():
        answers = vectors.analogy(a, form, b, top_k)
    if not answers:
        raise InputError(f"the model has no words but {a}, {form} and {b}, so that there is no other form")
    return Answer({"form": answers[0][0], "answers": answers}, f"{a} : {form} = {b} : ?\n{_lines(answers)}")


@commands.command("phrase")
def phrase(
    model: options.WordVectors,
    text: Annotated[str, typer.Argument(help="Words to add: 'Czech + currency', 'Germany + capital'.")],
    hub: Hub,
    top_k: options.TopK = 5,
    device: options.Device = "auto",
) -> Answer:
    """Find what the sum of words means: 'Czech + currency' -> koruna."""
    vectors = loading.load_word2vec(hub.model(model), device)
    positive, negative = report.parse_composition(text, vectors)
    with input_errors():
        answers = vectors.most_similar(positive, negative, top_k=top_k)
    return Answer({"words": positive, "subtracted": negative, "answers": answers}, f"{text}\n{_lines(answers)}")


@commands.command("odd-one-out")
def odd_one_out(
    model: options.WordVectors,
    words: Annotated[list[str], typer.Argument(metavar="WORD...", help="Three words or more.")],
    hub: Hub,
    device: options.Device = "auto",
) -> Answer:
    """Find the word that does not belong to the others: breakfast lunch dinner car -> car."""
    if len(words) < 3:
        raise InputError(f"give three words or more, not {len(words)}")
    vectors = loading.load_word2vec(hub.model(model), device)
    with input_errors():
        odd = vectors.doesnt_match(words)
    return Answer({"odd_one_out": odd, "words": words}, odd)


@commands.command("compress-vectors")
def compress_vectors(
    model: options.WordVectors,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to write.")],
    hub: Hub,
    dims: Annotated[
        int | None, typer.Option("--dims", min=1, help="Keep this many principal components. Default: all dimensions.")
    ] = None,
    parts: Annotated[
        int | None, typer.Option(min=1, help="Bytes per word, a divisor of the dimensions. Default: half of them.")
    ] = None,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Product-quantize word vectors: a tenth of the size, for use without further training."""
    check_destination(output, overwrite, model)
    with input_errors():
        compressed = loading.load_word2vec(hub.model(model), "cpu").compress(dims, parts)
    with atomic_folder(output) as folder:
        compressed.save_pretrained(folder)
    config, size = compressed.config, (output / "model.safetensors").stat().st_size
    record = {"words": config.vocab_size, "dimensions": config.embedding_size, "bytes": size}
    text = f"{config.vocab_size} words of {config.embedding_size} dimensions, {size / 1e6:.1f} MB, written to {output}"
    return Answer.written(output, text, **record)


@commands.command("fit-weights")
def fit_weights(
    model: options.WordVectors,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to write.")],
    hub: Hub,
    corpus: Annotated[str, typer.Option(help="Text to learn from, as of hfembed train words.")],
    column: Annotated[str, typer.Option(help="Column with the text, of Parquet files and data sets.")] = "text",
    max_words: Annotated[int | None, typer.Option(min=1, help="Read only this many words.")] = None,
    steps: Annotated[int, typer.Option(min=0, help="Steps of 256 pairs of parts of a text.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the parts that are drawn.")] = 0,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Weight word vectors so that the mean over a text's words is a better vector of the text."""
    check_destination(output, overwrite, model)
    vectors = loading.load_word2vec(hub.model(model), "cpu")
    with tempfile.TemporaryDirectory() as cache:
        known = vectors.require_vocabulary()
        text = corpora.prepare_corpus(corpus, cache, vocabulary=known, column=column, max_words=max_words)
        fitted = sentence_weights.fit_weights(vectors, text, steps, seed)
    with atomic_folder(output) as folder:
        fitted.model.save_pretrained(folder)
    shares = ", ".join(f"{name} {value:.1f} %" for name, value in fitted.accuracies.items())
    text_line = f"written to {output}: parts of held-out text that find their continuation among 1,000: {shares}"
    return Answer.written(output, text_line, accuracies=fitted.accuracies)


@commands.command("map")
def word_map(
    model: options.WordVectors,
    words: Annotated[
        list[str], typer.Argument(metavar="WORD...", help="Words to draw; 'france:paris' joins two by a line.")
    ],
    output: Annotated[
        Path, typer.Option(help="The figure to write: .png, .svg, .pdf.", callback=options.check_figure)
    ],
    hub: Hub,
    method: Annotated[Literal["pca", "t-sne"], typer.Option(help="Projection to the plane.")] = "pca",
    projector: Annotated[Path | None, typer.Option(help="Also a folder for TensorBoard's projector.")] = None,
) -> Answer:
    """Draw words on a 2-D map."""
    check_writable(output)
    if projector is not None:
        check_output_folder(projector)
    report.draw_words(loading.load_word2vec(hub.model(model), "cpu"), words, output, method, projector)
    return Answer.written(output, projector=projector)


def _lines(answers: "list[tuple[str, float]]") -> str:
    return "\n".join(f"  {score:6.3f}  {word}" for word, score in answers)
