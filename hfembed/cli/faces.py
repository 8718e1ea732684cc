"""Commands for photos of people: compare, embed, identify, group, explain."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hfembed.atomic import check_destination, check_output_folder, check_writable
from hfembed.cli import options
from hfembed.cli.commands import Answer, Commands, Hub, lazy_imports, warn
from hfembed.errors import InputError, counted, input_errors
from hfembed.index.min_quality import MIN_QUALITY

with lazy_imports():
    from hfembed import photos as photo_files
    from hfembed import threads
    from hfembed.checkpoint import loading
    from hfembed.faces import clustering, default_model, detection, face_analyzer, photo_folders, projection_plot
    from hfembed.faces.data import faces as face_data
    from hfembed.faces.data import landmarks as landmark_files
    from hfembed.faces.evaluation import detection as central_faces
    from hfembed.faces.evaluation import occlusion
    from hfembed.index import embedding_index

commands = Commands("Faces")

_NAMED = 5  # photos without a face

Photo = Annotated[Path, typer.Argument(help="A photo.")]
OtherPhoto = Annotated[Path, typer.Argument(help="Another photo.")]
Aligned = Annotated[bool, typer.Option("--aligned", help="The photos are cropped faces already: no detector.")]
BatchThreads = Annotated[
    int | None,
    typer.Option("--num-threads", min=1, help="Threads, each with its own batch of photos; default: one per core."),
]


@commands.command("verify")
def verify(
    a: Photo,
    b: OtherPhoto,
    hub: Hub,
    model: options.Analyzer = None,
    detector: options.Detector = None,
    turned: options.Turned = False,
    max_image_size: options.MaxImageSize = None,
    far: options.Far = None,
    faces: Annotated[Literal["largest", "only"], typer.Option(help="Of a photo with several.")] = "largest",
    min_quality: options.MinQuality = MIN_QUALITY,
    device: options.Device = "auto",
) -> Answer:
    """Decide whether two photos show the same person."""
    photo_files.check_photos(a, b)
    analyzer = _load_analyzer(model, detector, device, hub, turned, max_image_size)
    result = analyzer.verify(a, b, far, faces, min_quality=min_quality)
    data = (analyzer.embedder.config.thresholds or {})["data"]
    meaning = "the highest accuracy" if far is None else f"a false accept rate of {far:g}"
    lines = [
        "the same person" if result.same else "different people",
        f"  cosine similarity {result.similarity:.3f}, threshold {result.threshold:.3f} for {meaning} on {data}",
        f"  squared distance {result.distance:.3f}, threshold {2 - 2 * result.threshold:.3f}",
    ]
    if result.probability is None:
        lines.append("  no probability: the model's thresholds have no calibration")
    else:
        lines.append(f"  probability of the same person {result.probability:.3f}, with equal priors")
    lines.append(f"  quality of the worse face {result.quality:.2f}")
    lines += [
        f"  {photo}: {count} faces, of which the largest was compared (--faces only refuses such a photo)"
        for photo, count in zip((a, b), result.found or (), strict=False)
        if count > 1
    ]
    return Answer({**result._asdict(), "threshold_data": data}, "\n".join(lines))


@commands.command("embed")
def embed(
    folder: Annotated[Path, typer.Argument(help="Folder of photos, at any depth.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The .parquet file to write.")],
    hub: Hub,
    model: options.Analyzer = None,
    detector: options.Detector = None,
    turned: options.Turned = False,
    max_image_size: options.MaxImageSize = None,
    faces: options.Faces = "all",
    min_quality: options.MinQuality = MIN_QUALITY,
    batch_size: options.BatchSize = 32,
    num_threads: BatchThreads = None,
    device: options.Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was killed.")] = False,
) -> Answer:
    """Detect and embed the faces in a folder of photos: one row per face, with box, landmarks and quality."""
    if output.suffix.lower() != ".parquet":  # a photo's name, mistyped, would replace the photo
        raise InputError(f"{output} does not end in .parquet; name the table to write")
    check_writable(output)
    listing = photo_files.find_photos(folder)  # an empty folder is reported before a model is loaded
    analyzer = _load_analyzer(model, detector, device, hub, turned, max_image_size)
    try:
        summary = photo_folders.embed_folder(
            analyzer,
            listing,
            output,
            faces,
            batch_size,
            num_threads or "auto",
            sys.stderr.isatty(),
            min_quality,
            resume,
        )
    except KeyboardInterrupt:
        warn(f"interrupted; what is done is in {output}.partial: the same command with --resume goes on")
        raise
    _warn(summary.errors + summary.set_aside)
    return Answer(
        {**summary._asdict(), "output": output},
        f"{counted(summary.photos, 'photo')}, {counted(summary.faces, 'face')}, "
        f"{counted(len(summary.errors), 'photo')} without one; "
        f"written to {output}",
    )


@commands.command("landmarks")
def landmarks(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Photos of people: folder, archive, RecordIO, Parquet, tars, Hub id.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The .json file to write.")],
    hub: Hub,
    detector: Annotated[
        str | None, typer.Option(help="A face detector, folder or Hub id; default: the default face model's.")
    ] = None,
    num_threads: BatchThreads = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
) -> Answer:
    """Find five points of the face at the center of each photo, for training (--train_landmarks) and evaluation."""
    if output.suffix.lower() != ".json":
        raise InputError(f"{output} does not end in .json; name the file to write")
    check_destination(output, overwrite, source)
    photos = face_data.load_faces(source)
    finder, _ = loading.load_face_detector(hub.face_detector(detector), device)
    found = central_faces.detect_landmarks(finder, photos, num_threads or "auto", sys.stderr.isatty())
    without = {file: points for file, points in found.items() if isinstance(points, str)}
    _warn([reason if file in reason else f"{file}: {reason}" for file, reason in list(without.items())[:_NAMED]])
    if len(without) > _NAMED:
        warn(f"{len(without) - _NAMED:,} more have null in {output}")
    unread = sum(reason != central_faces.NO_FACE for reason in without.values())
    points = {file: None if isinstance(detection, str) else detection for file, detection in found.items()}
    landmark_files.write_landmarks(output, points)
    return Answer.written(
        output,
        f"{counted(len(found), 'photo')}, {len(without) - unread:,} without a face"
        + (f", {unread:,} that cannot be read" if unread else "")
        + f"; written to {output}",
        photos=len(found),
        without_face=len(without) - unread,
        unreadable=unread,
    )


@commands.command("identify")
def identify(
    gallery: Annotated[str, typer.Argument(help="A folder with a directory per person, or a saved index.")],
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Photos of the people to name.")],
    hub: Hub,
    model: options.Analyzer = None,
    detector: options.Detector = None,
    turned: options.Turned = False,
    max_image_size: options.MaxImageSize = None,
    far: options.Far = None,
    fpir: Annotated[
        float | None, typer.Option(help="Instead of --far: a rate that the index was calibrated for.")
    ] = None,
    aggregation: Annotated[
        Literal["max", "mean"], typer.Option(help="Compare with a person's most similar photo, or with their mean.")
    ] = "max",
    top_k: options.TopK = 3,
    faces: options.Faces = "all",
    min_quality: options.MinQuality = MIN_QUALITY,
    save: Annotated[Path | None, typer.Option(help="Also write the gallery's index into this folder.")] = None,
    batch_size: options.BatchSize = 32,
    num_threads: BatchThreads = None,
    device: options.Device = "auto",
) -> Answer:
    """Name the people in photos; "unknown" if nobody in the gallery is similar enough."""
    if far is not None and fpir is not None:
        raise InputError("give --far or --fpir, not both")
    if save is not None:
        check_output_folder(embedding_index.check_index_folder(save))
    photo_files.check_photos(*photos)
    if fpir is not None and _is_folder_of_people(gallery):
        raise InputError(
            f"--fpir needs an index that was calibrated, and {gallery} is a folder of photos: give --far, or --save "
            "its index, calibrate that (EmbeddingIndex.calibrate) and name it instead"
        )
    analyzer = _load_analyzer(model, detector, device, hub, turned, max_image_size)
    if fpir is None:
        with input_errors():
            analyzer.embedder.threshold(far)  # what cannot be decided at the end should fail before the work
    index = _load_gallery(gallery, analyzer, batch_size, num_threads or "auto", min_quality, hub)
    with input_errors():
        threshold = index.threshold(fpir, aggregation) if fpir is not None else analyzer.embedder.threshold(far)
    if save is not None:
        index.save(save)
    answers: list[dict[str, Any]] = []
    set_aside: list[dict[str, Any]] = []
    errors, lines, left_out = [], [], []
    for photo in analyzer.stream(photos, faces, batch_size, num_threads or "auto", min_quality=min_quality):
        for face in photo.faces:
            matches = index.search(face.embedding, top_k, aggregation)
            nearest = list(zip(matches.labels[0], matches.scores[0].tolist(), strict=True))
            name = nearest[0][0] if nearest[0][1] >= threshold else None
            place = _place(photo, face)
            answers.append(
                {
                    **place,
                    "name": name,
                    "threshold": threshold,
                    "nearest": nearest,
                    "quality": face.quality.overall,
                }
            )
            left, top, right, bottom = (round(side) for side in place["box"])
            lines.append(f"{photo.name}: {name or 'unknown'}  (face {left},{top} to {right},{bottom})")
            scores = ", ".join(f"{person} {score:.3f}" for person, score in nearest)
            lines.append(f"  nearest: {scores}; threshold {threshold:.3f}")
        set_aside += [
            {**_place(photo, face), "quality": face.quality.overall, "weakness": face.quality.weakness}
            for face in photo.set_aside
        ]
        if photo.problem:
            errors.append(photo.problem)
        elif line := face_analyzer.describe_set_aside(photo):
            left_out.append(f"{line}; --min-quality 0 takes all")
    _warn(errors + left_out)
    if not answers:
        raise InputError(f"no face to identify in {counted(len(photos), 'photo')}")
    return Answer({"faces": answers, "errors": errors, "set_aside": set_aside}, "\n".join(lines))


@commands.command("analyzer")
def analyzer(
    detector: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of a face detector.")],
    embedder: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of a face embedder with thresholds.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    hub: Hub,
    overwrite: options.Overwrite = False,
) -> Answer:
    """Put a detector and an embedder into one folder, for verify, embed and identify."""
    check_destination(output, overwrite, detector, embedder)
    checkpoint = hub.model(embedder)
    face_analyzer.compose_analyzer(hub.other_model(detector), checkpoint, output)
    if checkpoint.thresholds is None:
        warn(
            f"{embedder} has no thresholds, so verify and identify cannot decide with it; measure it on photos of "
            f"people it was not trained on, `hfembed evaluate identification {embedder} --images PEOPLE --output OUT "
            "--store-thresholds`, or on LFW (evaluate lfw), and put the two together again"
        )
    text = f"written to {output}: use it with --model {output}, or set {default_model.MODEL_VARIABLE}={output}"
    return Answer.written(output, text)


@commands.command("group")
def group(
    folder: Annotated[Path, typer.Argument(help="Folder of photos, without names.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the contact sheets; open its index.html.")],
    hub: Hub,
    model: options.AnalyzerOrEmbedder = None,
    aligned: Aligned = False,
    turned: options.Turned = False,
    max_image_size: options.MaxImageSize = None,
    far: Annotated[
        float | None, typer.Option(help="Merge groups at the threshold of this false accept rate; default: 1e-3.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Instead: merge groups whose mean cosine is at least this.")
    ] = None,
    min_quality: options.MinQuality = MIN_QUALITY,
    map_method: Annotated[
        Literal["t-sne", "umap", "pca", "none"], typer.Option("--map", help="Projection of map.png.")
    ] = "t-sne",
    device: options.Device = "auto",
) -> Answer:
    """Group the faces of a folder by person, with one contact sheet per group."""
    clustering.check_output(output)
    check_output_folder(output)
    listing = photo_files.find_photos(folder)  # this and what follows is reported before a model is loaded
    clustering.check_count(len(listing.photos))
    if map_method != "none":
        projection_plot.check_method(map_method)
    checkpoint = hub.face_model(model)
    chosen = clustering.choose_threshold(checkpoint.thresholds, far) if threshold is None else threshold
    search = detection.Search(turned or None, max_image_size)
    faces = detection.read_face_crops(
        listing, checkpoint, aligned, device=device, min_quality=min_quality, search=search
    )
    groups = clustering.group_embeddings(faces.embeddings, chosen, faces.files)
    clustering.write_groups(faces, groups, output, None if map_method == "none" else map_method)
    sizes = [int((groups == number).sum()) for number in range(int(groups.max()) + 1)]
    alone = sizes.count(1)
    lines = [
        f"{counted(len(groups), 'face')} at cosine {chosen:.3f}: "
        f"{counted(len(sizes) - alone, 'group')}, {counted(alone, 'face')} alone"
    ]
    lines += [f"  no face from {file}: {reason}" for file, reason in list(faces.failures.items())[:10]]
    if len(faces.failures) > 10:
        lines.append(f"  and {len(faces.failures) - 10} more, in index.html")
    if faces.set_aside:
        lines.append(
            f"  set aside in {counted(len(faces.set_aside), 'photo')} with other faces (--min-quality 0 takes all):"
        )
        lines += [f"    {line}" for line in faces.set_aside[:10]]
    lines.append(f"  written to {output}/index.html")
    record = {
        "threshold": chosen,
        "faces": [{"file": file, "group": int(number)} for file, number in zip(faces.files, groups, strict=True)],
        "errors": faces.failures,
        "set_aside": faces.set_aside,
        "output": output,
    }
    return Answer(record, "\n".join(lines))


@commands.command("explain")
def explain(
    a: Photo,
    b: OtherPhoto,
    output: options.Figure,
    hub: Hub,
    model: options.AnalyzerOrEmbedder = None,
    aligned: Aligned = False,
    turned: options.Turned = False,
    max_image_size: options.MaxImageSize = None,
    patch: Annotated[int, typer.Option(min=1, help="Side of the covering square, in pixels of the crop.")] = 24,
    stride: Annotated[int, typer.Option(min=1, help="Step between its positions, in pixels.")] = 8,
    min_quality: options.MinQuality = MIN_QUALITY,
    device: options.Device = "auto",
) -> Answer:
    """Draw which regions make two faces similar, by covering them one by one."""
    check_writable(output, a, b)
    photo_files.check_photos(a, b)
    with input_errors():
        embedder, processor, crop_a, crop_b = detection.read_face_pair(
            a, b, hub.face_model(model), aligned, device, min_quality, detection.Search(turned or None, max_image_size)
        )
        map_a, similarity = occlusion.occlusion_map(embedder, processor, crop_a, crop_b, patch, stride)
        map_b, _ = occlusion.occlusion_map(embedder, processor, crop_b, crop_a, patch, stride)
    names = photo_files.utf8_name(a.name), photo_files.utf8_name(b.name)
    occlusion.plot_occlusion((crop_a, crop_b), (map_a, map_b), similarity, names, output)
    return Answer(
        {"similarity": similarity, "output": output}, f"cosine similarity {similarity:.3f}; written to {output}"
    )


def _load_analyzer(
    model: str | None,
    detector: str | None,
    device: str,
    hub: Hub,
    turned: bool,
    max_image_size: int | None,
) -> "face_analyzer.FaceAnalyzer":
    checkpoint = hub.face_model(model)
    if detector is not None:
        analyzer = face_analyzer.FaceAnalyzer.from_models(hub.other_model(detector), checkpoint, device)
    else:
        analyzer = face_analyzer.FaceAnalyzer.from_pretrained(checkpoint, device=device)
    with input_errors():
        analyzer.detector.change_search(turned or None, max_image_size)
    return analyzer


def _load_gallery(
    gallery: str,
    analyzer: "face_analyzer.FaceAnalyzer",
    batch_size: int,
    num_threads: "threads.NumThreads",
    min_quality: float,
    hub: Hub,
) -> "embedding_index.EmbeddingIndex":
    if _is_folder_of_people(gallery):
        index, summary = photo_folders.read_gallery(
            analyzer, gallery, batch_size, num_threads, sys.stderr.isatty(), min_quality
        )
        _warn(summary.errors)
        return index
    index = embedding_index.EmbeddingIndex.from_pretrained(gallery, token=hub.token)
    index.check_origin(analyzer.origin, name=gallery)
    return index


def _place(photo: "face_analyzer.AnalyzedPhoto", face: "face_analyzer.Face") -> dict[str, Any]:
    return {"photo": photo.name, "box": [round(float(side), 1) for side in face.box]}


def _is_folder_of_people(gallery: str) -> bool:
    return Path(gallery).is_dir() and not (Path(gallery) / embedding_index.INDEX_FILE).exists()


def _warn(errors: list[str]) -> None:
    for error in errors:
        warn(error)
