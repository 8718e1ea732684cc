"""Measure an autoencoder on people it has not seen, beside PCA and JPEG: `hfembed evaluate reconstruction`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hfembed.checkpoint.results import provenance, read_results, write_results
from hfembed.errors import InputError
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.faces import load_faces
from hfembed.faces.data.landmarks import read_landmarks
from hfembed.faces.data.lfw import LfwPairs
from hfembed.faces.data.splits import split_people
from hfembed.faces.evaluation.embedding import AlignedCrops
from hfembed.faces.evaluation.lfw import LfwVerification
from hfembed.images.evaluation import reconstruction
from hfembed.images.evaluation.reconstruction_pictures import draw_rows
from hfembed.images.latent_statistics import decode_latents
from hfembed.images.morphing import midpoint_sharpness
from hfembed.images.training.perceptual_loss import feature_distance
from hfembed.images.training.perceptual_networks import FaceEmbeddings
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.restoration_autoencoder.modeling_restoration_autoencoder import RestorationAutoencoderModel

NAME = "reconstruction"


class IdentityModel(NamedTuple):
    """A face embedder that measures whether a reconstruction shows the same person.

    Attributes:
        landmarks: File -> five [x, y] in the photo's pixels; photos without are left out.
        pairs: LFW's View 2, to verify people on reconstructions of both photos; None leaves that out.
    """

    embeddings: FaceEmbeddings
    landmarks: Mapping[str, np.ndarray | None]
    pairs: LfwPairs | None = None


def make_identity_model(
    embedder: FaceEmbedderModel,
    processor: FaceImageProcessor,
    landmarks: str | Path,
    pairs: LfwPairs | None = None,
) -> IdentityModel:
    """An identity model from a face embedder and the file of landmarks."""
    return IdentityModel(FaceEmbeddings(embedder, processor, processor.template), read_landmarks(landmarks), pairs)


def report_reconstruction(
    model: AutoencoderModelBase,
    processor: ConvAutoencoderImageProcessor,
    images: str | Path,
    output: str | Path,
    split: dict[str, Any],
    identity_model: IdentityModel | None = None,
    pictures: int = 12,
) -> dict[str, Any]:
    """Measure, write results.json and reconstructions.png.

    PCA with as many components as the model has latents is fitted on the people who were not held out. The answer has
    the figures, and under "reconstruction" how they came about.

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
    figures = {
        "psnr": reconstruction.psnr(reconstructed, test),
        "ssim": reconstruction.ssim(reconstructed, test),
        "image_psnr": reconstruction.image_psnr(reconstructed, test),
        "num_latents": count,
        "active_latents": reconstruction.active_latents(latents),
    }
    ends = far_pairs(len(test))
    if len(test) > 1 and not isinstance(model, RestorationAutoencoderModel):
        middles = latents[ends].mean(0).view(-1, *model.config.latent_shape)
        figures["midpoint_sharpness"] = pairs_sharpness(reconstructed[ends], decode_latents(model, middles))
    rows = {"photos": test, "this model": reconstructed}
    if count <= min(len(train), train[0].numel()):
        pca_reconstructed = reconstruction.pca_reconstruction(train, test, count)
        rows["PCA"] = pca_reconstructed
        figures |= {
            "pca_psnr": reconstruction.psnr(pca_reconstructed, test),
            "pca_ssim": reconstruction.ssim(pca_reconstructed, test),
            "pca_image_psnr": reconstruction.image_psnr(pca_reconstructed, test),
        }
        if "midpoint_sharpness" in figures:
            figures["pca_midpoint_sharpness"] = pairs_sharpness(
                pca_reconstructed[ends], pca_reconstructed[ends].mean(0)
            )
    by_jpeg, size = reconstruction.jpeg_reconstruction(test, count)
    figures |= {
        "jpeg_bytes": size,
        "jpeg_psnr": reconstruction.psnr(by_jpeg, test),
        "jpeg_ssim": reconstruction.ssim(by_jpeg, test),
    }
    if identity_model is not None:
        points = crop_landmarks(identity_model.landmarks, held_out, unseen, processor)
        for name, row in zip(("", "pca_"), list(rows.values())[1:], strict=False):
            kept, distance = identity_kept(identity_model, test, row, points)
            figures |= {f"{name}identity_kept": kept, f"{name}perceptual_distance": distance}
        if identity_model.pairs is not None:
            figures |= verified(model, processor, images, identity_model, identity_model.pairs)
    details = {
        "model": str(model.config.name_or_path),
        "images": f"{len(test)} of {len(unseen.identities)} held-out people, as {tuple(test.shape[1:])}",
        "pca_fitted_on": f"{len(train)} images of the other {len(known.identities)} people",
        "split": split,
        "psnr": "dB, of the squared error averaged over all images; image_psnr averages over images in dB",
        "ssim": "torchmetrics, its defaults, data_range 1",
        "jpeg": "at the highest quality whose mean file is not above one byte per latent number, or at the lowest",
        "figures": sorted(figures),
        **provenance({"images": images}),
    }
    if pictures:
        chosen = torch.linspace(0, len(test) - 1, min(pictures, len(test))).round().long()
        draw_rows({label: row[chosen] for label, row in rows.items()}, output / "reconstructions.png")
    write_results(output, NAME, figures, details, model)
    return {**figures, NAME: details}


def far_pairs(count: int, pairs: int = 100) -> torch.Tensor:
    """Rows of photos to morph into each other: (2, at most `pairs`), the second half a data set after the first."""
    first = torch.linspace(0, count - count // 2 - 1, min(pairs, count // 2)).long()
    return torch.stack([first, first + count // 2])


def pairs_sharpness(ends: torch.Tensor, middles: torch.Tensor) -> float:
    """Mean of `midpoint_sharpness` over morphs between `ends` (2, N, C, H, W) with the images `middles` halfway."""
    morphs = zip(ends[0].clamp(0, 1), middles.clamp(0, 1), ends[1].clamp(0, 1), strict=True)
    return float(np.mean([midpoint_sharpness(torch.stack(frames)) for frames in morphs]))


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
    landmarks: Mapping[str, np.ndarray | None],
    photos: Any,
    crops: AlignedFaces,
    processor: ConvAutoencoderImageProcessor,
) -> np.ndarray:
    """Landmarks in the crops' pixels, (N, 5, 2), NaN where there are none; all photos are of one size."""
    width, height = photos[0]["image"].size
    left, top, right, bottom = processor.crop_box(height, width)
    scale = np.array([processor.size["width"] / (right - left), processor.size["height"] / (bottom - top)])
    nothing = np.full((5, 2), np.nan)
    found = [landmarks.get(file) for file in crops.files]
    points = np.stack([nothing if point is None else np.asarray(point, dtype=np.float64) for point in found])
    # pixel centers lie at whole numbers, scaling happens about the picture's corner
    return (points + 0.5 - np.array([left, top])) * scale - 0.5


def summary(report: dict[str, Any]) -> str:
    """The figures as lines to print."""
    lines = [
        f"{report[NAME]['images']}; {report['num_latents']} latents, {report['active_latents']} of them active",
        f"  this model: PSNR {report['psnr']:.2f} dB, SSIM {report['ssim']:.3f}",
    ]
    if "pca_psnr" in report:
        lines.append(f"  PCA:        PSNR {report['pca_psnr']:.2f} dB, SSIM {report['pca_ssim']:.3f}")
    lines.append(
        f"  JPEG:       PSNR {report['jpeg_psnr']:.2f} dB, SSIM {report['jpeg_ssim']:.3f} at "
        f"{report['jpeg_bytes']:.0f} bytes"
    )
    if "midpoint_sharpness" in report:
        pca = f", PCA {report['pca_midpoint_sharpness']:.0%}" if "pca_midpoint_sharpness" in report else ""
        lines.append(f"  sharpness halfway between two photos: {report['midpoint_sharpness']:.0%} of theirs{pca}")
    if "identity_kept" in report:
        pca = f", PCA {report['pca_identity_kept']:.3f}" if "pca_identity_kept" in report else ""
        lines.append(f"  identity kept (cosine): {report['identity_kept']:.3f}{pca}")
    if "view2_accuracy" in report:
        error = report["view2_standard_error"]
        lines.append(f"  View 2 on reconstructions: {report['view2_accuracy']:.2f} +- {error:.2f} %")
    return "\n".join(lines)
