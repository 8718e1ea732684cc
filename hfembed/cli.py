"""The `hfembed` command: measure, convert and ask models. It never trains."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hfembed.errors import exit_on_input_error

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
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")] = "auto",
) -> None:
    """Measure a face embedder on Labeled Faces in the Wild."""
    from hfembed.data.lfw import read_pairs
    from hfembed.evaluation import lfw_report
    from hfembed.evaluation.lfw import LfwVerification
    from hfembed.loading import load_face_embedder

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


@exit_on_input_error
def main() -> None:
    """Run the command; an expected error is one line on stderr and exit code 1."""
    app()


if __name__ == "__main__":
    main()
