"""Pictures between two faces, and pictures along a direction of the latents."""

import numpy as np
import torch
from PIL import Image

from hfembed.errors import input_errors
from hfembed.faces.face_pasting import align_face, find_faces
from hfembed.images.interpolation import even_shares, gradient_energy, linear_path, spherical_path
from hfembed.images.latent_statistics import decode_latents, encode_images
from hfembed.models.autoencoder_base import AutoencoderModelBase
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.point_warp import warp_points


def morph(
    model: AutoencoderModelBase,
    start: torch.Tensor,
    end: torch.Tensor,
    steps: int = 24,
    spherical: bool = False,
    center: torch.Tensor | None = None,
    points: torch.Tensor | None = None,
) -> torch.Tensor:
    """Turn one image into another through the latents between theirs: (steps, C, H, W) float32 in [0, 1].

    The first and the last are the reconstructions of `start` and `end`, (C, H, W) in [0, 1]. A spherical path follows
    the great circle around `center`, such as the mean latent; zero by default.

    With `points` (2, K, 2), [x, y] in pixels of what corresponds in both, such as five landmarks (`align_photo`), both
    images are warped to the points in between before they are encoded: shape by points, texture by latents.

    Raises:
        InputError: The model takes images of other channels or sizes, or cannot decode latents.
        ValueError: Fewer than two steps, or latents in opposite directions from the center.
    """
    shares = even_shares(steps)
    if points is None:
        first, last = encode_images(model, torch.stack([start, end]))
        return decode_latents(model, _path(first, last, shares, spherical, center))
    sides = _warped(
        [image.expand(steps, -1, -1, -1) for image in (start, end)], points[:, None], shares.view(-1, 1, 1)
    )
    firsts, lasts = (encode_images(model, side) for side in sides)
    path = [
        _path(first, last, share, spherical, center)
        for first, last, share in zip(firsts, lasts, shares.split(1), strict=True)
    ]
    return decode_latents(model, torch.cat(path))


def halfway(
    model: AutoencoderModelBase,
    starts: torch.Tensor,
    ends: torch.Tensor,
    spherical: bool = False,
    points: torch.Tensor | None = None,
) -> torch.Tensor:
    """The middle frames of many morphs at once.

    Args:
        starts: (N, C, H, W) in [0, 1].
        ends: (N, C, H, W), as many.
        points: (2, N, K, 2), as of `morph`.

    Returns:
        (N, C, H, W) float32 in [0, 1].

    Raises:
        InputError: As of `morph`.
        ValueError: As of `morph`.
    """
    half = torch.tensor([0.5])
    if points is not None:
        starts, ends = _warped([starts, ends], points, half)
    pairs = zip(encode_images(model, starts), encode_images(model, ends), strict=True)
    return decode_latents(model, torch.cat([_path(first, last, half, spherical) for first, last in pairs]))


def align_photo(
    processor: ConvAutoencoderImageProcessor, detector: FaceDetector, picture: Image.Image, name: str = "the photo"
) -> tuple[torch.Tensor, torch.Tensor]:
    """An "RGB" photo as an autoencoder's image (C, H, W) in [0, 1], and its face's landmarks (5, 2) there.

    The face is aligned to the standard template, unless the processor crops photos (`crop_fraction` below 1): then the
    photo is framed as it does.

    Raises:
        InputError: No face is found, or it lies outside of the picture.
    """
    landmarks = find_faces(detector, picture, name, "use another photo or --detector")[0]
    height, width = processor.size["height"], processor.size["width"]
    if processor.crop_fraction < 1:
        points = processor.points_in_crop(landmarks, picture.height, picture.width)
        crop = picture
    else:
        with input_errors():
            aligned, to_crop = align_face(FaceImageProcessor(size=[height, width]), picture, landmarks)
        points = landmarks @ to_crop[:, :2].T + to_crop[:, 2]
        crop = Image.fromarray(aligned)
    return processor.preprocess([crop]).pixel_values[0], torch.from_numpy(np.asarray(points)).float()


def _path(
    first: torch.Tensor, last: torch.Tensor, shares: torch.Tensor, spherical: bool, center: torch.Tensor | None = None
) -> torch.Tensor:
    return spherical_path(first, last, shares, center) if spherical else linear_path(first, last, shares)


def _warped(sides: list[torch.Tensor], points: torch.Tensor, shares: torch.Tensor) -> list[torch.Tensor]:
    """Both sides' images (N, C, H, W) with their points (2, N or 1, K, 2) moved by these shares of the way."""
    wanted = torch.lerp(points[0], points[1], shares)
    return [
        warp_points(images, own.expand_as(wanted), wanted).clamp(0, 1)
        for images, own in zip(sides, points, strict=True)
    ]


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
