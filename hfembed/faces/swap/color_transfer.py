"""Color transfer: give a face the colors that another one has."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from hfembed.errors import InputError

Colors = Literal["deviation", "covariance", "histogram", "seamless", "none"]
_CONTRAST_RANGE = (0.7, 1.4)  # the contrast changes by no more than this


def match_deviation(face: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give a face the mean and standard deviation per channel of another face.

    Reinhard et al., "Color Transfer between Images", 2001, on RGB; the contrast changes by no more than 0.7 to 1.4.

    Args:
        face: float (height, width, channels).
        reference: The same shape.
        weights: (height, width) of the pixels.

    Returns:
        float, the same shape.
    """
    mean, covariance = _moments(face, weights)
    wanted_mean, wanted_covariance = _moments(reference, weights)
    deviation, wanted_deviation = (np.sqrt(np.diagonal(matrix)) for matrix in (covariance, wanted_covariance))
    contrast = np.clip(wanted_deviation / np.maximum(deviation, 1e-3), *_CONTRAST_RANGE)
    return (face - mean) * contrast + wanted_mean


def match_covariance(face: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give a face the mean color and the covariance of the channels of another face, by the linear map that changes
    the pixels least (Pitie and Kokaram, European Conference on Visual Media Production, 2007).

    The contrast changes by no more than 0.7 to 1.4 along each of the map's axes. Arguments and result: see
    `match_deviation`.
    """
    mean, covariance = _moments(face, weights)
    wanted_mean, wanted_covariance = _moments(reference, weights)
    root = _matrix_function(covariance, lambda values: np.sqrt(np.maximum(values, 1e-6)))
    inverse = np.linalg.inv(root)
    between = _matrix_function(root @ wanted_covariance @ root, lambda values: np.sqrt(np.maximum(values, 0)))
    contrast = _matrix_function(inverse @ between @ inverse, lambda values: np.clip(values, *_CONTRAST_RANGE))
    return (face - mean) @ contrast + wanted_mean


def match_histogram(face: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give a face the histogram per channel of another face, of the pixels with a weight; the others stay.

    Arguments and result: see `match_deviation`.

    Raises:
        InputError: scikit-image is not installed.
    """
    try:
        from skimage.exposure import match_histograms
    except ImportError as error:
        raise InputError('matching histograms needs scikit-image: pip install "hfembed[images]"') from error
    matched, inside = face.copy(), weights > 0
    if inside.any():
        matched[inside] = match_histograms(face[inside], reference[inside], channel_axis=-1)
    return matched


def match_edge(face: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give a face the colors of another face along the edge of the pixels with a weight: a seamless clone.

    Perez, Gangnet and Blake, "Poisson Image Editing", 2003, equations 2 and 3: what is taken away inside is the
    harmonic surface through the differences at the edge, so that the face keeps its gradients. Arguments and result:
    see `match_deviation`.
    """
    inside = np.pad(weights[1:-1, 1:-1] > 0, 1)  # the border holds the surface
    rows = np.flatnonzero(inside)
    if not len(rows):
        return face
    edge = np.where(inside[:, :, None], 0, face.astype(np.float64) - reference).reshape(-1, face.shape[2])
    neighbors = rows[:, None] + np.array([-1, 1, -inside.shape[1], inside.shape[1]])
    ends = np.arange(0, neighbors.size + 1, 4)
    mean = sparse.csr_array((np.full(neighbors.size, 0.25), neighbors.ravel(), ends), shape=(len(rows), len(edge)))
    surface = splu((sparse.eye_array(len(rows)) - mean[:, rows]).tocsc()).solve(mean @ edge)
    matched = reference.astype(np.float64)
    matched[inside] = face[inside] - surface
    return matched


COLOR_TRANSFERS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "deviation": match_deviation,
    "covariance": match_covariance,
    "histogram": match_histogram,
    "seamless": match_edge,
}


def _moments(image: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (channels,) and covariance (channels, channels) of the pixels, float64."""
    pixels = image.reshape(-1, image.shape[2]).astype(np.float64)
    shares = weights.reshape(-1, 1).astype(np.float64) / max(weights.sum(), 1e-6)
    mean = (shares * pixels).sum(axis=0)
    return mean, (shares * (pixels - mean)).T @ (pixels - mean)


def _matrix_function(matrix: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Of a symmetric matrix: its eigenvalues are replaced."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return vectors * function(values) @ vectors.T
