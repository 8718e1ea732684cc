"""IJB-B and IJB-C: sets of photos and frames compared as wholes, by the lists that insightface distributes.

A folder has `loose_crop/` and `meta/` with, for one of the two sets:

    *_face_tid_mid.txt          photo template media
    *_name_5pts_score.txt       photo x1 y1 ... x5 y5 score     (five landmarks in the photo's pixels)
    *_template_pair_label.txt   template template 0|1
    *_1N_gallery_G1.csv, *_1N_gallery_G2.csv, *_1N_probe_mixed.csv   (for identification, where they are)

Maze et al.: "IARPA Janus Benchmark C: face dataset and protocol", 2018.
"""

import time
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
from scipy import sparse
from transformers import PreTrainedModel

from hfembed.checkpoint.results import provenance, read_results, write_results
from hfembed.errors import InputError, first_line
from hfembed.faces.evaluation import identification, verification
from hfembed.faces.evaluation.embedding import FaceFile, embed_faces_on_all_ranks
from hfembed.faces.evaluation.plots import plot_roc
from hfembed.index.error_rates import far_is_carried
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.training.distributed import is_first_rank

FAR_TARGETS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FPIR_TARGETS = (0.1, 0.01)
RANKS = (1, 5, 10)
_PAIRS = 16_384  # scored at a time

Weight = Literal["none", "norm", "score", "both"]
_WEIGHTED = {
    "none": "",
    "norm": ", weighted by norm",
    "score": ", weighted by score",
    "both": ", weighted by norm and score",
}


class TemplateSet(NamedTuple):
    """The lists of a set, F faces and P pairs.

    Attributes:
        name: ijbb or ijbc, from the files' names.
        files: F file names in the folder of crops.
        templates: (F,) int64.
        media: (F,) int64, the photo or film that a face comes from.
        landmarks: (F, 5, 2) float32, in pixels.
        scores: (F,) float32, of the detector.
        pairs: (P, 2) int32, templates by their position among all, rising.
        same: (P,) bool.
        galleries: Templates (G,) and people (G,) of each gallery; none where the lists are not there.
        probes: Those of the probes; None where the list is not there.
    """

    name: str
    crops: Path
    files: list[str]
    templates: np.ndarray
    media: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    galleries: list[tuple[np.ndarray, np.ndarray]]
    probes: tuple[np.ndarray, np.ndarray] | None


def read_template_set(folder: str | Path) -> TemplateSet:
    """Read the lists of IJB-B or IJB-C.

    Raises:
        InputError: A list is missing or damaged, two of them name other photos, a photo's name leads out of the
            folder, or a pair or a person has a template that no face belongs to.
    """
    folder = Path(folder)
    members = _find(folder, "_face_tid_mid.txt")
    name = members.name.removesuffix("_face_tid_mid.txt")
    faces = _read(members, {"file": pa.string(), "template": pa.int64(), "media": pa.int64()})
    numbers = [f"{axis}{number}" for number in range(5) for axis in "xy"]
    points = _read(
        _find(folder, "_name_5pts_score.txt"),
        {"file": pa.string(), **dict.fromkeys([*numbers, "score"], pa.float32())},
    )
    if not faces["file"].equals(points["file"]):
        raise InputError(f"{folder}: the lists of templates and of landmarks name other photos, or in another order")
    files = faces["file"].to_pylist()
    for file in files:
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise InputError(f"{members}: {file} leads out of the folder")
    landmarks = np.stack([points[number].to_numpy() for number in numbers], 1).reshape(-1, 5, 2)
    scores = points["score"].to_numpy()
    if not (np.isfinite(landmarks).all() and np.isfinite(scores).all()):
        raise InputError(f"{folder}: a landmark or a score is not finite")
    pairs = _read(
        _find(folder, "_template_pair_label.txt"), dict.fromkeys(["a", "b"], pa.int64()) | {"same": pa.int8()}
    )
    galleries = [_read_people(path) for path in sorted((folder / "meta").glob("*_1N_gallery_G*.csv"))]
    probes = [_read_people(path) for path in (folder / "meta").glob("*_1N_probe_mixed.csv")]
    templates, media, same = faces["template"].to_numpy(), faces["media"].to_numpy(), pairs["same"].to_numpy() == 1
    names = np.unique(templates)
    both = np.stack([_positions(names, pairs[side], folder) for side in "ab"], 1)
    for asked, _ in (*galleries, *probes):
        _positions(names, pa.chunked_array([asked]), folder)
    crops = folder / "loose_crop"
    return TemplateSet(
        name, crops, files, templates, media, landmarks, scores, both, same, galleries, probes[0] if probes else None
    )


def pool_templates(
    embeddings: np.ndarray, templates: np.ndarray, media: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One vector per template: the sum over its media of the mean of their faces, at unit length.

    A film of a hundred frames counts as much as one photo.

    Args:
        embeddings: (F, D) float, unit length; NaN where a face failed, which then takes no part.
        templates: (F,) int.
        media: (F,) int.
        weights: (F,) float, not negative, of each face.

    Returns:
        The templates (T,), rising, and their vectors (T, D) float32; NaN where no face is left.
    """
    names, template = np.unique(templates, return_inverse=True)
    usable = np.flatnonzero(np.isfinite(embeddings[:, 0]))
    _, group, sizes = np.unique(
        np.stack([template[usable], media[usable]], 1), axis=0, return_inverse=True, return_counts=True
    )
    shares = (1 if weights is None else weights[usable]) / sizes[group.ravel()]
    mixing = sparse.csr_array((shares, (template[usable], usable)), (len(names), len(embeddings)), dtype=np.float32)
    vectors = mixing @ np.nan_to_num(embeddings)
    with np.errstate(invalid="ignore"):  # of a template without a face
        return names, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def score_pairs(vectors: np.ndarray, rows_a: np.ndarray, rows_b: np.ndarray) -> np.ndarray:
    """Cosines (P,) float32 of pairs of rows of unit vectors (T, D)."""
    scores = np.empty(len(rows_a), dtype=np.float32)
    for start in range(0, len(scores), _PAIRS):
        part = slice(start, start + _PAIRS)
        scores[part] = np.einsum("pd,pd->p", vectors[rows_a[part]], vectors[rows_b[part]])
    return scores


def evaluate_templates(
    tested: TemplateSet, embeddings: np.ndarray, norms: np.ndarray, weight: Weight = "none"
) -> tuple[dict[str, float], dict[str, Any], verification.Roc]:
    """TAR at each FAR that the pairs can measure; with galleries, rank 1, 5, 10 and TPIR, means over the galleries.

    Args:
        embeddings: (F, D), of `tested.files`; NaN where one failed.
        norms: (F,), before normalization.
        weight: Weigh faces by their embedding's norm, their detector's score, or both.

    Returns:
        Figures in percent, details, and the ROC.

    Raises:
        InputError: Genuine or impostor pairs are missing.
    """
    ones = np.ones(len(embeddings), dtype=np.float32)
    by_norm = norms if weight in ("norm", "both") else ones
    by_score = tested.scores if weight in ("score", "both") else ones
    weights = np.nan_to_num(by_norm * by_score).clip(0)
    names, vectors = pool_templates(embeddings, tested.templates, tested.media, weights)
    failed = np.isnan(vectors[:, 0])
    vectors = np.nan_to_num(vectors)
    rows_a, rows_b = tested.pairs.T
    scores = score_pairs(vectors, rows_a, rows_b)
    curve = verification.roc(scores, tested.same, failed[rows_a] | failed[rows_b])
    tars = verification.tars_at_fars(curve, FAR_TARGETS)
    metrics = {f"{tested.name}_{figure}": value for figure, value in tars.metrics.items()}
    details: dict[str, Any] = {
        "protocol": f"templates: sums over media of the means of their faces{_WEIGHTED[weight]}",
        "faces": len(tested.files),
        "templates": {"all": len(names), "failed": int(failed.sum())},
        "pairs": {"genuine": curve.genuine, "impostor": curve.impostors},
        "tar_at_far": tars.details,
        "far_not_measurable": tars.not_measurable,
    }
    if tested.galleries and tested.probes is not None:
        identified = [_identify(names, vectors, failed, gallery, tested.probes) for gallery in tested.galleries]
        means = {key: float(np.mean([each[key] for each in identified])) for key in identified[0]}
        metrics |= {f"{tested.name}_{key}": value for key, value in means.items()}
    return metrics, details, curve


def report_templates(
    tested: TemplateSet,
    model: PreTrainedModel,
    processor: FaceImageProcessor,
    output: str | Path,
    weight: Weight = "none",
    batch_size: int = 64,
    num_workers: int = 2,
) -> dict[str, Any]:
    """Embed a set, measure it, and write results.json and NAME_roc.png.

    Returns:
        What results.json has of it; where several ranks embed, all of which call, the first one compares and writes,
        and the others get {}.

    Raises:
        InputError: Not one photo can be used, or as `evaluate_templates`.
        OSError: The folder cannot be written.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    read_results(output)  # what cannot be written at the end should fail before the work
    start = time.perf_counter()
    faces = [
        FaceFile(file, tested.crops / file, points)
        for file, points in zip(tested.files, tested.landmarks, strict=True)
    ]
    embeddings, norms, failures = embed_faces_on_all_ranks(
        model, processor, faces, batch_size, num_workers, progress=is_first_rank()
    )
    if not is_first_rank():
        return {}
    embedded = time.perf_counter()
    metrics, details, curve = evaluate_templates(tested, embeddings, norms, weight)
    seconds = {"embedding": round(embedded - start, 1), "comparing": round(time.perf_counter() - embedded, 1)}
    details = {
        "model": str(model.config.name_or_path),
        "mirror": model.config.mirror,
        **details,
        "failures": failures,
        "seconds": seconds,
        **provenance({"set": tested.crops.parent}),
    }
    plot_roc({"this model": curve}, output / f"{tested.name}_roc.png", f"{tested.name}: templates")
    write_results(output, tested.name, metrics, details, model)
    return {**metrics, tested.name: details}


def summary(name: str, report: dict[str, Any]) -> str:
    """The figures of `report_templates` as lines to print."""
    details = report[name]
    pairs, templates = details["pairs"], details["templates"]
    lines = [
        f"{name}: {templates['all']:,} templates of {details['faces']:,} faces, {pairs['genuine']:,} genuine and "
        f"{pairs['impostor']:,} impostor pairs  ({details['protocol']})"
    ]
    for target, point in details["tar_at_far"].items():
        low, high = point["interval_95"]
        lines.append(f"  TAR {point['tar']:.2f} % ({low:.2f} to {high:.2f}) at FAR {target}")
    lines += [f"  no TAR at FAR {far}: {reason}" for far, reason in details["far_not_measurable"].items()]
    for key, value in report.items():
        if key.startswith((f"{name}_rank", f"{name}_tpir")):
            lines.append(f"  {key.removeprefix(f'{name}_').replace('_', ' ')}: {value:.2f} %")
    if failures := details["failures"]:
        file, reason = next(iter(failures.items()))
        lines.append(f"  {len(failures)} photos failed and take no part; the first, {file}: {reason}")
    return "\n".join(lines)


def _identify(
    names: np.ndarray,
    vectors: np.ndarray,
    failed: np.ndarray,
    gallery: tuple[np.ndarray, np.ndarray],
    probes: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:
    rows = [np.searchsorted(names, templates) for templates, _ in (gallery, probes)]
    known, asked = (np.where(failed[which, None], np.nan, vectors[which]) for which in rows)
    found = identification.identify(known, gallery[1], asked, probes[1])
    matches = identification.cumulative_match(found, max(RANKS))
    figures = {f"rank_{rank}": 100 * float(matches[rank - 1]) for rank in RANKS}
    strangers = int((~found.mated).sum())
    for fpir in FPIR_TARGETS:
        if far_is_carried(fpir, strangers):
            figures[f"tpir_at_fpir_{fpir:g}"] = 100 * identification.detection_and_identification(found, fpir).rate
    return figures


def _positions(names: np.ndarray, asked: pa.ChunkedArray, folder: Path) -> np.ndarray:
    """Where templates stand among all, (n,) int32."""
    positions = np.empty(len(asked), dtype=np.int32)
    start = 0
    for chunk in asked.chunks:
        templates = chunk.to_numpy(zero_copy_only=False)
        places = np.searchsorted(names, templates).clip(max=len(names) - 1)
        if len(strangers := templates[names[places] != templates]):
            raise InputError(f"{folder}: no face belongs to template {strangers[0]}, which a list compares")
        positions[start : start + len(places)] = places
        start += len(places)
    return positions


def _find(folder: Path, suffix: str) -> Path:
    found = sorted((folder / "meta").glob(f"*{suffix}"))
    if len(found) != 1:
        raise InputError(f"{folder}/meta has {len(found)} files *{suffix}; one set has one")
    return found[0]


def _read(path: Path, columns: dict[str, pa.DataType], delimiter: str = " ", skip: int = 0) -> pa.Table:
    try:
        return pa.csv.read_csv(
            path,
            pa.csv.ReadOptions(column_names=list(columns), skip_rows=skip),
            pa.csv.ParseOptions(delimiter=delimiter, quote_char=False),
            pa.csv.ConvertOptions(column_types=columns, include_columns=list(columns), null_values=[]),
        )
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not such a list: {first_line(error)}") from error


def _read_people(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Templates and people, each template once: the lists have a row per photo, with further columns."""
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline(10_000).count(",")
    columns = {"template": pa.int64(), "person": pa.int64()}
    others = dict.fromkeys([f"other {number}" for number in range(header - 1)], pa.string())
    table = _read(path, columns | others, ",", 1)
    templates, first = np.unique(table["template"].to_numpy(), return_index=True)
    return templates, table["person"].to_numpy()[first]
