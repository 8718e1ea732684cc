"""Structural similarity, against other libraries and at its edges."""

import numpy as np
import pytest
import skimage.metrics
import torch
import torchmetrics.functional.image as torchmetrics

from hfembed.models.structural_similarity import multiscale_structural_similarity, structural_similarity


def pair(size, channels=3, noise=0.1, batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(batch, channels, size // 4, size // 4, generator=generator)
    target = torch.nn.functional.interpolate(target, size=size, mode="bicubic").clamp(0, 1)
    reconstruction = (target + noise * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    return reconstruction, target


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_the_one_of_other_libraries(channels):
    reconstruction, target = pair(40, channels)
    ours = structural_similarity(reconstruction, target)
    for index in range(4):
        x, y = reconstruction[index].permute(1, 2, 0).numpy(), target[index].permute(1, 2, 0).numpy()
        _, full = skimage.metrics.structural_similarity(
            *(x, y),
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=2,
            full=True,
        )
        assert ours[index].item() == pytest.approx(np.mean(full[5:-5, 5:-5]), abs=1e-4)
    # torchmetrics also counts windows that reach over the border, into mirrored pixels
    _, full = torchmetrics.structural_similarity_index_measure(
        reconstruction, target, data_range=1.0, reduction="none", return_full_image=True
    )
    torch.testing.assert_close(ours, full[..., 5:-5, 5:-5].mean((1, 2, 3)), rtol=0, atol=1e-4)


def test_ms_ssim_is_the_one_of_torchmetrics():
    reconstruction, target = pair(192)
    ours = multiscale_structural_similarity(reconstruction, target)
    theirs = torchmetrics.multiscale_structural_similarity_index_measure(
        reconstruction, target, data_range=1.0, reduction="none", normalize="relu"
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-2)


def test_small_images_use_fewer_scales():
    assert multiscale_structural_similarity(*pair(16, noise=0.0)).min() > 0.999
    reconstruction, target = pair(16)
    torch.testing.assert_close(  # one scale alone is SSIM
        multiscale_structural_similarity(reconstruction, target), structural_similarity(reconstruction, target)
    )


@pytest.mark.parametrize(
    "loss",
    [structural_similarity, multiscale_structural_similarity],
)
@pytest.mark.parametrize("images", [torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32), pair(32, 1, batch=2)[1]])
def test_gradient_at_equality_is_finite_and_zero(loss, images):
    reconstruction = images.clone().requires_grad_()
    loss(reconstruction, images).sum().backward()
    assert reconstruction.grad.isfinite().all() and reconstruction.grad.abs().max() < 1e-3


@pytest.mark.parametrize("loss", [structural_similarity, multiscale_structural_similarity])
def test_gradient_against_opposites_is_finite(loss):
    target = pair(32, 1, batch=2)[1]
    for reconstruction in (1 - target, torch.zeros_like(target), torch.full_like(target, 3.0)):
        reconstruction = reconstruction.clone().requires_grad_()
        (1 - loss(reconstruction, target)).sum().backward()
        assert reconstruction.grad.isfinite().all()


def test_gradient_is_that_of_finite_differences():
    reconstruction, target = (images.double() for images in pair(24, 1, batch=1))
    reconstruction.requires_grad_()
    structural_similarity(reconstruction, target).sum().backward()
    direction = torch.randn(reconstruction.shape, generator=torch.Generator().manual_seed(1)).double()
    step = 1e-3
    with torch.no_grad():
        ahead, behind = (structural_similarity(reconstruction + s * direction, target).sum() for s in (step, -step))
    slope = (reconstruction.grad * direction).sum().item()
    assert slope == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=2e-2)


def test_windows_need_room():
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, got .8, 32."):
        structural_similarity(torch.zeros(1, 1, 8, 32), torch.zeros(1, 1, 8, 32))
