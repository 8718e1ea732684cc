import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.images.tiny_autoencoder import SIZE, smooth_images, tiny_restoration

pytest.importorskip("skimage")

from hfembed.errors import InputError
from hfembed.images.data.corruptions import Corruption
from hfembed.images.evaluation import classic_denoisers
from hfembed.images.evaluation.denoising import DenoisingTest, InpaintingTest, report_denoising


@pytest.fixture(scope="module")
def images():
    """(clean test images, images of the training side), uint8."""
    pixels = (smooth_images(150) * 255).round().byte()
    return pixels[:20], pixels[20:]


class Cheat:
    """A 'denoiser' that knows the clean images, then their mirror images, and gives them back a little wrong."""

    device = torch.device("cpu")
    config = SimpleNamespace(inpainting=True)

    def __init__(self, clean, error):
        wrong = clean.float() / 255 + error
        self.left = [*wrong, *wrong.flip(3)]

    def __call__(self, pixel_values, mask=None):
        output = torch.stack([self.left.pop(0) for _ in pixel_values])
        return type("Output", (), {"reconstruction": output, "pooler_output": torch.zeros(len(pixel_values), 1)})


def test_a_perfect_denoiser_wins_and_one_that_does_nothing_loses(images):
    clean, known = images
    test = DenoisingTest(clean, known, 0.1)
    best = test.run(Cheat(clean.clamp(20, 230), 0.01)).metrics
    assert best["denoising_sigma0.1_gain"] > 3
    worst = test.run(tiny_restoration()).metrics
    assert worst["denoising_sigma0.1_psnr"] == pytest.approx(worst["denoising_sigma0.1_input_psnr"], abs=1e-3)
    assert 19.8 < worst["denoising_sigma0.1_input_psnr"] < 20.8 and worst["denoising_sigma0.1_gain"] < -3
    for name in ("non_local_means", "total_variation", "pca_wiener"):
        assert worst[f"denoising_sigma0.1_{name}_psnr"] > worst["denoising_sigma0.1_input_psnr"] + 1
        assert worst[f"denoising_sigma0.1_{name}_psnr"] <= worst["denoising_sigma0.1_best_classic_psnr"]


def test_the_noise_is_the_same_every_time_and_another_with_another_seed(images):
    noisy = [DenoisingTest(*images, 0.1, seed).noisy for seed in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2])


def test_the_wiener_filter_is_the_formula(images):
    known = images[1].numpy().astype(np.float64) / 255
    wiener = classic_denoisers.PcaWiener(known, components=40)
    noisy = Corruption(noise=(0.1, 0.1))(images[0], [(0, i) for i in range(20)]).numpy().astype(np.float64) / 255
    flat, mean = noisy.reshape(20, -1), known.reshape(len(known), -1).mean(0)
    covariance = np.cov(known.reshape(len(known), -1).T)
    # smooth images have few directions: 40 hold all variance, and the filter is C (C + sigma^2)^-1
    expected = mean + (flat - mean) @ np.linalg.solve(covariance + 0.01 * np.eye(len(mean)), covariance)
    assert np.allclose(wiener(noisy, 0.1, 1.0).reshape(20, -1), expected, atol=1e-3)


def test_the_best_strength_is_chosen():
    clean, noisy = np.full((1, 1, 2, 2), 0.5), np.ones((1, 1, 2, 2))
    method = lambda noisy, sigma, strength: noisy * strength  # noqa: E731
    assert classic_denoisers.choose_strength(method, (0.2, 0.55, 0.9), clean, noisy, 0.1) == 0.55


def test_color_images_go_through_the_classics():
    color = smooth_images(2, channels=3).numpy()
    for method in classic_denoisers.STRENGTHS:
        assert method(color, 0.1, 0.8).shape == color.shape
    mask = np.zeros((2, SIZE, SIZE), bool)
    mask[:, 4:8, 5:9] = True
    filled = classic_denoisers.biharmonic_fill(np.where(mask[:, None], 0.5, color), mask)
    assert np.allclose(filled[:, :, ~mask[0]], color[:, :, ~mask[0]]) and np.abs(filled - color).mean() < 0.02


def test_only_the_hole_counts(images):
    clean, known = images
    test = InpaintingTest(clean, known, size=6)
    assert (test.masks.sum((1, 2, 3)) == 36).all()
    metrics = test.run(Cheat(clean, 0.1 * (~test.masks))).metrics  # wrong everywhere but in the holes
    assert metrics["denoising_hole6_psnr"] == 100
    nothing = test.run(tiny_restoration(inpainting=True)).metrics  # a new one fills with gray
    error = (0.5 - test.clean).square()[test.masks].mean()
    assert nothing["denoising_hole6_psnr"] == pytest.approx(float(-10 * error.log10()), abs=1e-3)
    # smooth images have few directions, which the rest of an image tells all but wholly
    assert 0 < nothing["denoising_hole6_biharmonic_psnr"] < nothing["denoising_hole6_gaussian_psnr"]
    best = nothing["denoising_hole6_best_classic_psnr"]
    assert best == nothing["denoising_hole6_gaussian_psnr"] and nothing["denoising_hole6_gain"] < 0
    with pytest.raises(InputError, match="does not fill holes"):
        test.run(tiny_restoration())


def test_results_and_pictures_are_written(images, tmp_path):
    clean, known = images
    tests = [DenoisingTest(clean, known, 0.1, components=20), InpaintingTest(clean, known, 5)]
    model = tiny_restoration(inpainting=True)
    metrics = report_denoising(tests, model, tmp_path, {"images": None}, {}, columns=4)
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(results[name] == value for name, value in metrics.items())
    assert results["denoising"]["images"] == 20 and results["denoising"]["denoising_sigma0.1"]["strengths"]
    width, height = Image.open(tmp_path / "denoising_sigma0.1.png").size
    scale = 128 // SIZE
    assert height == scale * (6 * SIZE + 10) and width > scale * (4 * SIZE + 6), "the rows have labels"
    with pytest.raises(InputError, match="color"):
        tests[1].run(tiny_restoration(num_channels=3, inpainting=True))
