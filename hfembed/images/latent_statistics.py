"""How an autoencoder's latents are spread over images: what sampling, walking and compressing need to know."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from sklearn.mixture import GaussianMixture
from sklearn.utils.extmath import randomized_svd

from hfembed.atomic import atomic_write
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.files import STATISTICS_FILE
from hfembed.errors import InputError
from hfembed.images.tiling import decode_in_tiles, encode_in_tiles
from hfembed.models.autoencoder_base import AutoencoderModelBase

_MOST_DIRECTIONS = 256  # principal directions the mixture lives in; the covariances grow with the square
_EXACT_DIRECTIONS = 2500  # numbers or images, up to which all directions are computed
_LARGEST_WHOLE = 1024**2  # pixels of an image, above which it goes through a network in tiles
_PROBED_IMAGES = 16  # latents around which the decoder's sensitivity is measured


@dataclass
class LatentStatistics:
    """Moments, principal directions and a Gaussian mixture of latents, each latent flattened to D numbers.

    Attributes:
        mean: (D,).
        std: (D,).
        sensitivity: (D,), root mean square change of the pixels, in units of their range, for a change by 1.
        directions: (K, D), unit length, largest variance first.
        deviations: (K,), standard deviation along each direction.
        mixture_weights: (M,), sum to one.
        mixture_means: (M, K), in units of the deviations.
        mixture_factors: (M, K, K), Cholesky factors of the covariances, lower triangular, in the same units.
        shape: (3,) int64: channels, height and width of the latents.
    """

    mean: np.ndarray
    std: np.ndarray
    sensitivity: np.ndarray
    directions: np.ndarray
    deviations: np.ndarray
    mixture_weights: np.ndarray
    mixture_means: np.ndarray
    mixture_factors: np.ndarray
    shape: np.ndarray

    @classmethod
    def fit(
        cls, model: AutoencoderModelBase, latents: torch.Tensor, mixture_components: int = 8, seed: int = 0
    ) -> "LatentStatistics":
        """Measure latents (N, C, h, w) of the images that the model was trained on.

        Raises:
            InputError: There are fewer latents than Gaussians, or fewer than two.
        """
        if len(latents) < max(2, mixture_components):
            raise InputError(f"{len(latents)} images are too few for {mixture_components} Gaussians: give more images")
        flat = latents.flatten(1).cpu().double().numpy()
        mean = flat.mean(0)
        if not (flat != mean).any():
            raise InputError("all images have the same latents: the model is not trained")
        if min(flat.shape) > _EXACT_DIRECTIONS:
            _, singular, directions = randomized_svd(flat - mean, _MOST_DIRECTIONS, random_state=seed)
        else:
            _, singular, directions = np.linalg.svd(flat - mean, full_matrices=False)
        deviations = singular / np.sqrt(len(flat) - 1)
        used = min(_MOST_DIRECTIONS, int((deviations > 1e-6 * deviations[0]).sum()))
        directions, deviations = directions[:used], deviations[:used]
        whitened = (flat - mean) @ directions.T / deviations
        mixture = GaussianMixture(mixture_components, reg_covar=1e-3, random_state=seed, max_iter=200).fit(whitened)
        std = flat.std(0)
        return cls(
            mean=mean,
            std=std,
            sensitivity=_sensitivity(model, latents, std),
            directions=directions,
            deviations=deviations,
            mixture_weights=mixture.weights_,
            mixture_means=mixture.means_,
            mixture_factors=np.linalg.cholesky(mixture.covariances_),
            shape=np.array(latents.shape[1:]),
        )

    def sample_mixture(self, count: int, seed: int = 0) -> torch.Tensor:
        """Draw latents (count, C, h, w) from the mixture."""
        generator = np.random.default_rng(seed)
        chosen = generator.choice(len(self.mixture_weights), size=count, p=self.mixture_weights)
        noise = generator.standard_normal((count, len(self.deviations), 1))
        whitened = self.mixture_means[chosen] + (self.mixture_factors[chosen] @ noise)[:, :, 0]
        return self._shaped(self.mean + (whitened * self.deviations) @ self.directions)

    def sample_gaussian(self, count: int, seed: int = 0) -> torch.Tensor:
        """Draw latents (count, C, h, w) from one Gaussian of the latents' mean and covariance."""
        noise = np.random.default_rng(seed).standard_normal((count, len(self.deviations)))
        return self._shaped(self.mean + (noise * self.deviations) @ self.directions)

    def direction(self, number: int) -> torch.Tensor:
        """One standard deviation (C, h, w) along a principal direction, from 0, that of largest variance.

        Raises:
            InputError: There are fewer directions.
        """
        if not 0 <= number < len(self.deviations):
            raise InputError(f"there is no direction {number}; choose one from 0 to {len(self.deviations) - 1}")
        return self._shaped((self.deviations[number] * self.directions[number])[None])[0]

    def whiten(self, latents: torch.Tensor, power: float = 1.0) -> torch.Tensor:
        """Latents (N, C, h, w) in the basis of the principal directions, (N, K), largest variance first.

        Each is divided by this power of its deviation: 0 only turns, 1 makes all directions vary alike.
        """
        centered = latents.flatten(1).cpu().double().numpy() - self.mean
        return torch.from_numpy((centered @ self.directions.T / self.deviations**power).astype(np.float32))

    def save(self, checkpoint: str | Path | Checkpoint, more: Mapping[str, np.ndarray] | None = None) -> Path:
        """Write the statistics, and more tensors, beside a local checkpoint, with the fingerprint of its weights; give
        the file.
        """
        checkpoint = Checkpoint.resolve(checkpoint)
        checkpoint.check_writable()
        path = checkpoint.folder / STATISTICS_FILE
        tensors = {item.name: np.ascontiguousarray(getattr(self, item.name)) for item in fields(self)}
        tensors |= more or {}
        with atomic_write(path) as temporary:
            save_file(
                tensors, temporary, metadata={"weights": checkpoint.fingerprint} if checkpoint.has_weights else None
            )
        return path

    @classmethod
    def load(cls, checkpoint: str | Path | Checkpoint) -> "LatentStatistics":
        """Read the statistics beside a checkpoint.

        Raises:
            InputError: There are none, those of other weights, or the file is damaged.
        """
        checkpoint = Checkpoint.resolve(checkpoint)
        path = checkpoint.latent_statistics
        if path is None:
            raise InputError(
                f"{checkpoint.name} has no {STATISTICS_FILE} of its weights: measure its latents first, "
                f"hfembed fit-latents {checkpoint.name} --images ..."
            )
        try:
            with safe_open(path, "np") as file:
                for item in fields(cls):
                    kind = file.get_slice(item.name).get_dtype()
                    if kind not in (("I64",) if item.name == "shape" else ("F32", "F64")):
                        raise ValueError(f"{item.name} has numbers of type {kind}")
                statistics = cls(**{item.name: file.get_tensor(item.name) for item in fields(cls)})
            statistics._check()
            return statistics
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}): measure the latents again") from error

    def _check(self) -> None:
        """Reject numbers that are not finite, and shapes that do not belong together."""
        size, directions, components = self.mean.size, len(self.deviations), len(self.mixture_weights)
        is_shape = self.shape.shape == (3,) and self.shape.min() > 0 and math.prod(self.shape.tolist()) == size
        if not is_shape or not directions or not components:
            raise ValueError(f"{size} numbers cannot have the shape {self.shape.tolist()}")
        for name, shape in {
            "mean": (size,), "std": (size,), "sensitivity": (size,),
            "directions": (directions, size), "deviations": (directions,),
            "mixture_weights": (components,), "mixture_means": (components, directions),
            "mixture_factors": (components, directions, directions),
        }.items():  # fmt: skip
            values = getattr(self, name)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"{name} has the shape {values.shape} instead of {shape}, or is not finite")
        if min(self.std.min(), self.sensitivity.min(), self.deviations.min(), self.mixture_weights.min()) < 0:
            raise ValueError("a standard deviation or weight is negative")

    def _shaped(self, flat: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(flat.astype(np.float32)).view(-1, *self.shape.tolist())


def sample_prior(model: AutoencoderModelBase, count: int, seed: int = 0) -> torch.Tensor:
    """Draw latents (count, C, h, w) from the prior of a variational autoencoder, the standard normal.

    Raises:
        InputError: The model is not variational: its latents have no prior.
    """
    if not getattr(model.config, "variational", False):
        raise InputError("this autoencoder is not variational: sample from a mixture fitted to its latents instead")
    return torch.randn(count, *model.config.latent_shape, generator=torch.Generator().manual_seed(seed))


def attribute_direction(latents: torch.Tensor, has_attribute: torch.Tensor) -> torch.Tensor:
    """From the mean latent of images without an attribute to that of images with it: (C, h, w).

    Larsen et al., "Autoencoding beyond pixels using a learned similarity metric", 2016, section 4.2. Added to a
    latent, it adds the attribute; subtracted, it removes it.

    Raises:
        InputError: All images have the attribute, or none.
    """
    if has_attribute.all() or not has_attribute.any():
        raise InputError("an attribute's direction needs images with it and images without it")
    return latents[has_attribute].mean(0) - latents[~has_attribute].mean(0)


def check_has_latents(model: AutoencoderModelBase) -> None:
    """Refuse a model whose images cannot be decoded from latents alone.

    Raises:
        InputError: It is a restoration model: its decoder sees its encoder's feature maps too.
    """
    if type(model).encode is AutoencoderModelBase.encode:
        raise InputError(
            "this model has no latents that an image could be decoded from: it restores photos (hfembed restore, "
            "hfembed denoise); take an autoencoder"
        )


@torch.no_grad()
def encode_images(model: AutoencoderModelBase, images: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Images (N, C, H, W) in [0, 1] -> latents (N, channels, h, w) float32 on the CPU.

    Images of more than 1024 x 1024 pixels are encoded in tiles, one by one (`encode_in_tiles`).

    Raises:
        InputError: The model takes images of other channels or sizes, has no latents, or a number is not finite.
    """
    try:
        if images.shape[2:].numel() > _LARGEST_WHOLE and model.config.is_convolutional:
            latents = torch.cat([encode_in_tiles(model, image.cpu()) for image in images.split(1)])
        else:
            parts = images.split(batch_size)
            latents = torch.cat([model.encode(part.to(model.device)).float().cpu() for part in parts])
    except ValueError as error:
        raise InputError(str(error)) from error
    if not latents.isfinite().all():
        raise InputError("the model gives latents that are not finite: its weights are damaged, or the images")
    return latents


@torch.no_grad()
def decode_latents(model: AutoencoderModelBase, latents: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Latents (N, channels, h, w) -> images (N, C, H, W) float32 on the CPU, clipped to [0, 1].

    Images of more than 1024 x 1024 pixels are decoded in tiles, one by one (`decode_in_tiles`).

    Raises:
        InputError: The model has latents of another shape, cannot decode latents, or a number is not finite.
    """
    try:
        if latents.shape[2:].numel() * model.config.stride**2 > _LARGEST_WHOLE and model.config.is_convolutional:
            parts = [decode_in_tiles(model, latent.cpu()) for latent in latents.split(1)]
        else:
            parts = [model.decode(part.to(model.device)).float().cpu() for part in latents.split(batch_size)]
    except ValueError as error:
        raise InputError(str(error)) from error
    images = torch.cat(parts)
    if not images.isfinite().all():
        raise InputError("the model gives images that are not finite: its weights are damaged, or the latents")
    return images.clamp_(0, 1)


def _sensitivity(model: AutoencoderModelBase, latents: torch.Tensor, std: np.ndarray) -> np.ndarray:
    """Central differences of half a standard deviation to either side, around latents spread over the set.

    A decoder of a grid treats all its positions alike: each channel is probed at one position per image.
    """
    spread = torch.linspace(0, len(latents) - 1, min(_PROBED_IMAGES, len(latents))).long()
    probed = latents[spread].flatten(1).cpu()
    channels, positions = latents.shape[1], latents[0, 0].numel()
    places = torch.linspace(0, positions - 1, len(probed)).round().long()
    result = np.zeros((channels, positions))
    for number, deviation in enumerate(std.reshape(channels, positions).mean(1)):
        if deviation > 0:
            step = torch.zeros_like(probed)
            step[torch.arange(len(probed)), number * positions + places] = 0.5 * deviation
            above, below = (
                decode_latents(model, (probed + sign * step).view(-1, *latents.shape[1:])) for sign in (1, -1)
            )
            result[number] = float((above - below).square().mean().sqrt()) / deviation
    return result.ravel()
