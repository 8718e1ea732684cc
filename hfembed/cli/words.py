"""Commands that ask word vectors."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer()


@app.command("neighbours")
def neighbours(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of word vectors.")],
    words: Annotated[list[str], typer.Argument(help="Words; 'czech+currency' and 'king-man+woman' compose.")],
    topn: Annotated[int, typer.Option(min=1, help="How many neighbours a word.")] = 10,
    restrict_vocab: Annotated[int | None, typer.Option(min=1, help="Search the most frequent words only.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")] = "auto",
) -> None:
    """Show the words whose vectors lie nearest."""
    from hfembed.checkpoint.loading import load_word2vec
    from hfembed.words.evaluation.report import parse_composition

    vectors = load_word2vec(model, device)
    for number, text in enumerate(words):
        positive, negative = parse_composition(text, vectors.vocabulary)
        found = vectors.most_similar(positive, negative, top_k=topn, restrict_vocab=restrict_vocab)
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
    from hfembed.checkpoint.loading import load_word2vec
    from hfembed.errors import input_errors

    vectors = load_word2vec(model, device)
    with input_errors():
        answers = vectors.analogy(a, b, c, topn, method)
    print("\n".join(f"  {score:6.3f}  {word}" for word, score in answers))


@app.command("map")
def word_map(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of word vectors.")],
    words: Annotated[list[str], typer.Argument(help="Words to draw; 'france:paris' joins two by a line.")],
    output: Annotated[Path, typer.Option(help="The picture to write (.png, .svg, .pdf).")],
    method: Annotated[Literal["pca", "t-sne"], typer.Option(help="How the plane is laid.")] = "pca",
    projector: Annotated[Path | None, typer.Option(help="Also a folder for TensorBoard's projector.")] = None,
) -> None:
    """Draw words on a 2-D map."""
    from hfembed.checkpoint.loading import load_word2vec
    from hfembed.words.evaluation.report import draw_words

    draw_words(load_word2vec(model, "cpu"), words, output, method, projector)
    print(f"written to {output}")
