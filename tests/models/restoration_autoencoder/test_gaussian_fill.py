"""Holes filled from the rest of an image."""

import numpy as np
import pytest
import torch

from hfembed.models.restoration_autoencoder.gaussian_fill import GaussianFill
from hfembed.models.restoration_autoencoder.modeling_restoration_autoencoder import RestorationAutoencoderModel
from tests.images.tiny_autoencoder import SIZE, smooth_images, tiny_restoration


def two_masks():
    masks = torch.zeros(2, 1, SIZE, SIZE, dtype=torch.bool)
    masks[0, :, 2:7, 3:9] = True
    masks[1, :, 10:, :4] = True
    masks[1, :, 0, 5] = True
    return masks


@pytest.mark.parametrize("channels", [1, 3])
def test_the_fill_is_the_regression_of_the_hole_on_the_rest(channels):
    known, (a, b) = smooth_images(80, channels), smooth_images(2, channels, seed=1)
    fill = GaussianFill(channels, [SIZE, SIZE])
    fill.start_from_images(known, ridge=0.01)
    masks = two_masks()
    filled = fill(torch.stack([a, b]), masks)

    everything = torch.cat([known, known.flip(3)]).flatten(1).double().numpy()
    covariance = np.cov(everything.T, bias=True) + 0.01 * np.eye(everything.shape[1])
    for image, mask, ours in zip((a, b), masks, filled, strict=True):
        hole = mask.expand(channels, -1, -1).flatten().numpy()
        weights = np.linalg.solve(covariance[~hole][:, ~hole], covariance[~hole][:, hole])
        mean, flat = everything.mean(0), image.flatten().double().numpy()
        expected = mean[hole] + (flat[~hole] - mean[~hole]) @ weights
        np.testing.assert_allclose(ours.flatten().numpy()[hole], expected, atol=1e-4)
        np.testing.assert_array_equal(ours.flatten().numpy()[~hole], image.flatten().numpy()[~hole])


def test_a_measured_image_is_filled_as_if_left_out():
    noise = torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    known, masks = torch.cat([smooth_images(60), noise]), two_masks()
    every, fewer = GaussianFill(1, [SIZE, SIZE]), GaussianFill(1, [SIZE, SIZE])
    every.start_from_images(known, ridge=0.01)
    measured = known[-2:]
    left_out = every(measured, masks, measured)
    for number in range(2):
        others = torch.cat([known[: 60 + number], known[61 + number :]])
        fewer.start_from_images(others, ridge=0.01 * 62 / 61)  # the covariance is a mean over one image less
        expected = fewer(measured[number][None], masks[number][None])
        # but for the mean, which moves by a part in 62
        in_sample = (every(measured, masks)[number] - expected[0]).abs().max()
        assert (left_out[number] - expected[0]).abs().max() < 0.2 * in_sample


def test_what_stands_in_a_hole_does_not_matter_and_all_of_it_is_the_mean():
    fill = GaussianFill(1, [SIZE, SIZE])
    fill.start_from_images(smooth_images(50))
    images, masks = smooth_images(2, seed=1), two_masks()
    torch.testing.assert_close(fill(images, masks), fill(torch.where(masks, 7.0, images), masks))
    torch.testing.assert_close(fill(images, torch.ones_like(masks)), fill.mean.expand(2, -1, -1, -1))
    assert torch.equal(fill(images, torch.zeros_like(masks)), images)


def test_a_model_starts_at_the_fill_and_learns_inside_of_holes_only():
    torch.manual_seed(0)
    model = tiny_restoration(inpainting=True).train()
    known, masks = smooth_images(50), two_masks()
    model.fill.start_from_images(known)
    images = known[:2]
    targets = images.clone().requires_grad_()
    output = model(images, targets=targets, mask=masks)
    torch.testing.assert_close(output.reconstruction, model.fill(images, masks, images))
    torch.testing.assert_close(model.eval()(images, mask=masks).reconstruction, model.fill(images, masks))
    output.loss.backward()
    assert (targets.grad != 0)[masks].any() and not targets.grad[~masks].any()
    assert model.decoder.conv_out.weight.grad.abs().max() > 0
    assert torch.equal(model(images).reconstruction, images), "no mask, no holes"


def test_masks_are_checked():
    model = tiny_restoration(inpainting=True)
    images, masks = smooth_images(2), two_masks()
    for wrong in (masks.float(), masks[:1], masks[:, :, 1:]):
        with pytest.raises(ValueError, match=r"mask must be bool \(2, 1, 16, 16\)"):
            model(images, mask=wrong)
    with pytest.raises(ValueError, match="does not take masks"):
        tiny_restoration()(images, mask=masks)
    with pytest.raises(ValueError, match="takes 16 x 16 images only, got 32 x 16"):
        model(torch.zeros(1, 1, 32, 16))


def test_the_measured_gaussian_is_saved_with_the_weights(tmp_path):
    model = tiny_restoration(inpainting=True)
    model.fill.start_from_images(smooth_images(50))
    model.save_pretrained(tmp_path)
    again = RestorationAutoencoderModel.from_pretrained(tmp_path)
    assert torch.equal(again.fill.precision, model.fill.precision) and torch.equal(again.fill.mean, model.fill.mean)
    assert again.config.inpainting
