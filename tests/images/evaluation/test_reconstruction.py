"""Figures of reconstructions, against other libraries; and the command that measures a checkpoint."""

import copy
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.metrics
import torch
from PIL import Image
from typer.testing import CliRunner

from hfembed.checkpoint.results import read_results, write_results
from hfembed.cli import app
from hfembed.errors import InputError
from hfembed.faces.data.lfw import read_pairs
from hfembed.faces.evaluation.lfw import LfwVerification
from hfembed.images.data.corruptions import Corruption
from hfembed.images.evaluation.reconstruction import (
    HeldOutReconstruction,
    active_latents,
    image_psnr,
    jpeg_reconstruction,
    pca_reconstruction,
    psnr,
    sharpness,
    ssim,
)
from hfembed.images.evaluation.reconstruction_report import (
    crop_landmarks,
    far_pairs,
    make_identity_model,
    midpoint_figures,
    morph_figures,
    pairs_sharpness,
    report_reconstruction,
    summary,
)
from hfembed.images.interpolation import gradient_energy
from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size
from hfembed.models.restoration_autoencoder.configuration_restoration_autoencoder import RestorationAutoencoderConfig
from hfembed.models.restoration_autoencoder.modeling_restoration_autoencoder import RestorationAutoencoderModel
from scripts.plot_autoencoder_curves import draw_curves


def pair(count=5, size=24, noise=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(count, 1, size, size, generator=generator)
    levels = torch.linspace(0.2, 2, count).view(-1, 1, 1, 1)
    return (target + levels * noise * torch.randn(target.shape, generator=generator)), target


def test_psnr_of_the_mean_error_and_of_each_image():
    again, target = pair()
    clipped = again.clamp(0, 1).double().numpy()
    each = [
        skimage.metrics.peak_signal_noise_ratio(y, x, data_range=1)
        for x, y in zip(clipped, target.double().numpy(), strict=True)
    ]
    assert image_psnr(again, target) == pytest.approx(np.mean(each))
    error = np.mean((clipped - target.double().numpy()) ** 2)
    assert psnr(again, target) == pytest.approx(-10 * math.log10(error))
    assert psnr(target, target) == image_psnr(target, target) == 100


def test_sharpness_halfway_is_a_half_for_two_pictures_laid_over_each_other():
    ends = torch.rand(2, 7, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert pairs_sharpness(ends, ends.mean(0)) == pytest.approx(0.5, abs=0.05)
    assert pairs_sharpness(ends, ends[1]) == pytest.approx(1, abs=0.1)
    assert far_pairs(1092).shape == (2, 100) and far_pairs(1092).max() == 1091
    assert far_pairs(5).tolist() == [[0, 2], [2, 4]]


def test_ssim_of_images_is_one_where_equal_and_falls_with_noise():
    target = pair()[1]
    values = [ssim(pair(noise=noise)[0], target) for noise in (0.0, 0.05, 0.2)]
    assert values[0] == pytest.approx(1) and values[0] > values[1] > values[2]


def test_pca_is_the_best_linear_code():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(60, 5, generator=generator) @ torch.randn(5, 64, generator=generator)
    images = (0.5 + 0.1 * mixed).view(60, 1, 8, 8)
    assert torch.allclose(pca_reconstruction(images, images, 5), images, atol=1e-4)
    flat = images.flatten(1)
    components = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:3]
    expected = (flat - flat.mean(0)) @ components.T @ components + flat.mean(0)
    torch.testing.assert_close(pca_reconstruction(images, images, 3).flatten(1), expected, atol=1e-4, rtol=0)
    # with more components than a tenth of the images another way is taken; more than the rank are left out
    for count in (7, 30):
        components = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[: min(count, 5)]
        expected = (flat + 0.1 - flat.mean(0)) @ components.T @ components + flat.mean(0)
        again = pca_reconstruction(images, images + 0.1, count)
        torch.testing.assert_close(again.flatten(1), expected, atol=1e-4, rtol=0)


def test_sharpness_is_the_share_of_the_gradient_energy():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    halved = 0.5 + 0.5 * (images - 0.5)
    assert sharpness(halved, images) == pytest.approx(0.25, rel=1e-5)
    differences = [(image[:, 1:] - image[:, :-1]).square().mean() for image in images]
    differences += [(image[:, :, 1:] - image[:, :, :-1]).square().mean() for image in images]
    assert gradient_energy(images).mean().item() == pytest.approx(float(sum(differences)) / 3, rel=1e-5)


def test_active_latents_are_those_that_vary():
    latents = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([3, 1, 1, 0.01, 0, 2.0])
    assert active_latents(latents) == 4
    assert active_latents(torch.ones(10, 3)) == 0


def test_jpeg_uses_the_bytes_it_is_given():
    images = torch.nn.functional.interpolate(torch.rand(3, 1, 8, 8), size=64, mode="bicubic").clamp(0, 1)
    sizes, values = [], []
    for budget in (500, 1000, 2000):
        again, size = jpeg_reconstruction(images, budget)
        assert size <= budget and again.shape == images.shape
        sizes.append(size)
        values.append(psnr(again, images))
    assert sizes == sorted(sizes) and values == sorted(values)
    assert jpeg_reconstruction(images, 1)[1] > 1  # the smallest there is


def test_validation_is_the_same_at_every_call():
    config = RestorationAutoencoderConfig(num_channels=1, image_size=[16, 16], widths=[8])
    model = RestorationAutoencoderModel(config).eval()
    processor = ConvAutoencoderImageProcessor(size=16, color="gray")
    pixels = torch.randint(40, 200, (6, 1, 16, 16), dtype=torch.uint8)
    clean = HeldOutReconstruction(pixels)(model, processor)
    assert clean == {"psnr": 100.0, "ssim": pytest.approx(1)}  # a new denoiser changes nothing
    noisy = HeldOutReconstruction(pixels, Corruption(noise=(0.1, 0.1)), name="noisy")
    first = noisy(model, processor)
    assert first == noisy(model, processor) and first["noisy_psnr"] == pytest.approx(20, abs=0.5)


def test_results_without_prefix_are_replaced_together(tmp_path):
    write_results(tmp_path, "reconstruction", {"psnr": 1.0, "gone": 2.0}, {"figures": ["gone", "psnr"]})
    write_results(tmp_path, "other", {"other_psnr": 3.0}, {})
    write_results(tmp_path, "reconstruction", {"psnr": 4.0}, {"figures": ["psnr"]})
    results = read_results(tmp_path)
    assert results["psnr"] == 4.0 and results["other_psnr"] == 3.0 and "gone" not in results


def test_the_identity_model_finds_the_person_unchanged_in_an_unchanged_image(tiny_lfw, model, processor, tmp_path):
    embedder = copy.deepcopy(model)
    embedder.config.mirror = "none"
    config = RestorationAutoencoderConfig(image_size=[64, 64], widths=[4])
    unchanging = RestorationAutoencoderModel(config).eval()  # a new denoiser changes nothing
    embeddings_model = make_identity_model(embedder, processor, tiny_lfw.landmarks, read_pairs(tiny_lfw.pairs))
    whole = ConvAutoencoderImageProcessor(size=64)
    report = report_reconstruction(
        *(unchanging, whole, tiny_lfw.archive, tmp_path, {"held_out_share": 0.2, "seed": 0}),
        identity_model=embeddings_model,
        pictures=2,
    )
    assert report["psnr"] > 90
    assert report["identity_kept"] == pytest.approx(1, abs=1e-4)
    assert report["perceptual_distance"] == pytest.approx(0, abs=1e-3)
    direct = LfwVerification(tiny_lfw.archive, tiny_lfw.pairs, tiny_lfw.landmarks, progress=False, num_workers=0)
    assert report["view2_accuracy"] == pytest.approx(direct(embedder, processor)["lfw_view2_accuracy"], abs=7)
    assert "identity kept" in summary(report) and report["sharpness"] == pytest.approx(1, abs=1e-3)


def test_middles_of_morphs_by_landmarks_are_measured_too(model, processor):
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    template = torch.tensor(template_for_size(16, 16)).float()
    found = [template[None], template[None] + 1, template[None][:0], template[None], template[None], template[None]]
    detector = SimpleNamespace(detect=lambda photos: [SimpleNamespace(landmarks=points) for points in found])
    judge = make_identity_model(model, processor, None)
    points = np.broadcast_to(template.numpy(), (6, 5, 2))
    ends = far_pairs(6)
    figures = morph_figures(tiny_color_autoencoder(), images, images, ends, judge, points, detector)
    assert figures["midpoint_pairs"] == 2, "in one pair a face is not found"
    for prefix in ("", "spherical_", "shape_", "shape_spherical_"):
        assert figures[f"{prefix}midpoint_sharpness"] > 0
        assert -1 <= figures[f"{prefix}midpoint_identity_start"] <= 1
        assert 0 <= figures[f"{prefix}midpoint_identity_gap"] <= 2
    assert "arc, shape by landmarks: sharpness" in summary({**REPORT, **figures})
    ours = midpoint_figures(images[ends], images[ends], images[ends[0]], judge, points[ends.numpy()])
    assert ours["midpoint_identity_start"] == pytest.approx(1, abs=1e-4)
    assert ours["midpoint_identity_end"] < 1
    detector.detect = lambda photos: [SimpleNamespace(landmarks=template[None][:0])] * 6
    with pytest.raises(InputError, match="finds no face"):
        morph_figures(tiny_color_autoencoder(), images, images, ends, None, None, detector)


def tiny_color_autoencoder():
    torch.manual_seed(0)
    return ConvAutoencoderModel(ConvAutoencoderConfig(image_size=[16, 16], widths=[8, 8], latent_channels=2)).eval()


REPORT = {"reconstruction": {"images": "6"}, "num_latents": 1, "active_latents": 1}


def test_crops_on_the_standard_template_need_no_landmarks():
    processor = ConvAutoencoderImageProcessor(size=56)
    crops = SimpleNamespace(files=["a.jpg", "b.jpg"])
    points = crop_landmarks(None, [{"image": Image.new("RGB", (112, 112))}], crops, processor)
    assert points.shape == (2, 5, 2)
    np.testing.assert_allclose(points[1], (np.asarray(template_for_size(112, 112)) + 0.5) / 2 - 0.5)
    with pytest.raises(InputError, match="112 x 112 pixels, these of 250 x 250"):
        crop_landmarks(None, [{"image": Image.new("RGB", (250, 250))}], crops, processor)


def test_curves_of_runs(tmp_path):
    for name, gap in (("none", 3.0), ("denoising", 1.0)):
        (tmp_path / name).mkdir()
        lines = [{"step": step, "psnr": 20.0, "train_psnr": 20 + gap * step} for step in (1, 2, 3)]
        lines.insert(1, {"step": 1, "loss": 0.1})
        (tmp_path / name / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves({name: tmp_path / name for name in ("none", "denoising")}, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 600
    (tmp_path / "none" / "training_log.jsonl").write_text('{"step": 1, "loss": 0.1}\n')
    with pytest.raises(InputError, match="has no evaluations: train with validation_share"):
        draw_curves({"none": tmp_path / "none"}, tmp_path / "curves.png")
    with pytest.raises(InputError, match="train it first"):
        draw_curves({"other": tmp_path / "other"}, tmp_path / "curves.png")


def test_the_command(tmp_path):
    for person in range(15):
        (tmp_path / "people" / f"person_{person}").mkdir(parents=True)
        for number in range(2):
            small = np.random.default_rng((person, number)).integers(0, 256, (5, 5), dtype=np.uint8)
            photo = Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC)
            photo.save(tmp_path / "people" / f"person_{person}" / f"{number}.png")
    config = ConvAutoencoderConfig(num_channels=1, image_size=[16, 16], widths=[8, 8], latent_channels=1)
    torch.manual_seed(0)
    ConvAutoencoderModel(config).save_pretrained(tmp_path / "model")
    ConvAutoencoderImageProcessor(size=16, color="gray").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "training.json").write_text(json.dumps({"split": {"held_out_share": 0.2, "seed": 5}}))
    arguments = ["evaluate", "reconstruction", str(tmp_path / "model"), "--images", str(tmp_path / "people")]
    done = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0 and "PCA  " in done.output and "coded  " not in done.output
    results = read_results(tmp_path / "out")
    assert {"psnr", "ssim", "pca_psnr", "pca_ssim", "jpeg_psnr", "active_latents"} <= results.keys()
    assert 0 < results["pca_midpoint_sharpness"] < 1 and results["midpoint_sharpness"] > 0
    assert results["num_latents"] == 16 and results["pca_psnr"] > results["psnr"]
    assert results["reconstruction"]["images"].startswith("6 of 3 held-out people"), "the split of its training"
    assert (tmp_path / "out" / "reconstructions.png").exists()
    fit = ["fit-latents", str(tmp_path / "model"), "--images", str(tmp_path / "people"), "--mixture-components", "2"]
    CliRunner().invoke(app, fit, catch_exceptions=False)
    CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "out")], catch_exceptions=False)
    coded = read_results(tmp_path / "out")
    assert coded["psnr"] == results["psnr"] and coded["coded_psnr"] == pytest.approx(results["psnr"], abs=1)
    assert coded["jpeg_bytes"] != results["jpeg_bytes"] or coded["coded_bytes"] < coded["jpeg_bytes"]
    with pytest.raises(Exception, match="needs --landmarks or --aligned"):
        CliRunner().invoke(
            app, [*arguments, "--output", str(tmp_path / "out"), "--embedder", "x"], catch_exceptions=False
        )
