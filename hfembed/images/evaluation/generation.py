"""How much made-up faces are like real ones, by what a face embedder sees in them."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
from sklearn.decomposition import PCA
from transformers import BaseImageProcessor, PreTrainedModel

from hfembed.checkpoint.results import provenance, write_results
from hfembed.errors import InputError
from hfembed.images.latent_statistics import LatentStatistics, decode_latents, sample_prior


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
    """The linear way to make faces: principal components of pixels, drawn from one Gaussian.

    Args:
        images: (M, C, H, W) float in [0, 1], to fit on.
        components: Numbers a face is drawn with, at most M.
    """

    def __init__(self, images: torch.Tensor, components: int):
        self.pca = PCA(components, svd_solver="randomized", iterated_power=5, random_state=0).fit(
            images.flatten(1).numpy()
        )
        self.shape = images.shape[1:]

    def sample(self, count: int, seed: int = 0) -> torch.Tensor:
        """Draw images.

        Args:
            count: How many.
            seed: Another seed, other images.

        Returns:
            (count, C, H, W) float32, clipped to [0, 1].
        """
        noise = np.random.default_rng(seed).standard_normal((count, len(self.pca.components_)))
        flat = self.pca.inverse_transform(noise * np.sqrt(self.pca.explained_variance_))
        return torch.from_numpy(flat.astype(np.float32)).view(count, *self.shape).clamp_(0, 1)


def distances_of_samples(
    embed: Callable[[torch.Tensor], np.ndarray],
    held_out: torch.Tensor,
    known: torch.Tensor,
    samplers: dict[str, Callable[[int, int], torch.Tensor]],
    draws: int = 5,
) -> dict[str, list[float]]:
    """Frechet distances of made-up images to held-out ones.

    Args:
        embed: Images (N, C, H, W) in [0, 1] -> features (N, D).
        held_out: (N, C, H, W) in [0, 1], of people that no sampler was fitted on.
        known: (M, C, H, W) in [0, 1], real images of other people: their distance is the floor, what N draws of real
            faces score.
        samplers: Name -> (count, seed) -> images.
        draws: Sets of N images drawn from each.

    Returns:
        Name -> a distance for each draw; first "real_faces".
    """
    features = embed(held_out)
    count = len(held_out)

    def real(number: int, seed: int) -> torch.Tensor:
        chosen = np.random.default_rng(seed).choice(len(known), size=number, replace=False)
        return known[torch.from_numpy(chosen)]

    return {
        name: [frechet_distance(features, embed(sample(count, seed))) for seed in range(draws)]
        for name, sample in {"real_faces": real, **samplers}.items()
    }


def mean_face_points(faces: datasets.Dataset, processor: BaseImageProcessor, photos: int = 500) -> np.ndarray:
    """Where the five points of a face lie on average in an autoencoder's crops.

    Args:
        faces: With `image` and `landmarks`.
        processor: The autoencoder's.
        photos: How many to look at, spread evenly.

    Returns:
        (5, 2), [x, y] in pixels of the crop.

    Raises:
        InputError: No photo has landmarks.
    """
    found = []
    for row in np.linspace(0, len(faces) - 1, min(photos, len(faces))).astype(int):
        face = faces[int(row)]
        if face["landmarks"] is not None:
            left, top, right, _ = processor.crop_box(face["image"].height, face["image"].width)
            # pixel centres lie at whole numbers, boxes count from the picture's corner
            scale = processor.size["width"] / (right - left)
            found.append((np.asarray(face["landmarks"]) + 0.5 - [left, top]) * scale - 0.5)
    if not found:
        raise InputError("no photo has landmarks: an embedder cannot be told where the faces are")
    return np.mean(found, axis=0)


def report_generation(
    autoencoders: dict[str, PreTrainedModel],
    embed: Callable[[torch.Tensor], np.ndarray],
    held_out: torch.Tensor,
    known: torch.Tensor,
    output: str | Path,
    files: dict[str, str | Path | None],
    draws: int = 5,
) -> dict[str, list[float]]:
    """Compare every way of each autoencoder to make faces with a Gaussian over pixels; write results.json.

    Args:
        autoencoders: Folder or Hub id -> model with latent statistics beside it.
        embed: See `distances_of_samples`.
        held_out: (N, C, H, W) in [0, 1].
        known: (M, C, H, W) in [0, 1].
        output: Folder for results.json.
        files: Role -> file or folder, for the provenance.
        draws: Of each.

    Returns:
        Name -> a distance for each draw.

    Raises:
        InputError: An autoencoder has no latent statistics.
        OSError: results.json cannot be written.
    """
    numbers = max(model.config.num_latents for model in autoencoders.values())
    samplers: dict[str, Callable[[int, int], torch.Tensor]] = {
        f"pca_gaussian_{numbers}": PcaGaussian(known, numbers).sample
    }
    for name, model in autoencoders.items():
        statistics = LatentStatistics.load(name)
        ways = {"mixture": statistics.sample_mixture, "gaussian": statistics.sample_gaussian}
        if getattr(model.config, "variational", False):
            ways["prior"] = lambda count, seed, model=model: sample_prior(model, count, seed)
        for way, draw in ways.items():
            samplers[f"{Path(name).name}_{way}"] = lambda count, seed, model=model, draw=draw: decode_latents(
                model, draw(count, seed)
            )
    distances = distances_of_samples(embed, held_out, known, samplers, draws)
    metrics = {f"generation_{name}": float(np.mean(values)) for name, values in distances.items()}
    write_results(output, "generation", metrics, {"images": len(held_out), "draws": distances} | provenance(files))
    return distances
