"""Commands for word vectors: neighbors, analogies, a map."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hfembed.atomic import check_output_folder, check_writable
from hfembed.cli import options
from hfembed.cli.commands import Answer, Commands, Hub, lazy_imports
from hfembed.errors import input_errors

with lazy_imports():
    from hfembed.checkpoint import loading
    from hfembed.words.evaluation import report

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
        positive, negative = report.parse_composition(text, vectors.require_vocabulary())
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


@commands.command("map")
def word_map(
    model: options.WordVectors,
    words: Annotated[
        list[str], typer.Argument(metavar="WORD...", help="Words to draw; 'france:paris' joins two by a line.")
    ],
    output: Annotated[Path, typer.Option(help="The figure to write: .png, .svg, .pdf.")],
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
