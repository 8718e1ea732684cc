"""`hfembed evaluate`: measure a model by a published protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import numpy as np
    import torch

# what several commands ask for, in the same words
FaceEmbedder = Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of a face embedder.")]
Landmarks = Annotated[Path | None, typer.Option(help="JSON: file -> five points; without it, centre crops.")]
Undetected = Annotated[Literal["error", "centre-crop"], typer.Option(help="What a null in the landmarks means.")]
BatchSize = Annotated[int, typer.Option(min=1)]
Workers = Annotated[int, typer.Option(min=0, help="Processes that decode and align.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch on a CPU: small parts gain nothing by more.")]
HeldOutShare = Annotated[float, typer.Option(help="Share of the people that training held out.")]
SplitSeed = Annotated[int, typer.Option(help="Of that split.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the accelerator.")]

app = typer.Typer(no_args_is_help=True, help="Measure a model by a published protocol.")


@app.command("lfw")
def evaluate_lfw(
    model: FaceEmbedder,
    images: Annotated[str, typer.Option(help="LFW's archive (.tgz, .zip), folder, URL or Hub id.")],
    pairs: Annotated[str, typer.Option(help="pairs.txt for View 2, pairsDevTest.txt for View 1.")],
    output: Annotated[Path, typer.Option(help="Folder for results.json, roc.png and mistakes.png.")],
    landmarks: Landmarks = None,
    detector: Annotated[
        str | None, typer.Option(help="Instead of landmarks: checkpoint folder or Hub id of a face detector.")
    ] = None,
    threshold_pairs: Annotated[
        str | None, typer.Option(help="View 1: pairsDevTrain.txt, to choose the threshold on.")
    ] = None,
    fold: Annotated[
        list[int] | None, typer.Option(help="Only this fold, from 0; repeat it for more. Default: all of them.")
    ] = None,
    undetected: Undetected = "error",
    mirror: Annotated[
        Literal["none", "sum", "concatenate"] | None, typer.Option(help="Test-time mirror; default: the checkpoint's.")
    ] = None,
    floor: Annotated[bool, typer.Option("--floor", help="Also score raw pixels and eigenfaces.")] = False,
    store_thresholds: Annotated[
        bool, typer.Option("--store-thresholds", help="Put the thresholds into MODEL's config, for model.verify().")
    ] = False,
    batch_size: BatchSize = 64,
    num_workers: Workers = 2,
    num_threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Measure a face embedder on Labeled Faces in the Wild."""
    import torch

    from hfembed.checkpoint.checkpoint import Checkpoint
    from hfembed.checkpoint.loading import load_face_detector, load_face_embedder
    from hfembed.faces.data.lfw import read_pairs
    from hfembed.faces.evaluation import lfw_report
    from hfembed.faces.evaluation.lfw import LfwVerification

    torch.set_num_threads(num_threads)
    embedder, processor = load_face_embedder(model, device)
    if mirror is not None:
        embedder.config.mirror = mirror
    face_detector = load_face_detector(detector, device)[0] if detector else None
    chosen = read_pairs(pairs).in_folds(fold) if fold else pairs
    lfw = LfwVerification(
        images,
        chosen,
        landmarks,
        threshold_pairs,
        undetected,
        batch_size=batch_size,
        num_workers=num_workers,
        detector=face_detector,
    )
    files = {
        "images": images,
        "pairs": pairs,
        "landmarks": landmarks,
        "detector": detector,
        "threshold_pairs": threshold_pairs,
    }
    report = lfw_report.report_lfw(lfw, embedder, processor, output, floor, files=files)
    print(lfw_report.summary(lfw.name, report))
    print(f"  written to {output}")
    if store_thresholds:
        Checkpoint.resolve(model).store_thresholds(report[lfw.name]["thresholds"], mirror=embedder.config.mirror)


@app.command("identification")
def evaluate_identification(
    model: FaceEmbedder,
    images: Annotated[str, typer.Option(help="Folder with a folder a person, its archive, Parquet or a Hub id.")],
    output: Annotated[Path, typer.Option(help="Folder for results.json, cmc.png, det.png and a ROC curve.")],
    landmarks: Landmarks = None,
    undetected: Undetected = "error",
    distractors: Annotated[
        str | None, typer.Option(help="Photos of other people, for MegaFace's challenge 1; as --images.")
    ] = None,
    distractor_landmarks: Annotated[Path | None, typer.Option(help="As --landmarks, for the distractors.")] = None,
    index: Annotated[
        Path | None, typer.Option(help="Keep the embeddings in this EmbeddingIndex, and take them from it next time.")
    ] = None,
    store_thresholds: Annotated[
        bool, typer.Option("--store-thresholds", help="Put the thresholds of all pairs into MODEL's config.")
    ] = False,
    batch_size: BatchSize = 64,
    num_workers: Workers = 2,
    num_threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Measure how well a face embedder finds people again: closed set, open set, all pairs, BLUFR, MegaFace."""
    import torch

    from hfembed.checkpoint.checkpoint import Checkpoint
    from hfembed.checkpoint.loading import load_face_embedder
    from hfembed.faces.evaluation import identification_report
    from hfembed.faces.evaluation.people_embeddings import embed_people

    torch.set_num_threads(num_threads)
    embedder, processor = load_face_embedder(model, device)
    settings = {"undetected": undetected, "batch_size": batch_size, "num_workers": num_workers}
    tested = embed_people(embedder, processor, images, landmarks, index, **settings)
    others = None
    if distractors is not None:
        others = embed_people(embedder, processor, distractors, distractor_landmarks, **settings).embeddings
    report = identification_report.report_identification(
        tested,
        output,
        data=Path(images).name,
        model=model,
        distractors=others,
        data_files={"images": images, "landmarks": landmarks, "distractors": distractors},
    )
    print(identification_report.summary(report))
    print(f"  written to {output}")
    if store_thresholds:
        Checkpoint.resolve(model).store_thresholds(report["thresholds"], mirror=embedder.config.mirror)


@app.command("denoising")
def evaluate_denoising(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of a denoising autoencoder.")],
    images: Annotated[str, typer.Option(help="A folder per person, its archive, URL or Hub id.")],
    output: Annotated[Path, typer.Option(help="Folder for results.json and the pictures.")],
    sigma: Annotated[list[float] | None, typer.Option(help="Gaussian noise, pixels in [0, 1]; may repeat.")] = None,
    hole: Annotated[list[int] | None, typer.Option(help="Side of a square hole, in pixels; may repeat.")] = None,
    held_out_share: HeldOutShare = 0.1,
    split_seed: SplitSeed = 0,
    seed: Annotated[int, typer.Option(help="Of the noise and the places of holes.")] = 0,
    max_images: Annotated[int, typer.Option(min=0, help="At most so many held-out images; 0 = all.")] = 0,
    device: Device = "auto",
) -> None:
    """Measure a denoiser on held-out people, beside non-local means, total variation, Wiener, biharmonic."""
    from hfembed.checkpoint.loading import load_autoencoder
    from hfembed.errors import InputError, input_errors
    from hfembed.faces.data.aligned_faces import AlignedFaces
    from hfembed.faces.data.faces import load_faces
    from hfembed.faces.data.splits import split_people
    from hfembed.images.evaluation.denoising import DenoisingTest, InpaintingTest, report_denoising

    if not sigma and not hole:
        raise InputError("say what to test: --sigma 0.1, --hole 16, or both")
    autoencoder, processor = load_autoencoder(model, device)
    rest, chosen = split_people(load_faces(images), held_out_share, split_seed)
    held_out = AlignedFaces(chosen, processor).pixels()
    held_out = held_out[:max_images] if max_images else held_out
    known = AlignedFaces(rest, processor).pixels()
    with input_errors():
        tests = [DenoisingTest(held_out, known, value, seed) for value in sigma or []]
        tests += [InpaintingTest(held_out, known, size, seed) for size in hole or []]
        metrics = report_denoising(tests, autoencoder, output, {"images": images})
    for name, value in metrics.items():
        print(f"{name:48}{value:8.3f}")
    print(f"  written to {output}")


@app.command("reconstruction")
def evaluate_reconstruction(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of an autoencoder.")],
    images: Annotated[str, typer.Option(help="What it was trained on: a folder per person, its archive, a Hub id.")],
    output: Annotated[Path, typer.Option(help="Folder for results.json and reconstructions.png.")],
    held_out_share: Annotated[
        float | None, typer.Option(help="Measure on this share of the people; default: the checkpoint's, else 0.1.")
    ] = None,
    split_seed: Annotated[
        int | None, typer.Option(help="Seed of who they are; default: the checkpoint's, else 0.")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="Face embedder that says how much of a person is kept; needs landmarks.")
    ] = None,
    landmarks: Annotated[Path | None, typer.Option(help="JSON: file -> five points in the photo.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="LFW's pairs.txt: also verify people on reconstructions.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Photos to draw.")] = 12,
    num_threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Measure an autoencoder on held-out people, beside PCA with as many numbers."""
    import torch

    from hfembed.checkpoint.checkpoint import Checkpoint
    from hfembed.checkpoint.loading import load_autoencoder, load_face_embedder
    from hfembed.errors import InputError
    from hfembed.faces.data.lfw import read_pairs
    from hfembed.images.evaluation import reconstruction_report

    torch.set_num_threads(num_threads)
    autoencoder, processor = load_autoencoder(model, device)
    if embedder is not None and landmarks is None:
        raise InputError("--embedder needs --landmarks: where the faces are in the photos")
    if pairs is not None and embedder is None:
        raise InputError("--pairs needs --embedder: whose embeddings are compared")
    judge = None
    if embedder is not None:
        tested = None if pairs is None else read_pairs(pairs)
        judge = reconstruction_report.make_judge(*load_face_embedder(embedder, device), landmarks, tested)
    split = Checkpoint.resolve(model).split
    report = reconstruction_report.report_reconstruction(
        *(autoencoder, processor, images, output),
        held_out_share=split.get("held_out_share", 0.1) if held_out_share is None else held_out_share,
        split_seed=split.get("seed", 0) if split_seed is None else split_seed,
        judge=judge,
        pictures=pictures,
    )
    print(reconstruction_report.summary(report))
    print(f"  written to {output}")


@app.command("compression")
def evaluate_compression(
    model: Annotated[str, typer.Argument(help="Autoencoder with latent statistics, checkpoint folder or Hub id.")],
    images: Annotated[str, typer.Option(help="A folder per person, its archive, URL or Hub id.")],
    output: Annotated[Path, typer.Option(help="Folder for results.json and rates.png.")],
    held_out_share: HeldOutShare = 0.1,
    split_seed: SplitSeed = 0,
    max_images: Annotated[int, typer.Option(min=1, help="At most so many held-out images, spread evenly.")] = 300,
    device: Device = "auto",
) -> None:
    """Bytes against quality on held-out people: compressed latents, JPEG, WebP."""
    from hfembed.checkpoint.loading import load_autoencoder
    from hfembed.faces.data.aligned_faces import AlignedFaces
    from hfembed.faces.data.faces import load_faces
    from hfembed.faces.data.splits import split_people
    from hfembed.images.compression import LatentCodec
    from hfembed.images.evaluation.compression import report_rates
    from hfembed.images.latent_statistics import LatentStatistics

    autoencoder, processor = load_autoencoder(model, device)
    codec = LatentCodec(autoencoder, LatentStatistics.load(model))
    _, held_out = split_people(load_faces(images), held_out_share, split_seed)
    pixels = processor.normalize(AlignedFaces(held_out, processor).pixels(max_images))
    print(f"{'':8}{'quality':>8}{'file bytes':>12}{'data bytes':>12}{'PSNR':>8}{'SSIM':>8}")
    for point in report_rates(codec, pixels, output, {"images": images}):
        print(
            f"{point.method:8}{point.quality:8}{point.file_bytes:12.0f}{point.data_bytes:12.0f}"
            f"{point.psnr:8.2f}{point.ssim:8.3f}"
        )
    print(f"  written to {output}")


@app.command("generation")
def evaluate_generation(
    models: Annotated[list[str], typer.Argument(help="Autoencoders with latent statistics, folders or Hub ids.")],
    embedder: Annotated[str, typer.Option(help="Face embedder whose features are compared, folder or Hub id.")],
    images: Annotated[str, typer.Option(help="A folder per person, its archive, URL or Hub id.")],
    landmarks: Annotated[Path, typer.Option(help="JSON: file -> five points; their mean says where faces lie.")],
    output: Annotated[Path, typer.Option(help="Folder for results.json.")],
    held_out_share: HeldOutShare = 0.1,
    split_seed: SplitSeed = 0,
    max_images: Annotated[int, typer.Option(min=2, help="Images of a draw, at most those held out.")] = 2000,
    draws: Annotated[int, typer.Option(min=1, help="Draws of each method, averaged.")] = 5,
    device: Device = "auto",
) -> None:
    """Frechet distance of made-up faces to held-out ones: mixtures, priors, and Gaussians over pixels."""
    from hfembed.checkpoint.loading import load_autoencoder, load_face_embedder
    from hfembed.faces.data.aligned_faces import AlignedFaces
    from hfembed.faces.data.faces import FaceSource, load_faces
    from hfembed.faces.data.splits import split_people
    from hfembed.images.evaluation.generation import mean_face_points, report_generation
    from hfembed.images.films import to_pictures

    loaded = {name: load_autoencoder(name, device) for name in models}
    autoencoders = {name: autoencoder for name, (autoencoder, _) in loaded.items()}
    processor = loaded[models[0]][1]
    face_embedder, aligner = load_face_embedder(embedder, device)
    face_embedder.config.mirror = "none"  # one view will do to compare distributions
    face_embedder = face_embedder.optimize_for_inference()
    faces = load_faces(FaceSource(images, landmarks=landmarks))
    points = mean_face_points(faces, processor)
    known, held_out = (
        processor.normalize(AlignedFaces(side, processor).pixels())
        for side in split_people(faces.remove_columns("landmarks"), held_out_share, split_seed)
    )

    def embed(crops: "torch.Tensor") -> "np.ndarray":
        photos = list(to_pictures(crops))
        pixels = aligner(photos, landmarks=[points] * len(photos)).pixel_values
        return face_embedder.embed(pixels.to(face_embedder.device)).cpu().numpy()

    files = {"images": images, "landmarks": landmarks}
    distances = report_generation(autoencoders, embed, held_out[:max_images], known, output, files, draws)
    print(f"{'Frechet distance to held-out faces':64}{'mean':>8}")
    for name, values in distances.items():
        print(f"  {name:62}{sum(values) / len(values):8.3f}")
    print(f"  written to {output}")


@app.command("words")
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
    device: Device = "auto",
) -> None:
    """Measure word vectors by analogies and by word pairs rated by people."""
    from hfembed.checkpoint.loading import load_word2vec
    from hfembed.words.evaluation.report import report_words
    from hfembed.words.evaluation.word_tests import WordTests

    tests = WordTests(analogies or [], word_pairs or [], restrict_vocab, fold_case, unknown_is_wrong, method)
    print(report_words(tests, load_word2vec(model, device), output))
    print(f"  written to {output}")


@app.command("swap", context_settings={"allow_extra_args": True})
def evaluate_swap(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of a face swap model.")],
    people: Annotated[list[str], typer.Option(help="The folders of people it was trained with: --people DIR DIR.")],
    embedder: Annotated[str, typer.Option(help="Face embedder that measures; not the one that judged in training.")],
    output: Annotated[Path, typer.Option(help="Folder for results.json, swaps.png and pose_distance.png.")],
    detector: Annotated[
        str | None, typer.Option(help="Face detector: also measure poses, which needs landmarks in the swaps.")
    ] = None,
    num_threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Measure a face swap model on the photos of its people that it was not trained on."""
    import torch

    from hfembed.checkpoint.checkpoint import Checkpoint
    from hfembed.checkpoint.files import TRAINING_FILE
    from hfembed.checkpoint.loading import load_face_detector, load_face_embedder, load_face_swap
    from hfembed.faces.swap.evaluation import SwapEvaluation
    from hfembed.faces.swap.report import read_sides, report_swap, summary

    torch.set_num_threads(num_threads)
    swapper, processor = load_face_swap(model, device)
    judge, judge_processor = load_face_embedder(embedder, device)
    finder = None
    if detector is not None:
        finder, _ = load_face_detector(detector, device)
    notes = Checkpoint.resolve(model).folder / TRAINING_FILE
    # click takes one value an option: the other folders after --people arrive as extra arguments
    trained, tested = read_sides(notes, [*people, *context.args], swapper, processor)
    evaluation = SwapEvaluation(trained, tested, judge, judge_processor, finder)
    print(summary(report_swap(evaluation, swapper, processor, output, {"model": model, "embedder": embedder})))
    print(f"  written to {output}")
