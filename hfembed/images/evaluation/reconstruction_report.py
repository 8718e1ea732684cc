"""Measure an autoencoder on people it has not seen, beside PCA and JPEG: `hfembed evaluate reconstruction`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from hfembed.checkpoint.results import provenance, read_results, write_results
from hfembed.errors import InputError
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.faces import load_faces
from hfembed.faces.data.landmarks import read_landmarks
from hfembed.faces.data.lfw import LfwPairs
from hfembed.faces.data.splits import split_people
from hfembed.faces.data.spread_rows import spread_rows
from hfembed.faces.evaluation.embedding import AlignedCrops
from hfembed.faces.evaluation.lfw import LfwVerification
from hfembed.faces.perceptual_networks import FaceEmbeddings
from hfembed.images.compression import LatentCodec
from hfembed.images.evaluation import reconstruction
from hfembed.images.evaluation.reconstruction_pictures import draw_rows
from hfembed.images.morphing import halfway, midpoint_sharpness
from hfembed.images.pictures import to_pictures
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.restoration_autoencoder.modeling_restoration_autoencoder import RestorationAutoencoderModel
from hfembed.training.perceptual_loss import feature_distance

NAME = "reconstruction"
_MORPHS = {
    "": "straight",
    "spherical_": "arc",
    "shape_": "straight, shape by landmarks",
    "shape_spherical_": "arc, shape by landmarks",
    "pca_": "PCA",
}


class IdentityModel(NamedTuple):
    """A face embedder that measures whether a reconstruction shows the same person.

    Attributes:
        landmarks: File -> five [x, y] in the photo's pixels; photos without are left out. None: all photos are crops
            on the standard 112 x 112 template.
        pairs: LFW's View 2, to verify people on reconstructions of both photos; None leaves that out.
    """

    embeddings: FaceEmbeddings
    landmarks: Mapping[str, np.ndarray | None] | None
    pairs: LfwPairs | None = None


def make_identity_model(
    embedder: FaceEmbedderModel,
    processor: FaceImageProcessor,
    landmarks: str | Path | None,
    pairs: LfwPairs | None = None,
) -> IdentityModel:
    """An identity model from a face embedder and the file of landmarks; None for crops on the standard template."""
    found = None if landmarks is None else read_landmarks(landmarks)
    return IdentityModel(FaceEmbeddings(embedder, processor, processor.template), found, pairs)


def report_reconstruction(
    model: AutoencoderModelBase,
    processor: ConvAutoencoderImageProcessor,
    images: str | Path,
    output: str | Path,
    split: dict[str, Any],
    identity_model: IdentityModel | None = None,
    codec: LatentCodec | None = None,
    quality: int | None = None,
    pca: bool = True,
    pictures: int = 12,
    detector: FaceDetector | None = None,
) -> dict[str, Any]:
    """Measure, write results.json and reconstructions.png.

    Unless `pca` is false, PCA with as many components as the model has latents is fitted on the people who were not
    held out. With a codec, the images that it makes of its files of this quality are measured too, and JPEG gets as
    many bytes. With a detector, morphs are also measured with the shape of the landmarks that it finds in the model's
    images (`morph`). The answer has the figures, and under "reconstruction" how they came about.

    Raises:
        InputError: The images cannot be read, are too few, or the model cannot reconstruct from latents.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    read_results(output)  # what cannot be written at the end should fail before the work
    rest, held_out = split_people(
        load_faces(images).remove_columns("landmarks"), split["held_out_share"], split["seed"]
    )
    known, unseen = AlignedFaces(rest, processor), AlignedFaces(held_out, processor)
    train, test = (processor.normalize(faces.pixels()) for faces in (known, unseen))
    reconstructed, latents = reconstruction.reconstruct(model, test)
    count = latents.shape[1]
    figures: dict[str, float] = {"num_latents": count, "active_latents": reconstruction.active_latents(latents)}
    rows = {"photo": test, "this model": reconstructed}
    prefixes = {"this model": "", "coded": "coded_", "PCA": "pca_", "JPEG": "jpeg_"}
    budget: float = count
    if codec is not None:
        files = [codec.compress(image, quality) for image in test]
        rows["coded"] = torch.stack([codec.decompress(file) for file in files])
        budget = figures["coded_bytes"] = float(np.mean([len(file) for file in files]))
    if pca and count <= min(len(train), train[0].numel()):
        rows["PCA"] = reconstruction.pca_reconstruction(train, test, count)
    rows["JPEG"], figures["jpeg_bytes"] = reconstruction.jpeg_reconstruction(test, budget)
    points = None
    if identity_model is not None:
        points = crop_landmarks(identity_model.landmarks, held_out, unseen, processor)
    ends = far_pairs(len(test))
    if len(test) > 1 and not isinstance(model, RestorationAutoencoderModel):
        figures |= morph_figures(model, test, reconstructed, ends, identity_model, points, detector)
        if "PCA" in rows:
            middles = rows["PCA"][ends].mean(0)
            found = midpoint_figures(test[ends], rows["PCA"][ends], middles, identity_model, _of(points, ends))
            figures |= {f"pca_{name}": value for name, value in found.items()}
    for name, row in list(rows.items())[1:]:
        figures |= {prefixes[name] + figure: value for figure, value in compare(row, test).items()}
        if identity_model is not None and points is not None:
            kept, distance = identity_kept(identity_model, test, row, points)
            figures |= {f"{prefixes[name]}identity_kept": kept, f"{prefixes[name]}perceptual_distance": distance}
    if identity_model is not None and identity_model.pairs is not None:
        figures |= verified(model, processor, images, identity_model, identity_model.pairs)
    details = {
        "model": str(model.config.name_or_path),
        "images": f"{len(test)} of {len(unseen.identities)} held-out people, as {tuple(test.shape[1:])}",
        "pca_fitted_on": f"{len(train)} images of the other {len(known.identities)} people",
        "split": split,
        "psnr": "dB, of the squared error averaged over all images; image_psnr averages over images in dB",
        "ssim": "torchmetrics, its defaults, data_range 1",
        "sharpness": "gradient energy, as a fraction of the photos'",
        "jpeg": "at the highest quality whose mean file is not above "
        f"{'coded_bytes' if codec is not None else 'one byte per latent number'}, or at the lowest",
        **(
            {}
            if codec is None
            else {"coded": f"files of quality {quality}" if quality is not None else "files as compress writes them"}
        ),
        "midpoints": "halfway between two photos; identity_start, identity_end: cosines of embeddings to the photos "
        "at both ends, identity_gap: the mean difference of the two",
        "figures": sorted(figures),
        **provenance({"images": images}),
    }
    if pictures:
        chosen = torch.from_numpy(spread_rows(len(test), pictures))
        draw_rows({label: row[chosen] for label, row in rows.items()}, output / "reconstructions.png")
    write_results(output, NAME, figures, details, model)
    return {**figures, NAME: details}


def compare(reconstructed: torch.Tensor, images: torch.Tensor) -> dict[str, float]:
    """Figures of reconstructions (N, C, H, W) that need no other network."""
    measures = (reconstruction.psnr, reconstruction.ssim, reconstruction.image_psnr, reconstruction.sharpness)
    return {measure.__name__: measure(reconstructed, images) for measure in measures}


def far_pairs(count: int, pairs: int = 100) -> torch.Tensor:
    """Rows of photos to morph into each other: (2, at most `pairs`), the second half a data set after the first."""
    first = torch.linspace(0, count - count // 2 - 1, min(pairs, count // 2)).long()
    return torch.stack([first, first + count // 2])


def pairs_sharpness(ends: torch.Tensor, middles: torch.Tensor) -> float:
    """Mean of `midpoint_sharpness` over morphs between `ends` (2, N, C, H, W) with the images `middles` halfway."""
    morphs = zip(ends[0].clamp(0, 1), middles.clamp(0, 1), ends[1].clamp(0, 1), strict=True)
    return float(np.mean([midpoint_sharpness(torch.stack(frames)) for frames in morphs]))


def morph_figures(
    model: AutoencoderModelBase,
    images: torch.Tensor,
    reconstructed: torch.Tensor,
    ends: torch.Tensor,
    identity_model: IdentityModel | None,
    points: np.ndarray | None,
    detector: FaceDetector | None,
) -> dict[str, float]:
    """Figures of morphs' middles: on a straight line, on an arc, and both with the shape of found landmarks.

    Args:
        images: (N, C, H, W) in [0, 1].
        ends: (2, P), as of `far_pairs`; pairs of which the detector does not find both faces are left out.
        points: (N, 5, 2) where the identity model sees the faces.
    """
    figures: dict[str, float] = {}
    shapes: dict[str, torch.Tensor | None] = {"": None}
    if detector is not None:
        found = _found_landmarks(detector, images[ends.flatten()]).view(2, -1, 5, 2)
        is_found = found.isfinite().all(-1).all(-1).all(0)
        if not is_found.any():
            raise InputError("the detector finds no face in the model's images: use another, or none")
        ends, shapes["shape_"] = ends[:, is_found], found[:, is_found]
        figures["midpoint_pairs"] = ends.shape[1]
    for shape_name, shape in shapes.items():
        for path_name in ("", "spherical_"):
            middles = halfway(model, images[ends[0]], images[ends[1]], path_name != "", shape)
            measured = midpoint_figures(images[ends], reconstructed[ends], middles, identity_model, _of(points, ends))
            figures |= {f"{shape_name}{path_name}{name}": value for name, value in measured.items()}
    return figures


def midpoint_figures(
    photos: torch.Tensor,
    ends: torch.Tensor,
    middles: torch.Tensor,
    identity_model: IdentityModel | None,
    points: np.ndarray | None,
) -> dict[str, float]:
    """Sharpness of the middles (P, C, H, W) as a fraction of the ends' (2, P, C, H, W), and whom they look like.

    Args:
        photos: Whose identity is compared, (2, P, C, H, W).
        points: (2, P, 5, 2), where faces are in the photos.
    """
    figures = {"midpoint_sharpness": pairs_sharpness(ends, middles)}
    if identity_model is None or points is None:
        return figures
    is_known = np.isfinite(points).all((2, 3)).all(0)
    if not is_known.any():
        return figures
    chosen = torch.from_numpy(is_known)
    ours, *theirs = (
        _embeddings(identity_model, faces[chosen], places[is_known])
        for faces, places in ((middles, points.mean(0)), (photos[0], points[0]), (photos[1], points[1]))
    )
    start, end = ((ours * embeddings).sum(1) for embeddings in theirs)
    figures["midpoint_identity_start"] = start.mean().item()
    figures["midpoint_identity_end"] = end.mean().item()
    figures["midpoint_identity_gap"] = (start - end).abs().mean().item()
    return figures


@torch.no_grad()
def _embeddings(identity_model: IdentityModel, images: torch.Tensor, points: np.ndarray) -> torch.Tensor:
    parts = zip(images.split(64), np.split(points, range(64, len(points), 64)), strict=True)
    return torch.cat([identity_model.embeddings(part.clamp(0, 1), places) for part, places in parts])


def _of(points: np.ndarray | None, ends: torch.Tensor) -> np.ndarray | None:
    return None if points is None else points[ends.numpy()]


def _found_landmarks(detector: FaceDetector, images: torch.Tensor) -> torch.Tensor:
    """The highest-scoring face's landmarks (N, 5, 2) in images (N, C, H, W) in [0, 1]; NaN where none is found."""
    pictures = [Image.fromarray(picture).convert("RGB") for picture in to_pictures(images)]
    nothing = torch.full((5, 2), torch.nan)
    return torch.stack(
        [faces.landmarks[0] if len(faces.landmarks) else nothing for faces in detector.detect(pictures)]
    )


@torch.no_grad()
def identity_kept(
    identity_model: IdentityModel, images: torch.Tensor, reconstructed: torch.Tensor, points: np.ndarray
) -> tuple[float, float]:
    """Mean cosine of embeddings of images and reconstructions, and mean distance of the trunk's last feature maps."""
    cosines, distances = [], []
    for part in torch.from_numpy(np.flatnonzero(np.isfinite(points).all((1, 2)))).split(64):
        aligned = [
            identity_model.embeddings.align(batch[part].clamp(0, 1), points[part.numpy()])
            for batch in (images, reconstructed)
        ]
        ours, theirs = (identity_model.embeddings.embedder(faces) for faces in aligned)
        cosines.append((ours.embeddings * theirs.embeddings).sum(1))
        distance = feature_distance([ours.last_hidden_state], [theirs.last_hidden_state], [1.0])
        distances.append(distance.expand(len(part)))
    return torch.cat(cosines).mean().item(), torch.cat(distances).mean().item()


@torch.no_grad()
def verified(
    model: AutoencoderModelBase,
    processor: ConvAutoencoderImageProcessor,
    images: str | Path,
    identity_model: IdentityModel,
    pairs: LfwPairs,
) -> dict[str, float]:
    """View 2 in percent on reconstructions of both photos of every pair; people the autoencoder has seen included."""
    faces = load_faces(images).remove_columns("landmarks")
    protocol = LfwVerification(faces, pairs, progress=False)
    place = {file: row for row, file in enumerate(faces["file"][:])}
    missing = [file for file in protocol.files if file not in place]
    if missing:
        raise InputError(f"{images} lacks {len(missing)} images that the pairs name, the first: {missing[0]}")
    photos = AlignedFaces(faces.select([place[file] for file in protocol.files]), processor)
    points = crop_landmarks(identity_model.landmarks, faces, photos, processor)
    found = np.isfinite(points).all((1, 2))
    embeddings = np.zeros(
        (len(protocol.files), identity_model.embeddings.embedder.config.embedding_size), dtype=np.float32
    )
    pixels = photos.pixels()
    for part in torch.from_numpy(np.flatnonzero(found)).split(64):
        reconstructed, _ = reconstruction.reconstruct(model, processor.normalize(pixels[part]))
        embeddings[part.numpy()] = identity_model.embeddings(reconstructed.clamp(0, 1), points[part.numpy()]).numpy()
    failures = {file: "no face detected" for file, there in zip(protocol.files, found, strict=True) if not there}
    metrics = protocol.result(embeddings, AlignedCrops(protocol.files, pixels, failures)).metrics
    return {
        "view2_accuracy": metrics[f"{protocol.name}_accuracy"],
        "view2_standard_error": metrics.get(f"{protocol.name}_standard_error", 0.0),
    }


def crop_landmarks(
    landmarks: Mapping[str, np.ndarray | None] | None,
    photos: Any,
    crops: AlignedFaces,
    processor: ConvAutoencoderImageProcessor,
) -> np.ndarray:
    """Landmarks in the crops' pixels, (N, 5, 2), NaN where there are none; all photos are of one size.

    Raises:
        InputError: Photos that are to be crops on the standard template are not of its size.
    """
    width, height = photos[0]["image"].size
    nothing = np.full((5, 2), np.nan)
    if landmarks is None and (width, height) != (112, 112):
        raise InputError(f"photos on the standard template are of 112 x 112 pixels, these of {width} x {height}")
    template = template_for_size(112, 112)
    found = [template if landmarks is None else landmarks.get(file) for file in crops.files]
    points = np.stack([nothing if point is None else np.asarray(point, dtype=np.float64) for point in found])
    return processor.points_in_crop(points, height, width)


def summary(report: dict[str, Any]) -> str:
    """The figures as lines to print."""
    lines = [f"{report[NAME]['images']}; {report['num_latents']} latents, {report['active_latents']} of them active"]
    has_identity = "identity_kept" in report
    lines.append(
        f"{'':12}{'PSNR':>8}{'SSIM':>8}{'sharpness':>11}"
        + (f"{'identity kept':>15}{'perceptual distance':>21}" if has_identity else "")
    )
    for name, prefix in (("this model", ""), ("coded", "coded_"), ("PCA", "pca_"), ("JPEG", "jpeg_")):
        if f"{prefix}psnr" not in report:
            continue
        psnr, ssim, sharpness = (report[prefix + figure] for figure in ("psnr", "ssim", "sharpness"))
        line = f"{name:12}{psnr:8.2f}{ssim:8.3f}{sharpness:11.0%}"
        if has_identity:
            line += f"{report[f'{prefix}identity_kept']:15.3f}{report[f'{prefix}perceptual_distance']:21.3f}"
        lines.append(line + (f"  at {report[f'{prefix}bytes']:.0f} bytes" if f"{prefix}bytes" in report else ""))
    for prefix, label in _MORPHS.items():
        if f"{prefix}midpoint_sharpness" not in report:
            continue
        line = f"halfway between two photos, {label}: sharpness {report[f'{prefix}midpoint_sharpness']:.0%} of theirs"
        if f"{prefix}midpoint_identity_start" in report:
            start, end, gap = (report[f"{prefix}midpoint_identity_{name}"] for name in ("start", "end", "gap"))
            line += f", identity {start:.3f} and {end:.3f} to the ends, {gap:.3f} apart"
        lines.append(line)
    if "view2_accuracy" in report:
        error = report["view2_standard_error"]
        lines.append(f"View 2 on reconstructions: {report['view2_accuracy']:.2f} +- {error:.2f} %")
    return "\n".join(lines)
