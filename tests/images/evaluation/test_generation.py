import json

import numpy as np
import pytest
import scipy.linalg
import torch

from hfembed.errors import InputError
from hfembed.faces.data.synthetic_faces import make_synthetic_faces
from hfembed.images.evaluation.generation import (
    GenerationCase,
    PcaGaussian,
    distances_of_samples,
    frechet_distance,
    mean_face_points,
    report_generation,
)
from hfembed.images.latent_statistics import LatentStatistics, encode_images
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from tests.images.tiny_autoencoder import smooth_images, tiny_autoencoder


def features(seed, count=400, shift=0.0, scale=1.0):
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((6, 6))
    return scale * generator.standard_normal((count, 6)) @ mixing + shift


def test_the_distance_is_the_formulas():
    a, b = features(0), features(1, shift=0.3, scale=1.4)
    first, second = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(first @ second).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


def test_it_is_zero_for_the_same_and_grows_with_the_difference():
    a = features(0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + 2) == pytest.approx(6 * 4, rel=1e-6)
    assert frechet_distance(a, features(1)) < frechet_distance(a, features(1, shift=1))


def test_a_pca_gaussian_has_the_moments_of_its_images():
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + 0.02 * (torch.randn(500, 3, generator=generator) @ torch.randn(3, 12, generator=generator))
    sampler = PcaGaussian(images.view(500, 1, 3, 4), 3)
    drawn = sampler.sample(3000, seed=1)
    assert drawn.shape == (3000, 1, 3, 4) and torch.equal(drawn, sampler.sample(3000, seed=1))
    assert torch.allclose(drawn.flatten(1).mean(0), images.mean(0), atol=5e-3)
    assert torch.allclose(drawn.flatten(1).T.cov(), images.T.cov(), atol=3e-4)


def test_real_images_are_nearest_and_draws_differ():
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(900, 1, 2, 3, generator=generator)
    distances = distances_of_samples(
        lambda images: images.flatten(1).numpy(),
        real[:300],
        real[300:],
        {"gray": lambda count, seed: 0.5 + 0.01 * torch.randn(count, 1, 2, 3)},
        draws=3,
    )
    assert list(distances) == ["real_faces", "gray"]
    assert max(distances["real_faces"]) < 0.1 * min(distances["gray"])
    assert len(set(distances["real_faces"])) == 3


def test_face_points_follow_the_crop():
    faces = make_synthetic_faces(num_identities=3, photos_per_identity=4, image_size=48)
    points = np.array(faces["landmarks"][:])
    whole = ConvAutoencoderImageProcessor(size=96)
    # twice as large: pixel centers at whole numbers, so x -> 2 x + 0.5
    assert np.allclose(mean_face_points(faces, whole), 2 * points.mean(0) + 0.5)
    middle = ConvAutoencoderImageProcessor(size=24, crop_fraction=0.5)
    assert np.allclose(mean_face_points(faces, middle), points.mean(0) - 12)
    with pytest.raises(InputError, match="landmarks"):
        mean_face_points(faces.map(lambda row: {"landmarks": None}, features=faces.features), whole)


def case(name, model, images):
    statistics = LatentStatistics.fit(model, encode_images(model, images), 2)
    return GenerationCase(name, model, statistics, pooled, images[:40], images[40:], {"held_out_share": 0.3})


def pooled(crops):
    return torch.nn.functional.avg_pool2d(crops, 8).flatten(1).numpy()


def test_a_model_is_measured_alike_in_any_order(tmp_path):
    cases = [
        case("a", tiny_autoencoder(0), smooth_images(120)),
        case("b", tiny_autoencoder(1), smooth_images(120) / 2),
    ]
    alone = report_generation(cases[:1], tmp_path, {}, draws=2)
    first, second = (report_generation(order, tmp_path, {}, draws=2) for order in (cases, cases[::-1]))
    assert first == second
    assert alone["a_mixture"] == first["a_mixture"] and alone["real_faces"] == first["a_real_faces"]
    with pytest.raises(InputError, match="same name"):
        report_generation([cases[0], cases[0]], tmp_path, {})


def test_the_report_has_every_way_of_every_model(tmp_path):
    model = tiny_autoencoder(variational=True)
    images = smooth_images(120)
    distances = report_generation(
        [case("vae", model, images)],
        tmp_path,
        {"images": None},
        draws=2,
    )
    assert set(distances) == {"real_faces", "pca_gaussian_32", "vae_mixture", "vae_gaussian", "vae_prior"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["generation_vae_prior"] == pytest.approx(np.mean(distances["vae_prior"]))
    assert results["generation_real_faces"] < results["generation_vae_prior"]
    assert results["generation"]["draws"]["vae_mixture"] == distances["vae_mixture"]
