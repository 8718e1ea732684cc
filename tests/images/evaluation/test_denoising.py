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
from hfembed.images.evaluation.denoising import (
    KnownImages,
    enlargement_test,
    hole_test,
    jpeg_test,
    noise_test,
    report_denoising,
    strokes_test,
)


@pytest.fixture(scope="module")
def images():
    """Clean test images, uint8, and those of the training side."""
    pixels = (smooth_images(150) * 255).round().byte()
    return pixels[:20], KnownImages(pixels[20:], components=40)


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
    test = noise_test(clean, known, 0.1)
    best = test.run(Cheat(clean.clamp(20, 230), 0.01)).metrics
    assert best["denoising_sigma0.1_gain"] > 3
    worst = test.run(tiny_restoration()).metrics
    assert worst["denoising_sigma0.1_psnr"] == pytest.approx(worst["denoising_sigma0.1_input_psnr"], abs=1e-3)
    assert 19.8 < worst["denoising_sigma0.1_input_psnr"] < 20.8 and worst["denoising_sigma0.1_gain"] < -3
    for name in ("non_local_means", "total_variation", "pca_wiener"):
        assert worst[f"denoising_sigma0.1_{name}_psnr"] > worst["denoising_sigma0.1_input_psnr"] + 1
        assert worst[f"denoising_sigma0.1_{name}_psnr"] <= worst["denoising_sigma0.1_best_classic_psnr"]


def test_the_noise_is_the_same_every_time_and_another_with_another_seed(images):
    noisy = [noise_test(*images, 0.1, seed).damaged for seed in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2])


def test_the_wiener_filter_is_the_formula(images):
    known = (smooth_images(150) * 255).round().numpy().astype(np.float64)[20:] / 255
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
    test = hole_test(clean, known, size=6)
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


def test_reduced_and_compressed_images_beside_the_classics(images):
    clean, known = images
    nothing = tiny_restoration()
    reduced = enlargement_test(clean, known, 4)
    metrics = reduced.run(nothing).metrics
    assert metrics["denoising_x4_psnr"] == pytest.approx(metrics["denoising_x4_bicubic_psnr"], abs=1e-3)
    assert metrics["denoising_x4_gain"] == pytest.approx(0, abs=1e-3) and metrics["denoising_x4_bicubic_ssim"] < 1
    small = enlargement_test(clean, known, 2).run(nothing).metrics
    assert small["denoising_x2_psnr"] > metrics["denoising_x4_psnr"]
    compressed = jpeg_test(clean, known, 5).run(Cheat(clean, 0.0)).metrics
    assert compressed["denoising_jpeg5_psnr"] == 100 and compressed["denoising_jpeg5_gain"] > 50
    for name in ("non_local_means", "total_variation", "pca_wiener"):
        assert compressed[f"denoising_jpeg5_{name}_psnr"] <= compressed["denoising_jpeg5_best_classic_psnr"]
    assert compressed["denoising_jpeg5_best_classic_psnr"] > compressed["denoising_jpeg5_input_psnr"]


def test_free_form_holes_of_which_only_the_inside_counts(images):
    clean, known = images
    test = strokes_test(clean, known, 2)
    sizes = test.masks.sum((1, 2, 3))
    assert (sizes > 0).all() and len(set(sizes.tolist())) > 5
    result = test.run(Cheat(clean, 0.1 * (~test.masks)))
    assert result.metrics["denoising_strokes2_psnr"] == 100
    assert torch.equal(result.images["model"][~test.masks], test.clean[~test.masks]), "as hfembed inpaint does"
    assert result.metrics["denoising_strokes2_biharmonic_psnr"] > 20


def test_of_large_images_no_gaussian_is_measured():
    pixels = (smooth_images(60, channels=3, size=56) * 255).round().byte()
    test = hole_test(pixels[:4], KnownImages(pixels[4:]), 8)
    model = tiny_restoration(num_channels=3, inpainting=True, fill="smooth")
    assert {"model", "biharmonic"} < set(test.run(model).images) and "gaussian" not in test.run(model).images


def test_results_and_pictures_are_written(images, tmp_path):
    clean, known = images
    tests = [noise_test(clean, known, 0.1), hole_test(clean, known, 5), enlargement_test(clean, known, 2)]
    model = tiny_restoration(inpainting=True)
    identity = lambda clean, restored: 1 - float((clean - restored).abs().mean())  # noqa: E731
    metrics = report_denoising(tests, model, tmp_path, {"images": None}, {}, columns=4, identity=identity)
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(results[name] == value for name, value in metrics.items())
    assert 0.8 < metrics["denoising_sigma0.1_identity_kept"] < 1 and "denoising_x2_bicubic_identity_kept" in metrics
    assert results["denoising"]["images"] == 20 and results["denoising"]["denoising_sigma0.1"]["strengths"]
    width, height = Image.open(tmp_path / "denoising_sigma0.1.png").size
    scale = 128 // SIZE
    assert height == scale * (6 * SIZE + 10) and width > scale * (4 * SIZE + 6), "the rows have labels"
    with pytest.raises(InputError, match="color"):
        tests[1].run(tiny_restoration(num_channels=3, inpainting=True))
