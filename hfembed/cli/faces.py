"""Commands for photos of people: compare two, embed a folder, find out who somebody is."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from hfembed.faces.face_analyzer import FaceAnalyzer
    from hfembed.index.embedding_index import EmbeddingIndex

app = typer.Typer()

MODEL_VARIABLE = "HFEMBED_FACE_MODEL"

Model = Annotated[
    str | None,
    typer.Option(envvar=MODEL_VARIABLE, help="Folder or Hub id of a face analyzer, or an embedder with --detector."),
]
Detector = Annotated[
    str | None, typer.Option(help="Folder or Hub id of a face detector; default: the one in the model's folder.")
]
Far = Annotated[float | None, typer.Option(help="Decide at this false accept rate; default: at the highest accuracy.")]
Faces = Annotated[Literal["all", "largest", "only"], typer.Option(help="Of a photo with several; only: an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads, each with its own batch of photos.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Photos that go through the networks together.")]


@app.command("verify")
def verify(
    photo_a: Annotated[Path, typer.Argument(metavar="A", help="A photo.")],
    photo_b: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    model: Model = None,
    detector: Detector = None,
    far: Far = None,
    faces: Annotated[Literal["largest", "only"], typer.Option(help="Of a photo with several.")] = "largest",
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """Do two photos show one person?"""
    analyzer = _analyzer(model, detector, device)
    result = analyzer.verify(photo_a, photo_b, far, faces)
    data = analyzer.embedder.config.thresholds["data"]
    if as_json:
        print(json.dumps({**result._asdict(), "threshold_data": data}))
        return
    meaning = "the highest accuracy" if far is None else f"a false accept rate of {far:g}"
    print("the same person" if result.same else "different people")
    print(f"  cosine similarity {result.similarity:.3f}, threshold {result.threshold:.3f} for {meaning} on {data}")
    print(f"  squared distance {result.distance:.3f}, threshold {2 - 2 * result.threshold:.3f}")
    if result.probability is None:
        print("  no probability: the model's thresholds have no calibration")
    else:
        print(f"  probability of one person {result.probability:.3f}, where both were as likely before")


@app.command("embed")
def embed(
    folder: Annotated[Path, typer.Argument(help="Photos, at any depth.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The .parquet file to write.")],
    model: Model = None,
    detector: Detector = None,
    faces: Faces = "all",
    batch_size: BatchSize = 32,
    num_workers: Workers = 2,
    device: Device = "auto",
) -> None:
    """Find and embed the faces in a folder of photos: a row a face, with box, landmarks and quality."""
    from hfembed.faces.photo_folders import embed_folder
    from hfembed.photos import find_photos

    find_photos(folder)  # an empty folder is said before a model is loaded
    analyzer = _analyzer(model, detector, device)
    summary = embed_folder(analyzer, folder, output, faces, batch_size, num_workers, sys.stderr.isatty())
    _report(summary.errors)
    print(f"{summary.photos} photos, {summary.faces} faces; {len(summary.errors)} photos without; written to {output}")


@app.command("identify")
def identify(
    gallery: Annotated[str, typer.Argument(help="A folder with a directory per person, or a saved index.")],
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Whom to look for.")],
    model: Model = None,
    detector: Detector = None,
    far: Far = None,
    fpir: Annotated[
        float | None, typer.Option(help="Instead of --far: a rate that the index was calibrated for.")
    ] = None,
    template: Annotated[
        Literal["max", "mean"],
        typer.Option("--aggregation", help="Score a person by the nearest of the photos, or by their mean."),
    ] = "max",
    top_k: Annotated[int, typer.Option(min=1, help="People to list for each face.")] = 3,
    faces: Faces = "all",
    save: Annotated[Path | None, typer.Option(help="Keep the gallery's index in this folder.")] = None,
    as_json: Json = False,
    batch_size: BatchSize = 32,
    num_workers: Workers = 2,
    device: Device = "auto",
) -> None:
    """Who is in the photos? "unknown" where nobody in the gallery is near enough."""
    from hfembed.errors import InputError, input_errors

    if far is not None and fpir is not None:
        raise InputError("give --far or --fpir, not both")
    analyzer = _analyzer(model, detector, device)
    index = _gallery(gallery, analyzer, batch_size, num_workers)
    if save is not None:
        index.save(save)
    with input_errors():
        threshold = index.threshold(fpir, template) if fpir is not None else analyzer.embedder.threshold(far)
    answers, errors = [], []
    for photo in analyzer(photos, faces, batch_size, num_workers):
        for face in photo.faces:
            matches = index.search(face.embedding, top_k, template)
            people = list(zip(matches.labels[0], matches.scores[0].tolist(), strict=True))
            name = people[0][0] if people[0][1] >= threshold else None
            box = [round(float(side), 1) for side in face.box]
            answers.append({"photo": photo.name, "box": box, "name": name, "threshold": threshold, "nearest": people})
        if photo.error or not photo.faces:
            errors.append(photo.error or f"{photo.name}: no face was found")
    if as_json:
        print(json.dumps({"faces": answers, "errors": errors}))
    for answer in answers if not as_json else ():
        left, top, right, bottom = (round(side) for side in answer["box"])
        nearest = ", ".join(f"{person} {score:.3f}" for person, score in answer["nearest"])
        print(f"{answer['photo']}: {answer['name'] or 'unknown'}  (face {left},{top} to {right},{bottom})")
        print(f"  nearest: {nearest}; threshold {threshold:.3f}")
    _report(errors)
    if not answers:
        raise InputError(f"no face to identify in {len(photos)} photo{'s' if len(photos) > 1 else ''}")


@app.command("analyzer")
def analyzer(
    detector: Annotated[str, typer.Argument(help="Folder or Hub id of a face detector.")],
    embedder: Annotated[str, typer.Argument(help="Folder or Hub id of a face embedder, with its thresholds.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT where it exists.")] = False,
) -> None:
    """Put a detector and an embedder into one folder, for verify, embed and identify."""
    from hfembed.atomic import check_destination
    from hfembed.faces.face_analyzer import compose_analyzer

    check_destination(output, overwrite)
    compose_analyzer(detector, embedder, output)
    print(f"written to {output}: use it with --model {output}, or set {MODEL_VARIABLE}={output}")


def _analyzer(model: str | None, detector: str | None, device: str) -> "FaceAnalyzer":
    from hfembed.errors import InputError
    from hfembed.faces.face_analyzer import FaceAnalyzer

    if model is None:
        raise InputError(
            f"no model: give --model, or set {MODEL_VARIABLE}, to a face analyzer (hfembed analyzer makes one)"
        )
    if detector is not None:
        return FaceAnalyzer.from_models(detector, model, device)
    return FaceAnalyzer.from_pretrained(model, device)


def _gallery(gallery: str, analyzer: "FaceAnalyzer", batch_size: int, num_workers: int) -> "EmbeddingIndex":
    from hfembed.faces.photo_folders import read_gallery
    from hfembed.index.embedding_index import INDEX_FILE, EmbeddingIndex

    if Path(gallery).is_dir() and not (Path(gallery) / INDEX_FILE).exists():
        index, summary = read_gallery(analyzer, gallery, batch_size, num_workers, sys.stderr.isatty())
        _report(summary.errors)
        return index
    index = EmbeddingIndex.from_pretrained(gallery)
    index.check_origin(analyzer.origin, name=gallery)
    return index


def _report(errors: list[str]) -> None:
    """A line for each photo that failed, apart from the answers."""
    for error in errors:
        print(f"warning: {error}", file=sys.stderr)
