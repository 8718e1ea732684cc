"""The `hfembed` command: measure, convert and ask models. It never trains."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from hfembed.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure a model by a published protocol.")
convert_app = typer.Typer(no_args_is_help=True, help="Make a checkpoint folder from a foreign file.")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(convert_app, name="convert")


@app.callback()
def root() -> None:
    """Measure, convert and ask models; training lives in scripts/."""


@evaluate_app.command("lfw")
def evaluate_lfw(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of a face embedder.")],
    images: Annotated[Path, typer.Option(help="LFW's archive (.tgz, .zip) or folder.")],
    pairs: Annotated[Path, typer.Option(help="pairs.txt for View 2, pairsDevTest.txt for View 1.")],
    output: Annotated[Path, typer.Option(help="Folder for results.json, roc.png and mistakes.png.")],
    landmarks: Annotated[
        Path | None, typer.Option(help="JSON: file -> five points; without it, centre crops.")
    ] = None,
    threshold_pairs: Annotated[
        Path | None, typer.Option(help="View 1: pairsDevTrain.txt, to choose the threshold on.")
    ] = None,
    undetected: Annotated[
        Literal["error", "centre-crop"], typer.Option(help="What a null in the landmarks means.")
    ] = "error",
    mirror: Annotated[
        Literal["none", "sum", "concatenate"] | None, typer.Option(help="Test-time mirror; default: the checkpoint's.")
    ] = None,
    floor: Annotated[bool, typer.Option("--floor", help="Also score raw pixels and eigenfaces.")] = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that decode and align.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")] = "auto",
) -> None:
    """Measure a face embedder on Labeled Faces in the Wild."""
    from hfembed.evaluation.lfw import LfwVerification
    from hfembed.evaluation.lfw_report import report_lfw, summary
    from hfembed.loading import load_face_embedder

    lfw = LfwVerification(
        images, pairs, landmarks, threshold_pairs, undetected, batch_size=batch_size, num_workers=num_workers
    )
    embedder, processor = load_face_embedder(model, device)
    if mirror is not None:
        embedder.config.mirror = mirror
    files = {"images": images, "pairs": pairs, "landmarks": landmarks, "threshold_pairs": threshold_pairs}
    print(summary(lfw.name, report_lfw(lfw, embedder, processor, output, floor, files=files)))
    print(f"  written to {output}")


def main() -> None:
    """Run the command; an expected error is one line on stderr and exit code 1."""
    try:
        app()
    except InputError as error:
        sys.exit(f"hfembed: {error}")
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise  # not about a file: a fault of ours deserves its traceback
        sys.exit(f"hfembed: {error}")


if __name__ == "__main__":
    main()
