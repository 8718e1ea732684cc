"""`hfembed evaluate`: measure a model by a published protocol."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hfembed.allocator import keep_freed_memory
from hfembed.atomic import check_output_folder
from hfembed.cli import options
from hfembed.cli.commands import Answer, Commands, Hub, lazy_imports, torch, warn
from hfembed.errors import InputError, input_errors

with lazy_imports():
    import numpy as np

    from hfembed import threads
    from hfembed.checkpoint import loading
    from hfembed.faces import default_model
    from hfembed.faces.data import aligned_faces, faces, lfw, splits, spread_rows
    from hfembed.faces.evaluation import identification_report, lfw_report, people_embeddings, templates, wider_face
    from hfembed.faces.evaluation import lfw as lfw_protocol
    from hfembed.faces.swap import evaluation as swap_evaluation
    from hfembed.faces.swap import report as swap_report
    from hfembed.images import compression, latent_statistics, pictures
    from hfembed.images.evaluation import compression as compression_evaluation
    from hfembed.images.evaluation import denoising, generation, reconstruction_report
    from hfembed.training import distributed
    from hfembed.words.evaluation import mteb_tasks, word_tests
    from hfembed.words.evaluation import report as words_report
    from hfembed.words.evaluation import weat as bias
if TYPE_CHECKING:
    from hfembed.checkpoint.checkpoint import Checkpoint
    from hfembed.models.autoencoder_base import AutoencoderModelBase
    from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor

commands = Commands(help="Measure a model by a published protocol.")

_EMBEDDER = "Checkpoint folder or Hub id of a face embedder"
StoreThresholds = Annotated[
    bool, typer.Option("--store-thresholds", help="Write the thresholds into MODEL's config, for model.verify().")
]
IdentityJudge = Annotated[
    str | None,
    typer.Option(help=f"{_EMBEDDER} that measures how well identity is kept; needs --landmarks or --aligned."),
]
PointsInPhotos = Annotated[Path | None, typer.Option(help="JSON: file -> five points in the photo.")]
OnTemplate = Annotated[
    bool, typer.Option("--aligned", help="Photos are crops on the standard 112 x 112 template: no landmarks.")
]


@commands.command("lfw")
def evaluate_lfw(
    images: Annotated[str, typer.Option(help="LFW's archive (.tgz, .zip), folder, URL or Hub id.")],
    pairs: Annotated[str, typer.Option(help="pairs.txt for View 2, pairsDevTest.txt for View 1.")],
    output: options.Report,
    hub: Hub,
    model: options.FaceEmbedder = None,
    landmarks: options.Landmarks = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Instead of landmarks: checkpoint folder or Hub id of a face detector. Without MODEL: the default's."
        ),
    ] = None,
    threshold_pairs: Annotated[
        str | None, typer.Option(help="View 1: pairsDevTrain.txt, to choose the threshold on.")
    ] = None,
    fold: Annotated[
        list[int] | None, typer.Option(help="Only this fold, from 0; repeat it for more. Default: all of them.")
    ] = None,
    undetected: options.Undetected = "error",
    mirror: Annotated[
        Literal["none", "sum", "concatenate"] | None, typer.Option(help="Test-time mirror; default: the checkpoint's.")
    ] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option(help="A list of photos, male_names.txt: also error rates for this group; repeat it for others."),
    ] = None,
    baselines: Annotated[bool, typer.Option("--baselines", help="Also score raw pixels and eigenfaces.")] = False,
    store_thresholds: StoreThresholds = False,
    batch_size: options.BatchSize = 64,
    num_workers: options.Workers = None,
    num_threads: options.Threads = 1,
    device: options.Device = "auto",
) -> Answer:
    """Measure a face embedder on Labeled Faces in the Wild."""
    checkpoint = _prepare(hub.face_model, model, output, num_threads, store_thresholds)
    embedder, processor = loading.load_face_embedder(checkpoint, device)
    if mirror is not None:
        embedder.config.mirror = mirror
    found = None if detector is None else hub.other_model(detector)
    if model is None and landmarks is None and found is None:
        found = checkpoint.detector
    finder = None if found is None else loading.load_face_detector(found, device)[0]
    protocol = lfw_protocol.LfwVerification(
        images,
        lfw.read_pairs(pairs).in_folds(fold) if fold else pairs,
        landmarks,
        threshold_pairs,
        undetected,
        batch_size=batch_size,
        num_workers=threads.available_cores() if num_workers is None else num_workers,
        detector=finder,
        groups=groups or (),
    )
    files = {
        "images": images,
        "pairs": pairs,
        "landmarks": landmarks,
        "detector": detector,
        "threshold_pairs": threshold_pairs,
        **{f"group_{Path(file).stem}": file for file in groups or ()},
    }
    report = lfw_report.report_lfw(protocol, embedder, processor, output, baselines, files=files)
    if store_thresholds:
        checkpoint.store_thresholds(report[protocol.name]["thresholds"], mirror=embedder.config.mirror)
    return _answer(report, output, lfw_report.summary(protocol.name, report))


@commands.command("pairs")
def evaluate_pairs(
    sets: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="insightface's lfw.bin ... or a folder of them; Parquet or a Hub id with image1, image2, target: all "
            "splits, or owner/name:split. Repeat it for more.",
        ),
    ],
    output: options.Report,
    hub: Hub,
    model: options.FaceEmbedder = None,
    mirror: Annotated[
        Literal["none", "sum", "concatenate"] | None, typer.Option(help="Test-time mirror; default: the checkpoint's.")
    ] = None,
    batch_size: options.BatchSize = 64,
    num_workers: options.Workers = None,
    num_threads: options.Threads = 1,
    device: options.Device = "auto",
) -> Answer:
    """Measure a face embedder on sets of aligned pairs: ten-fold accuracy, as insightface does.

    On several devices: accelerate launch --module hfembed.cli evaluate pairs ...; each embeds a part.
    """
    device = _join_ranks(device)
    checkpoint = _prepare(hub.face_model, model, output, num_threads)
    workers = threads.available_cores() if num_workers is None else num_workers
    # a damaged one should fail before the work
    is_first = distributed.is_first_rank()
    read = lfw_protocol.verify_pair_sets(
        sets, batch_size=batch_size, num_workers=workers, spread=True, progress=is_first
    )
    embedder, processor = loading.load_face_embedder(checkpoint, device)
    if mirror is not None:
        embedder.config.mirror = mirror
    record: dict[str, Any] = {}
    texts = []
    for name, (source, protocol) in read.items():
        report = lfw_report.report_lfw(
            protocol, embedder, processor, output, files={"pairs": source}, prefix=f"{name}_"
        )
        record |= report
        if is_first:
            texts.append(lfw_report.summary(name, report))
    _leave_ranks(is_first)
    return _answer(record, output, "\n".join(texts))


@commands.command("templates")
def evaluate_templates(
    sets: Annotated[
        list[Path], typer.Option("--set", help="IJB-B's or IJB-C's folder, with loose_crop/ and meta/; repeat it.")
    ],
    output: options.Report,
    hub: Hub,
    model: options.FaceEmbedder = None,
    weight: Annotated[
        Literal["none", "norm", "score", "both"],
        typer.Option(help="Weigh faces by their embedding's norm, by the detector's score, or by both."),
    ] = "none",
    batch_size: options.BatchSize = 64,
    num_workers: options.Workers = None,
    num_threads: options.Threads = 1,
    device: options.Device = "auto",
) -> Answer:
    """Measure a face embedder on sets of photos and frames compared as wholes: IJB-B, IJB-C, 1:1 and 1:N.

    On several devices: accelerate launch --module hfembed.cli evaluate templates ...; each embeds a part.
    """
    device = _join_ranks(device)
    checkpoint = _prepare(hub.face_model, model, output, num_threads)
    read = [templates.read_template_set(folder) for folder in sets]  # a damaged one should fail before the work
    if len({tested.name for tested in read}) < len(read):
        raise InputError("two of the sets have one name; results are kept by the name in their lists' file names")
    embedder, processor = loading.load_face_embedder(checkpoint, device)
    workers = threads.available_cores() if num_workers is None else num_workers
    record: dict[str, Any] = {}
    texts = []
    for tested in read:
        report = templates.report_templates(tested, embedder, processor, output, weight, batch_size, workers)
        record |= report
        if distributed.is_first_rank():
            texts.append(templates.summary(tested.name, report))
    _leave_ranks(distributed.is_first_rank())
    return _answer(record, output, "\n".join(texts))


@commands.command("identification")
def evaluate_identification(
    images: options.People,
    output: options.Report,
    hub: Hub,
    model: options.FaceEmbedder = None,
    landmarks: options.Landmarks = None,
    undetected: options.Undetected = "error",
    distractors: Annotated[
        str | None, typer.Option(help="Photos of other people, for MegaFace's challenge 1; formats of --images.")
    ] = None,
    distractor_landmarks: Annotated[Path | None, typer.Option(help="JSON like --landmarks, for distractors.")] = None,
    index: Annotated[
        Path | None, typer.Option(help="Keep the embeddings in this EmbeddingIndex, and take them from it next time.")
    ] = None,
    store_thresholds: StoreThresholds = False,
    batch_size: options.BatchSize = 64,
    num_workers: options.Workers = None,
    num_threads: options.Threads = 1,
    device: options.Device = "auto",
) -> Answer:
    """Measure identification: closed set, open set, all pairs, BLUFR, MegaFace."""
    checkpoint = _prepare(hub.face_model, model, output, num_threads, store_thresholds)
    embedder, processor = loading.load_face_embedder(checkpoint, device)

    def embed(photos: str, points: Path | None, kept: Path | None = None) -> "people_embeddings.PeopleEmbeddings":
        return people_embeddings.embed_people(
            *(embedder, processor, photos, points, kept),
            undetected=undetected,
            batch_size=batch_size,
            num_workers=threads.available_cores() if num_workers is None else num_workers,
        )

    report = identification_report.report_identification(
        embed(images, landmarks, index),
        output,
        data=Path(images).name,
        checkpoint=checkpoint,
        distractors=None if distractors is None else embed(distractors, distractor_landmarks).embeddings,
        data_files={"images": images, "landmarks": landmarks, "distractors": distractors},
    )
    if store_thresholds:
        checkpoint.store_thresholds(report["thresholds"], mirror=embedder.config.mirror)
    return _answer(report, output, identification_report.summary(report))


@commands.command("denoising")
def evaluate_denoising(
    model: options.Autoencoder,
    images: options.People,
    output: options.Report,
    hub: Hub,
    sigma: Annotated[list[float] | None, typer.Option(help="Gaussian noise, pixels in [0, 1]; may repeat.")] = None,
    scale: Annotated[
        list[int] | None, typer.Option(min=2, max=16, help="Reduced by this factor and enlarged again; may repeat.")
    ] = None,
    jpeg: Annotated[
        list[int] | None, typer.Option(min=1, max=95, help="Quality of a JPEG it went through; may repeat.")
    ] = None,
    hole: Annotated[list[int] | None, typer.Option(help="Side of a square hole, in pixels; may repeat.")] = None,
    strokes: Annotated[
        list[int] | None, typer.Option(min=1, max=100, help="Number of free-form strokes of holes; may repeat.")
    ] = None,
    held_out_share: options.HeldOutShare = None,
    split_seed: options.SplitSeed = None,
    embedder: IdentityJudge = None,
    landmarks: PointsInPhotos = None,
    aligned: OnTemplate = False,
    seed: Annotated[int, typer.Option(help="Seed of the noise and the positions of holes.")] = 0,
    max_images: Annotated[int, typer.Option(min=0, help="At most this many held-out images, spread; 0 = all.")] = 0,
    size: Annotated[
        int | None,
        typer.Option(min=1, max=2048, help="Side of the test images, in pixels; default: the model's image_size."),
    ] = None,
    device: options.Device = "auto",
) -> Answer:
    """Measure a restoration model on held-out people, beside the classic methods.

    These are non-local means, total variation, a Wiener filter, bicubic enlargement and biharmonic filling.
    """
    if not (sigma or scale or jpeg or hole or strokes):
        raise InputError("nothing to test: give --sigma 0.1, --scale 4, --jpeg 10, --hole 16, --strokes 3, or several")
    _check_faces_are_known(embedder, landmarks, aligned)
    checkpoint = _prepare(hub.model, model, output)
    autoencoder, processor = loading.load_autoencoder(checkpoint, device)
    if size is not None:
        use_size(autoencoder, processor, size)
    split = choose_split(checkpoint, held_out_share, split_seed)
    people = faces.load_faces(images).remove_columns("landmarks")
    sides = splits.split_people(people, split["held_out_share"], split["seed"])
    crops = [aligned_faces.AlignedFaces(side, processor) for side in sides]
    known, held_out = denoising.KnownImages(crops[0].pixels()), crops[1].pixels(max_images or None)
    identity = None
    if embedder is not None:
        identity_model = reconstruction_report.make_identity_model(
            *loading.load_face_embedder(hub.other_model(embedder), device), landmarks
        )
        points = reconstruction_report.crop_landmarks(identity_model.landmarks, sides[1], crops[1], processor)
        points = points[spread_rows.spread_rows(len(points), max_images or None)]

        def identity(clean: "torch.Tensor", restored: "torch.Tensor") -> float:
            return reconstruction_report.identity_kept(identity_model, clean, restored, points)[0]

    with input_errors():
        tests: list[denoising.DamageTest | denoising.InpaintingTest] = []
        tests += [denoising.noise_test(held_out, known, value, seed) for value in sigma or []]
        tests += [denoising.enlargement_test(held_out, known, value, seed) for value in scale or []]
        tests += [denoising.jpeg_test(held_out, known, value, seed) for value in jpeg or []]
        tests += [denoising.hole_test(held_out, known, value, seed) for value in hole or []]
        tests += [denoising.strokes_test(held_out, known, value, seed) for value in strokes or []]
        metrics = denoising.report_denoising(tests, autoencoder, output, {"images": images}, split, identity=identity)
    return _answer(metrics, output, "\n".join(f"{name:48}{value:8.3f}" for name, value in metrics.items()))


@commands.command("reconstruction")
def evaluate_reconstruction(
    model: options.Autoencoder,
    images: options.People,
    output: options.Report,
    hub: Hub,
    held_out_share: options.HeldOutShare = None,
    split_seed: options.SplitSeed = None,
    embedder: IdentityJudge = None,
    landmarks: PointsInPhotos = None,
    aligned: OnTemplate = False,
    pairs: Annotated[Path | None, typer.Option(help="LFW's pairs.txt: also verify people on reconstructions.")] = None,
    pca: Annotated[
        bool, typer.Option(help="Measure PCA too, which takes minutes for codes of thousands of numbers.")
    ] = True,
    quality: Annotated[
        int | None,
        typer.Option(
            help="Of the compressed files, as of compress; default: 10; codes of thousands of numbers need about 20, "
            "quantized none.",
        ),
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Photos to draw.")] = 12,
    detector: Annotated[
        str | None,
        typer.Option(help="Checkpoint folder or Hub id of a face detector: also measure morphs by landmarks."),
    ] = None,
    num_threads: options.Threads = 1,
    device: options.Device = "auto",
) -> Answer:
    """Measure an autoencoder on held-out people, beside PCA with as many dimensions and JPEG.

    With latent statistics (hfembed fit-latents) its compressed files are measured too, and JPEG gets as many bytes.
    """
    _check_faces_are_known(embedder, landmarks, aligned)
    if pairs is not None and embedder is None:
        raise InputError("--pairs needs --embedder: whose embeddings are compared")
    checkpoint = _prepare(hub.model, model, output, num_threads)
    autoencoder, processor = loading.load_autoencoder(checkpoint, device)
    identity_model = codec = None
    if embedder is not None:
        tested = None if pairs is None else lfw.read_pairs(pairs)
        networks = loading.load_face_embedder(hub.other_model(embedder), device)
        identity_model = reconstruction_report.make_identity_model(*networks, landmarks, tested)
    if checkpoint.latent_statistics is not None:
        codec = compression.LatentCodec.load(autoencoder, checkpoint)
        codec.check_quality(quality)
    report = reconstruction_report.report_reconstruction(
        *(autoencoder, processor, images, output),
        split=choose_split(checkpoint, held_out_share, split_seed),
        identity_model=identity_model,
        codec=codec,
        quality=quality,
        pca=pca,
        pictures=pictures,
        detector=None if detector is None else loading.load_face_detector(hub.other_model(detector), device)[0],
    )
    return _answer(report, output, reconstruction_report.summary(report))


@commands.command("compression")
def evaluate_compression(
    model: options.Autoencoder,
    images: options.People,
    output: options.Report,
    hub: Hub,
    held_out_share: options.HeldOutShare = None,
    split_seed: options.SplitSeed = None,
    max_images: Annotated[int, typer.Option(min=1, help="At most this many held-out images, spread evenly.")] = 300,
    embedder: Annotated[
        str | None,
        typer.Option(
            help=f"{_EMBEDDER} that took no part in training: also identity kept and perceptual distance (its last "
            "feature map); needs --landmarks or --aligned."
        ),
    ] = None,
    landmarks: PointsInPhotos = None,
    aligned: OnTemplate = False,
    quality: Annotated[
        list[int] | None,
        typer.Option(help="Of the compressed latents, as of compress; repeat it for more. Default: a range of them."),
    ] = None,
    num_threads: options.Threads = 1,
    device: options.Device = "auto",
) -> Answer:
    """Measure bytes against quality on held-out people: compressed latents, JPEG, WebP, AVIF, JPEG XL."""
    _check_faces_are_known(embedder, landmarks, aligned)
    checkpoint = _prepare(hub.model, model, output, num_threads)
    autoencoder, processor = loading.load_autoencoder(checkpoint, device)
    codec = compression.LatentCodec.load(autoencoder, checkpoint)
    for asked in quality or []:
        codec.check_quality(asked)
    split = choose_split(checkpoint, held_out_share, split_seed)
    people = faces.load_faces(images).remove_columns("landmarks")
    _, held_out = splits.split_people(people, split["held_out_share"], split["seed"])
    crops = aligned_faces.AlignedFaces(held_out, processor)
    pixels = processor.normalize(crops.pixels(max_images))
    judge = None
    if embedder is not None:
        networks = loading.load_face_embedder(hub.other_model(embedder), device)
        identity_model = reconstruction_report.make_identity_model(*networks, landmarks)
        points = reconstruction_report.crop_landmarks(identity_model.landmarks, held_out, crops, processor)
        points = points[spread_rows.spread_rows(len(points), max_images)]
        judge = functools.partial(reconstruction_report.identity_kept, identity_model, pixels, points=points)
    rates, text = compression_evaluation.report_rates(
        codec, pixels, output, {"images": images, "landmarks": landmarks}, split, quality, judge
    )
    return _answer({"rates": [point._asdict() for point in rates]}, output, text)


@commands.command("generation")
def evaluate_generation(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Autoencoders with latent statistics, checkpoint folders or Hub ids."),
    ],
    embedder: Annotated[str, typer.Option(help=f"{_EMBEDDER} whose features are compared.")],
    images: options.People,
    landmarks: Annotated[Path, typer.Option(help="JSON: file -> five points; their mean says where faces lie.")],
    output: options.Report,
    hub: Hub,
    held_out_share: options.HeldOutShare = None,
    split_seed: options.SplitSeed = None,
    max_images: Annotated[int, typer.Option(min=2, help="Images per draw, at most those held out.")] = 2000,
    draws: Annotated[int, typer.Option(min=1, help="Draws of each method, averaged.")] = 5,
    device: options.Device = "auto",
) -> Answer:
    """Measure the Frechet distance of generated faces to held-out ones: mixtures, priors, Gaussians over pixels."""
    check_output_folder(output)
    face_embedder, aligner = loading.load_face_embedder(hub.other_model(embedder), device)
    face_embedder.config.mirror = "none"  # one view is enough to compare distributions
    fast_embedder = face_embedder.optimize_for_inference()
    photos = faces.load_faces(faces.FaceSource(images, landmarks=landmarks))

    def embed(points: "np.ndarray", crops: "torch.Tensor") -> "np.ndarray":
        photos = list(pictures.to_pictures(crops))
        pixels = aligner.preprocess(photos, landmarks=[points] * len(photos)).pixel_values
        return fast_embedder.embed(pixels.to(fast_embedder.device)).cpu().numpy()

    cases = []
    for model in models:
        checkpoint = hub.model(model)
        autoencoder, processor = loading.load_autoencoder(checkpoint, device)
        statistics = latent_statistics.LatentStatistics.load(checkpoint)
        points = generation.mean_face_points(photos, processor)
        split = choose_split(checkpoint, held_out_share, split_seed)
        people = splits.split_people(photos.remove_columns("landmarks"), split["held_out_share"], split["seed"])
        known, held_out = (
            processor.normalize(aligned_faces.AlignedFaces(side, processor).pixels()) for side in people
        )
        cases.append(
            generation.GenerationCase(
                name=Path(model.partition("@")[0]).resolve().name,
                model=autoencoder,
                statistics=statistics,
                embed=functools.partial(embed, points),
                held_out=held_out[:max_images],
                known=known,
                split=split,
            )
        )
    files: dict[str, str | Path | None] = {"images": images, "landmarks": landmarks}
    distances = generation.report_generation(cases, output, files, draws)
    lines = [f"{'Frechet distance to held-out faces':64}{'mean':>8}"]
    lines += [f"  {name:62}{sum(values) / len(values):8.3f}" for name, values in distances.items()]
    return _answer({"distances": distances}, output, "\n".join(lines))


@commands.command("words")
def evaluate_words(
    model: options.WordVectors,
    output: options.Report,
    hub: Hub,
    analogies: Annotated[
        list[Path] | None,
        typer.Option(help="A file like questions-words.txt, or a folder like BATS_3.0; may repeat."),
    ] = None,
    word_pairs: Annotated[
        list[Path] | None, typer.Option(help="A file of word, word, score lines, or a folder of such; may repeat.")
    ] = None,
    outliers: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of files of words, an empty line, outliers, like 8-8-8; may repeat."),
    ] = None,
    suite: Annotated[
        Literal["en", "ru"] | None, typer.Option(help="The tests of a language that --suite-data has.")
    ] = None,
    suite_data: Annotated[
        Path | None,
        typer.Option(help="Folder of questions-words.txt, word-sim/, BATS*/, 8-8-8*/ (en); russian/russe-*.csv (ru)."),
    ] = None,
    weat: Annotated[
        list[str] | None,
        typer.Option(help="A file of WEAT's sets of words, a test of bias, or 'en' for the paper's; may repeat."),
    ] = None,
    restrict_vocab: Annotated[
        int, typer.Option(min=1, help="Use only this many of the most frequent words.")
    ] = 300_000,
    fold_case: Annotated[bool, typer.Option(help="Words that differ only in case are the same.")] = True,
    unknown_is_wrong: Annotated[
        bool,
        typer.Option("--unknown-is-wrong", help="Count unknown words as wrong answers; otherwise they are left out."),
    ] = False,
    method: Annotated[Literal["3cosadd", "3cosmul"], typer.Option(help="How candidates are scored.")] = "3cosadd",
    device: options.Device = "auto",
) -> Answer:
    """Measure word vectors by analogies, word pairs rated by people and outliers, and their bias by WEAT."""
    if (suite is None) != (suite_data is None):
        raise InputError("--suite and --suite-data belong together: the folder has the files, the suite chooses them")
    if suite is not None and suite_data is not None:
        more_analogies, more_pairs, more_outliers = word_tests.list_suite(suite, suite_data)
        analogies, word_pairs = [*(analogies or []), *more_analogies], [*(word_pairs or []), *more_pairs]
        outliers = [*(outliers or []), *more_outliers]
    sets = dict.fromkeys([*(weat or []), *(["en"] if suite == "en" else [])])
    associations = [bias.WEAT_EN if name == "en" else Path(name) for name in sets]
    checkpoint = _prepare(hub.model, model, output)
    tests = word_tests.WordTests(
        analogies or [],
        word_pairs or [],
        restrict_vocab,
        fold_case,
        unknown_is_wrong,
        method,
        associations,
        outliers or [],
    )
    figures, text = words_report.report_words(tests, loading.load_word2vec(checkpoint, device), output)
    return _answer(figures, output, text)


@commands.command("mteb")
def evaluate_mteb(
    model: options.WordVectors,
    tasks: Annotated[list[str], typer.Option(help="A task of mteb, such as STS12; may repeat.")],
    output: options.Report,
    hub: Hub,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with copies of the tasks' data sets (mteb/sts12-sts); default: the Hub or its cache."
        ),
    ] = None,
    weighting: Annotated[
        Literal["mean", "sif", "tf-idf"], typer.Option(help="How a text's vector is made of those of its words.")
    ] = "mean",
    device: options.Device = "auto",
) -> Answer:
    """Measure texts' vectors by MTEB's tasks (pip install mteb)."""
    found = mteb_tasks.find_tasks(tasks, data)
    checkpoint = _prepare(hub.model, model, output)
    vectors = loading.load_word2vec(checkpoint, device)
    figures, text = mteb_tasks.report_mteb(vectors, found, weighting, output, data)
    return _answer(figures, output, text)


@commands.command("detection")
def evaluate_detection(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id of a face detector.")],
    images: Annotated[Path, typer.Option(help="Folder of the photos: WIDER_val/images.")],
    ground_truth: Annotated[
        Path, typer.Option(help="Folder of wider_face_val.mat and the subsets' lists, or wider_face_val_bbx_gt.txt.")
    ],
    output: options.Report,
    hub: Hub,
    max_image_size: Annotated[
        int, typer.Option(min=0, help="Search photos at this size of their longer side; 0: at full size.")
    ] = 0,
    min_face_size: Annotated[
        float | None, typer.Option(help="Smallest face to look for, in pixels. Default: the model's.")
    ] = None,
    score_threshold: Annotated[
        float, typer.Option(help="Compare faces from this score on; of detectors with one threshold.")
    ] = 0.02,
    batch_size: options.BatchSize = 16,
    num_threads: options.Threads = 1,
    device: options.Device = "auto",
) -> Answer:
    """Measure a face detector by WIDER FACE's protocol: average precision, easy, medium, hard."""
    detector, _ = loading.load_face_detector(_prepare(hub.model, model, output, num_threads), device)
    with input_errors():
        detector.change_search(None, max_image_size, min_face_size)
    report = wider_face.report_detection(detector, images, ground_truth, output, score_threshold, batch_size)
    return _answer(report, output, wider_face.summary(report))


@commands.command("swap")
def evaluate_swap(
    model: options.FaceSwap,
    people: Annotated[list[str], typer.Option(help="Folder of a person it was trained with; repeat for each.")],
    embedder: Annotated[str, typer.Option(help=f"{_EMBEDDER} that measures; not the one used in training.")],
    output: options.Report,
    hub: Hub,
    detector: Annotated[
        str | None, typer.Option(help="Face detector: also measure poses, which needs landmarks in the swaps.")
    ] = None,
    num_threads: options.Threads = 1,
    device: options.Device = "auto",
) -> Answer:
    """Measure a face swap model on the photos of its people that it was not trained on."""
    checkpoint = _prepare(hub.model, model, output, num_threads)
    swapper, processor = loading.load_face_swap(checkpoint, device)
    identity_model = loading.load_face_embedder(hub.other_model(embedder), device)
    finder = None if detector is None else loading.load_face_detector(hub.other_model(detector), device)[0]
    trained, tested = swap_report.read_sides(checkpoint.folder / "training.json", people, swapper, processor)
    evaluation = swap_evaluation.SwapEvaluation(trained, tested, *identity_model, finder)
    figures = swap_report.report_swap(evaluation, swapper, processor, output, {"model": model, "embedder": embedder})
    return _answer(figures, output, swap_report.summary(figures))


def use_size(autoencoder: "AutoencoderModelBase", processor: "ConvAutoencoderImageProcessor", size: int) -> None:
    """Let the processor make images of this side, if the model takes them."""
    processor.size = {"height": size, "width": size}
    try:
        autoencoder.check_pixel_values(torch.empty(1, processor.num_channels, size, size, device="meta"))
    except ValueError as error:
        raise InputError(f"--size {size}: {error}") from error


def choose_split(checkpoint: "Checkpoint", share: float | None, seed: int | None) -> dict[str, Any]:
    """Who is held out: as given, as the checkpoint says, or a tenth by seed 0.

    A split that is not the training's measures people whom the model has seen: a line says so, and the training's is
    recorded under "trained_with".
    """
    recorded = {"held_out_share": 0.1, "seed": 0} | checkpoint.split
    given = {"held_out_share": share, "seed": seed}
    split = recorded | {name: value for name, value in given.items() if value is not None}
    if not checkpoint.split or split == recorded:
        return split
    said, chosen = (f"{side['held_out_share']} and split seed {side['seed']}" for side in (recorded, split))
    warn(f"{checkpoint.name} was trained with a held-out share of {said}; {chosen} hold out people it was trained on")
    return split | {"trained_with": recorded}


def _check_faces_are_known(embedder: str | None, landmarks: Path | None, aligned: bool) -> None:
    if embedder is not None and (landmarks is None) != aligned:
        raise InputError("--embedder needs --landmarks or --aligned: where the faces are in the photos")


def _prepare(
    find: Callable[[Any], "Checkpoint"],
    model: str | None,
    output: Path,
    num_threads: int | None = None,
    writes_into_model: bool = False,
) -> "Checkpoint":
    """Find the model, and set the process up; refuse before the work what could not be written after it."""
    check_output_folder(output)
    keep_freed_memory()
    checkpoint = find(model)
    if writes_into_model:
        checkpoint.check_writable()
        if default_model.is_default(checkpoint):
            raise InputError(
                "--store-thresholds needs a MODEL of your own: the default one in the cache stays as it is"
            )
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    return checkpoint


def _join_ranks(device: str) -> str:
    """Join the other ranks where a launcher started several; the device of this one."""
    _, own = distributed.join_ranks()
    return device if own is None or device != "auto" else str(own)


def _leave_ranks(is_first: bool) -> None:
    """End, but for the first rank, which has the answer."""
    distributed.leave_ranks()
    if not is_first:
        raise typer.Exit


def _answer(record: dict, output: Path, text: str) -> Answer:
    return Answer({**record, "output": output}, f"{text}\n  written to {output}")
