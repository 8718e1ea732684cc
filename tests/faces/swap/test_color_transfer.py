"""Color transfer: the moments or the histogram of the reference, inside of the weights."""

import numpy as np
import pytest

from hfembed.faces.swap.color_transfer import (
    COLOR_TRANSFERS,
    match_covariance,
    match_deviation,
    match_edge,
    match_histogram,
)


@pytest.fixture
def faces():
    """Two faces of correlated channels, and weights with a soft edge."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((2, 32, 32, 3))
    reference = np.array([90, 120, 60]) + noise[0] @ np.array([[20, 14, 8], [0, 16, 9], [0, 0, 18]])
    face = np.array([200, 40, 100]) + noise[1] @ np.array([[22, 11, 10], [0, 18, 7], [0, 0, 20]])
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    return face, reference, np.clip(1.5 - 2 * np.hypot(x, y), 0, 1)


def covariance(image, weights):
    return np.cov(image.reshape(-1, 3).T, aweights=weights.ravel(), ddof=0)


def mean(image, weights):
    return np.average(image.reshape(-1, 3), axis=0, weights=weights.ravel())


def test_mean_and_deviation_become_the_references(faces):
    face, reference, weights = faces
    matched = match_deviation(face, reference, weights)
    np.testing.assert_allclose(mean(matched, weights), mean(reference, weights))
    deviations = [np.diagonal(covariance(image, weights)) ** 0.5 for image in (matched, reference)]
    np.testing.assert_allclose(*deviations)


def test_mean_and_covariance_become_the_references(faces):
    face, reference, weights = faces
    matched = match_covariance(face, reference, weights)
    np.testing.assert_allclose(mean(matched, weights), mean(reference, weights))
    np.testing.assert_allclose(covariance(matched, weights), covariance(reference, weights), atol=1e-6)
    assert not np.allclose(
        covariance(match_deviation(face, reference, weights), weights), covariance(matched, weights)
    )


def test_the_histogram_becomes_the_references(faces):
    pytest.importorskip("skimage")
    face, reference, weights = faces
    matched, inside = match_histogram(face, reference, weights), weights > 0
    np.testing.assert_allclose(np.sort(matched[inside], axis=0), np.sort(reference[inside], axis=0), atol=1e-6)
    order = [image[inside].argsort(axis=0) for image in (face, matched)]
    assert np.array_equal(*order), "bright stays bright"
    assert np.array_equal(matched[~inside], face[~inside])


@pytest.mark.parametrize("name", ["deviation", "covariance"])
def test_the_contrast_changes_within_bounds(name, faces):
    face, reference, weights = faces
    for factor, bound in ((10, 1.4), (0.1, 0.7)):
        matched = COLOR_TRANSFERS[name](face, factor * reference, weights)
        np.testing.assert_allclose(covariance(matched, weights), bound**2 * covariance(face, weights))


@pytest.mark.parametrize("name", COLOR_TRANSFERS)
def test_flat_faces_and_no_weight_stay_finite(name, faces):
    if name == "histogram":
        pytest.importorskip("skimage")
    face, reference, weights = faces
    for flat, other, some in (
        (np.full_like(face, 9), reference, weights),
        (face, np.full_like(face, 9), weights),
        (face, reference, 0 * weights),
    ):
        matched = COLOR_TRANSFERS[name](flat.astype(np.float32), other.astype(np.float32), some)
        assert matched.shape == face.shape and np.isfinite(matched).all()


def test_a_seamless_face_has_the_colors_of_its_edge_and_its_own_detail(faces):
    face, reference, weights = faces
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    tint = (20 + 10 * x + 5 * y)[:, :, None] * [1, 0, -1]
    np.testing.assert_allclose(match_edge(reference + tint, reference, weights), reference)
    matched = match_edge(face, reference, weights)
    inside = np.pad(weights[1:-1, 1:-1] > 0, 1)
    assert np.array_equal(matched[~inside], reference[~inside])
    for laplacian in (laplace(matched) - laplace(face))[inside]:  # Poisson's equation
        np.testing.assert_allclose(laplacian, 0, atol=1e-9)


def laplace(image):
    return 4 * image - sum(np.roll(image, shift, axis) for shift in (1, -1) for axis in (0, 1))
