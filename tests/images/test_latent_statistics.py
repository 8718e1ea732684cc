from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.errors import InputError
from hfembed.images.latent_statistics import (
    LatentStatistics,
    attribute_direction,
    decode_latents,
    encode_images,
    sample_prior,
)
from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from tests.images.tiny_autoencoder import smooth_images, tiny_autoencoder, tiny_restoration


class LinearDecoder:
    """Six latent numbers to 3 x 5 pixels around a half, by a matrix."""

    device = torch.device("cpu")
    config = ConvAutoencoderConfig(bottleneck="dense", latent_channels=6)

    def __init__(self):
        self.matrix = 0.004 * torch.randn(6, 15, generator=torch.Generator().manual_seed(0))

    def decode(self, latents):
        return 0.5 + (latents.flatten(1) @ self.matrix).view(-1, 1, 3, 5)


@pytest.fixture(scope="module")
def clusters():
    """(latents (2000, 6, 1, 1), which of two clusters)."""
    generator = torch.Generator().manual_seed(1)
    flat = torch.randn(2000, 6, generator=generator) @ torch.diag(torch.tensor([1.0, 0.5, 0.2, 2.0, 1.0, 0.1]))
    second = torch.rand(2000, generator=generator) < 0.3
    flat[second, 0] += 12
    return flat.view(-1, 6, 1, 1), second


@pytest.fixture(scope="module")
def statistics(clusters):
    return LatentStatistics.fit(LinearDecoder(), clusters[0], mixture_components=2)


def test_moments_and_directions_are_those_of_the_latents(clusters, statistics):
    flat = clusters[0].flatten(1).numpy().astype(np.float64)
    assert np.allclose(statistics.mean, flat.mean(0)) and np.allclose(statistics.std, flat.std(0))
    variances = np.linalg.eigvalsh(np.cov(flat.T))[::-1]
    assert np.allclose(statistics.deviations**2, variances)
    step = statistics.direction(0)
    assert step.shape == (6, 1, 1) and step.norm().item() == pytest.approx(variances[0] ** 0.5, rel=1e-5)
    with pytest.raises(InputError, match="no direction 6; choose one from 0 to 5"):
        statistics.direction(6)


def test_sensitivity_is_the_size_of_the_decoders_columns(statistics):
    expected = LinearDecoder().matrix.square().mean(1).sqrt().numpy()
    assert np.allclose(statistics.sensitivity, expected, rtol=1e-3)


def test_samples_follow_what_was_fitted(clusters, statistics):
    flat = clusters[0].flatten(1)
    for draw in (statistics.sample_mixture, statistics.sample_gaussian):
        samples = draw(4000, seed=3).flatten(1)
        assert torch.allclose(samples.mean(0), flat.mean(0), atol=0.25)
        assert torch.allclose(samples.std(0), flat.std(0), rtol=0.1)
        assert torch.equal(draw(5, seed=3), draw(5, seed=3)) and not torch.equal(draw(5, seed=3), draw(5, seed=4))
    # between the clusters lies nothing: the mixture knows, one Gaussian does not
    between = [((draw(4000).flatten(1)[:, 0] - 6).abs() < 1.5).float().mean() for draw in
               (statistics.sample_mixture, statistics.sample_gaussian)]  # fmt: skip
    assert between[0] < 0.01 < 0.1 < between[1]


def test_saved_and_loaded_they_are_the_same(statistics, tmp_path):
    statistics.save(tmp_path)
    loaded = LatentStatistics.load(tmp_path)
    assert torch.equal(loaded.sample_mixture(9, seed=2), statistics.sample_mixture(9, seed=2))
    assert loaded.direction(0).shape == (6, 1, 1)
    file = tmp_path / "latent_statistics.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match="damaged"):
        LatentStatistics.load(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match="fit-latents"):
        LatentStatistics.load(tmp_path)


def test_numbers_of_another_type_and_impossible_shapes_are_damage(tmp_path):
    model = tiny_autoencoder()
    model.save_pretrained(tmp_path)
    path = LatentStatistics.fit(model, encode_images(model, smooth_images(30)), 2).save(tmp_path)
    tensors = load_file(path)
    for name, wrong in (
        ("std", tensors["std"].to(torch.float8_e4m3fn)),
        ("std", tensors["std"].to(torch.complex64)),
        ("shape", tensors["shape"].double()),
        ("shape", tensors["shape"] * torch.tensor([1, -1, -1])),
        ("shape", tensors["shape"] + torch.tensor([0, 0, 2**62])),  # times 2 * 4: 2**65 more, nothing in 64 bits
    ):
        save_file(tensors | {name: wrong}, path, {"weights": Checkpoint.resolve(tmp_path).fingerprint})
        with pytest.raises(InputError, match="damaged") as error:
            LatentStatistics.load(tmp_path)
        assert "\n" not in str(error.value)


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match="too few"):
        LatentStatistics.fit(LinearDecoder(), torch.randn(5, 6, 1, 1), mixture_components=8)


def test_numbers_that_never_vary_do_no_harm():
    latents = torch.randn(50, 6, 1, 1, generator=torch.Generator().manual_seed(0))
    latents[:, 2] = 3.0
    statistics = LatentStatistics.fit(LinearDecoder(), latents, mixture_components=1)
    samples = statistics.sample_mixture(20)
    assert torch.allclose(samples[:, 2], torch.tensor(3.0)) and samples.isfinite().all()
    assert statistics.sensitivity[2] == 0


def test_an_attributes_direction():
    latents = torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    has = torch.arange(40) % 2 == 0
    latents[has] += 5
    assert torch.allclose(attribute_direction(latents, has), torch.tensor(5.0), atol=1.5)
    with pytest.raises(InputError, match="without"):
        attribute_direction(latents, has | True)


def test_images_in_parts_and_shapes_that_do_not_fit():
    model, images = tiny_autoencoder(), smooth_images(7)
    latents = encode_images(model, images, batch_size=3)
    assert torch.allclose(latents, model.encode(images), atol=1e-6)
    decoded = decode_latents(model, latents, batch_size=3)
    assert torch.allclose(decoded, model.decode(latents).clamp(0, 1), atol=1e-6)
    with pytest.raises(InputError, match="gray"):
        encode_images(model, smooth_images(2, channels=3))
    with pytest.raises(InputError, match="latents"):
        decode_latents(model, latents[:, :1])


def test_the_prior_needs_a_variational_model():
    assert sample_prior(tiny_autoencoder(variational=True), 3).shape == (3, 2, 4, 4)
    with pytest.raises(InputError, match="variational"):
        sample_prior(SimpleNamespace(config=SimpleNamespace(variational=False)), 3)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    model = tiny_autoencoder()
    statistics = LatentStatistics.fit(model, encode_images(model, smooth_images(30)), 2)
    statistics.std[0] = np.nan
    model.save_pretrained(tmp_path)
    statistics.save(tmp_path)
    with pytest.raises(InputError, match="std has the shape .* or is not finite"):
        LatentStatistics.load(tmp_path)
    statistics.std = np.ones(3)
    statistics.save(tmp_path)
    with pytest.raises(InputError, match="damaged"):
        LatentStatistics.load(tmp_path)
    with torch.no_grad():
        model.encoder.conv_in.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        encode_images(model, smooth_images(2))
    with pytest.raises(InputError, match="not finite"):
        decode_latents(tiny_autoencoder(), torch.full((1, 2, 4, 4), float("inf")))
    with pytest.raises(InputError, match="no latents"):
        encode_images(tiny_restoration(), smooth_images(2))
