"""Pictures between two faces, and pictures along a direction of the latents."""

import torch

from hfembed.images.interpolation import gradient_energy, linear_path, spherical_path
from hfembed.images.latent_statistics import decode_latents, encode_images
from hfembed.models.autoencoder_base import AutoencoderModelBase


def morph(
    model: AutoencoderModelBase,
    start: torch.Tensor,
    end: torch.Tensor,
    steps: int = 24,
    spherical: bool = False,
    center: torch.Tensor | None = None,
) -> torch.Tensor:
    """Turn one image into another through the latents between theirs: (steps, C, H, W) float32 in [0, 1].

    The first and the last are the reconstructions of `start` and `end`, (C, H, W) in [0, 1]. A spherical path follows
    the great circle around `center`, such as the mean latent; zero by default.

    Raises:
        InputError: The model takes images of other channels or sizes, or cannot decode latents.
        ValueError: Fewer than two steps, or latents in opposite directions from the center.
    """
    first, last = encode_images(model, torch.stack([start, end]))
    path = spherical_path(first, last, steps, center) if spherical else linear_path(first, last, steps)
    return decode_latents(model, path)


def walk(
    model: AutoencoderModelBase, image: torch.Tensor, direction: torch.Tensor, reach: float = 2.0, steps: int = 9
) -> torch.Tensor:
    """Move an image's latent by up to `reach` times a direction, to both sides: (steps, C, H, W) in [0, 1].

    The direction is one of `attribute_direction` or `LatentStatistics.direction`; an odd number of steps has the
    image's reconstruction in the middle.

    Raises:
        InputError: The model takes images of other channels or sizes, or cannot decode latents.
    """
    latent = encode_images(model, image[None])
    return decode_latents(model, latent + torch.linspace(-reach, reach, steps).view(-1, 1, 1, 1) * direction)


def midpoint_sharpness(frames: torch.Tensor) -> float:
    """Gradient energy of a morph's middle frame as a fraction of its ends'; a blend of two faces has about a half."""
    energy = gradient_energy(frames[[0, len(frames) // 2, -1]])
    return float(energy[1] / (0.5 * (energy[0] + energy[2])))
