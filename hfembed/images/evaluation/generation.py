"""How similar generated faces are to real ones, by the features of a face embedder."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from sklearn.decomposition import PCA

from hfembed.checkpoint.results import provenance, weights_stamp, write_results
from hfembed.errors import InputError
from hfembed.images.latent_statistics import LatentStatistics, decode_latents, sample_prior
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor

Sampler = Callable[[int, int], torch.Tensor]  # (count, seed) -> images, or latents


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two sets of features, each taken for a Gaussian.

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, eq. 6:
    |m1 - m2| ** 2 + trace(C1 + C2 - 2 (C1 C2) ** (1/2)). It falls with the number of features even for two sets of one
    kind: compare sets of equal sizes.

    Args:
        first: (N, D), more rows than columns.
        second: (M, D).

    Returns:
        From 0 up, in squared units of the features.
    """
    means = first.mean(0), second.mean(0)
    covariances = [np.cov(features.astype(np.float64), rowvar=False) for features in (first, second)]
    # the trace of the root of C1 C2 is that of the symmetric C1 ** (1/2) C2 C1 ** (1/2)
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ covariances[1] @ root), 0, None)).sum()
    trace = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
    return float(((means[0] - means[1]) ** 2).sum() + max(trace, 0.0))


class PcaGaussian:
    """The linear baseline: principal components of pixels (M, C, H, W), at most M, drawn from one Gaussian."""

    def __init__(self, images: torch.Tensor, components: int):
        self.pca = PCA(components, svd_solver="randomized", iterated_power=5, random_state=0).fit(
            images.flatten(1).numpy()
        )
        self.shape = images.shape[1:]

    def sample(self, count: int, seed: int = 0) -> torch.Tensor:
        """Draw images (count, C, H, W) float32, clipped to [0, 1]."""
        noise = np.random.default_rng(seed).standard_normal((count, len(self.pca.components_)))
        flat = self.pca.inverse_transform(noise * np.sqrt(self.pca.explained_variance_))
        return torch.from_numpy(flat.astype(np.float32)).view(count, *self.shape).clamp_(0, 1)


def distances_of_samples(
    embed: Callable[[torch.Tensor], np.ndarray],
    held_out: torch.Tensor,
    known: torch.Tensor,
    samplers: dict[str, Sampler],
    draws: int = 5,
) -> dict[str, list[float]]:
    """Frechet distances of generated images to held-out ones, one per draw of as many images.

    Args:
        embed: Images (N, C, H, W) in [0, 1] -> features (N, D).
        held_out: Images of people that no sampler was fitted on.
        known: Real images of other people: their distance is the baseline, "real_faces" in the answer.
        samplers: Name -> sampler of images.
    """
    held_out = held_out[: len(known)]  # sets of equal sizes are compared
    features = embed(held_out)
    count = len(held_out)

    def real(number: int, seed: int) -> torch.Tensor:
        chosen = np.random.default_rng(seed).choice(len(known), size=number, replace=False)
        return known[torch.from_numpy(chosen)]

    return {
        name: [frechet_distance(features, embed(sample(count, seed))) for seed in range(draws)]
        for name, sample in {"real_faces": real, **samplers}.items()
    }


def mean_face_points(
    faces: datasets.Dataset, processor: ConvAutoencoderImageProcessor, photos: int = 500
) -> np.ndarray:
    """The mean positions (5, 2) of a face's landmarks in pixels of an autoencoder's crops.

    Raises:
        InputError: No photo has landmarks.
    """
    found = []
    for row in np.linspace(0, len(faces) - 1, min(photos, len(faces))).astype(int):
        face = faces[int(row)]
        if face["landmarks"] is not None:
            left, top, right, _ = processor.crop_box(face["image"].height, face["image"].width)
            # pixel centers lie at whole numbers, boxes count from the picture's corner
            scale = processor.size["width"] / (right - left)
            found.append((np.asarray(face["landmarks"]) + 0.5 - [left, top]) * scale - 0.5)
    if not found:
        raise InputError("no photo has landmarks; the embedder needs the positions of the faces")
    return np.mean(found, axis=0)


class GenerationCase(NamedTuple):
    """An autoencoder to measure, with images (N, C, H, W) in [0, 1] in crops of its own processor.

    `embed` turns images into features (N, D); `held_out` shows people of the split that it was not trained on, `known`
    the others.
    """

    name: str
    model: AutoencoderModelBase
    statistics: LatentStatistics
    embed: Callable[[torch.Tensor], np.ndarray]
    held_out: torch.Tensor
    known: torch.Tensor
    split: dict[str, Any]


def report_generation(
    cases: Sequence[GenerationCase], output: str | Path, files: dict[str, str | Path | None], draws: int = 5
) -> dict[str, list[float]]:
    """Compare every way of each autoencoder to generate faces with a Gaussian over pixels; write results.json.

    What is measured of a model depends on that model alone, not on those beside it or their order. Of several models,
    the baselines carry their names too.

    Raises:
        InputError: Two autoencoders have the same name, or one has latents that cannot be decoded.
    """
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise InputError(f"two models have the same name, {', '.join(sorted(names))}; measure them one at a time")
    distances = {}
    for case in cases:
        numbers = min(case.model.config.num_latents, len(case.known))
        ways: dict[str, Sampler] = {
            "mixture": case.statistics.sample_mixture,
            "gaussian": case.statistics.sample_gaussian,
        }
        if getattr(case.model.config, "variational", False):
            ways["prior"] = functools.partial(sample_prior, case.model)
        samplers: dict[str, Sampler] = {f"pca_gaussian_{numbers}": PcaGaussian(case.known, numbers).sample}
        for way, draw in ways.items():
            samplers[f"{case.name}_{way}"] = functools.partial(_generate, case.model, draw)
        for name, values in distances_of_samples(case.embed, case.held_out, case.known, samplers, draws).items():
            is_own = name.startswith(f"{case.name}_") or len(cases) == 1
            distances[name if is_own else f"{case.name}_{name}"] = values
    metrics = {f"generation_{name}": float(np.mean(values)) for name, values in distances.items()}
    details = {
        "images": len(cases[0].held_out),
        "draws": distances,
        "splits": {case.name: case.split for case in cases},
    }
    if len(cases) > 1:
        details["models"] = {case.name: weights_stamp(case.model) for case in cases}
    measured = cases[0].model if len(cases) == 1 else None
    write_results(output, "generation", metrics, details | provenance(files), measured)
    return distances


def _generate(model: AutoencoderModelBase, draw: Sampler, count: int, seed: int) -> torch.Tensor:
    return decode_latents(model, draw(count, seed))
