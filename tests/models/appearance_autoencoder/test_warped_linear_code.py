"""The warp and the linear code: fits what it can draw, better than principal components alone."""

import math

import torch
import torch.nn.functional as F

from hfembed.models.appearance_autoencoder.configuration_appearance_autoencoder import AppearanceAutoencoderConfig
from hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder import AppearanceAutoencoderModel
from hfembed.models.appearance_autoencoder.warped_linear_code import WarpedLinearCode, cosine_waves


def shifted_blobs(count, seed=0):
    """Two dark spots on a light field, at places and of darknesses of their own: nonlinear in the place."""
    generator = torch.Generator().manual_seed(seed)
    place = 16 + 3 * torch.randn(count, 2, 1, 1, generator=generator)
    dark = 0.3 + 0.3 * torch.rand(count, 2, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    images = torch.full((count, 32, 32), 0.8)
    for number, offset in enumerate((-5, 5)):
        distance = (x - place[:, 0] - offset) ** 2 + (y - place[:, 1]) ** 2
        images = images - dark[:, number] * torch.exp(-distance / 18)
    return images[:, None]


def code(latents=12, warp=6, channels=1):
    module = WarpedLinearCode(channels, [32, 32], latents, warp, 4)
    with torch.no_grad():
        for parameter, value in zip((module.mean, module.basis, module.fields), module.starting_values(), strict=True):
            parameter.copy_(value)
    return module


def test_cosine_waves_are_orthonormal():
    waves = cosine_waves(20, 12, 10).flatten(1)
    torch.testing.assert_close(waves @ waves.T, torch.eye(20), atol=1e-5, rtol=0)


def test_without_warp_it_is_pca():
    images = shifted_blobs(200)
    module = code(latents=9, warp=1)
    module.start_from_images(images)
    flat = images.flatten(1)
    mean = flat.mean(0)
    components = torch.linalg.svd(flat - mean, full_matrices=False).Vh[:8]
    expected = ((flat - mean) @ components.T @ components + mean).view_as(images)
    latents = torch.cat([torch.zeros(200, 1), (flat - mean) @ components.T], 1)
    error, expected_error = ((module.decode(latents) - images), (expected - images))
    # the signs of components are free, their span is not
    fitted = module.fit(images, torch.zeros(200, 1), 3)
    assert (module.decode(fitted) - images).square().mean() <= 1.001 * expected_error.square().mean()
    assert error.shape == expected_error.shape


def test_colors_are_fitted_however_they_lie_in_memory():
    images = torch.cat([shifted_blobs(60), shifted_blobs(60).flip(3), shifted_blobs(60, seed=1)], 1)
    torch.manual_seed(0)
    module = code(channels=3)
    module.start_from_images(images)
    fitted = module.fit(images[:5], torch.zeros(5, 6), 3)
    in_other_order = module.fit(images[:5].contiguous(memory_format=torch.channels_last), torch.zeros(5, 6), 3)
    torch.testing.assert_close(in_other_order, fitted, atol=1e-4, rtol=1e-4)
    assert (module.decode(fitted) - images[:5]).square().mean() < 0.1 * images[:5].var()


def test_a_step_is_that_of_the_numerical_jacobian():
    images = shifted_blobs(3, seed=1)
    module = code()
    module.start_from_images(shifted_blobs(100))
    warp = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    start = module._gauss_newton(images, warp, None, 1, 1)
    after = module._gauss_newton(images, start[:, :6], start[:, 6:], 1, 1)
    ridge = torch.cat([torch.full((6,), 2e-2), torch.full((6,), 1e-3)])
    for index in range(3):
        z = start[index]
        columns = [
            (module.decode((z + 1e-2 * unit)[None]) - module.decode((z - 1e-2 * unit)[None])).flatten() / 2e-2
            for unit in torch.eye(12)
        ]
        jacobian = torch.stack(columns, 1).double()
        residual = (images[index] - module.decode(z[None])).flatten().double()
        right = jacobian.T @ residual
        right[:6] -= 2e-2 * z[:6].double()
        step = torch.linalg.solve(jacobian.T @ jacobian + torch.diag(ridge.double()), right)
        torch.testing.assert_close((after[index] - z).double(), step, rtol=0.1, atol=0.05)


def test_fit_finds_latents_that_were_drawn():
    module = code()
    module.start_from_images(shifted_blobs(200))
    latents = torch.randn(8, 12, generator=torch.Generator().manual_seed(3))
    images = module.decode(latents).detach()
    again = module.decode(module.fit(images, torch.zeros(8, 6), 4))
    assert F.mse_loss(again, images) < 0.02 * images.var(0).mean()
    coarse = module.decode(module.fit(images, torch.zeros(8, 6), 4, coarse=True))
    assert F.mse_loss(coarse, images) < 0.1 * images.var(0).mean()


def test_gradients_are_those_of_the_least_squares_code():
    """Of a loss that is not the squared error: against linear algebra that torch differentiates, under a warp."""
    images, weights = shifted_blobs(4, seed=5), shifted_blobs(4, seed=6)
    module = code(latents=9, warp=2)
    module.start_from_images(shifted_blobs(200))
    warp = torch.tensor([[2.0, -1.0]] * 4)  # one movement for the whole image: the basis stays nearly orthonormal
    parameters = [module.mean, module.basis]

    rows = torch.cat([module.basis, module.mean[None]]) / 10
    places = module._sampling_places(warp[:1]).detach().expand(len(rows), -1, -1, -1)
    rows = F.grid_sample(rows, places, padding_mode="border", align_corners=False).flatten(1)
    basis, mean = rows[:-1], rows[-1]
    exact = torch.linalg.solve(basis @ basis.T, basis @ (images.flatten(1) - mean).T).T
    expected = torch.autograd.grad((((mean + exact @ basis).view_as(images)) * weights).sum(), parameters)

    latents = torch.cat([warp, exact.detach()], 1)
    actual = torch.autograd.grad((module.decode(module.refit(latents, images)) * weights).sum(), parameters)
    of_given = torch.autograd.grad((module.decode(latents) * weights).sum(), parameters)
    for ours, naive, theirs in zip(actual, of_given, expected, strict=True):
        assert (ours - theirs).norm() < 0.2 * (naive - theirs).norm()


def test_training_beats_pca_on_what_moves():
    torch.manual_seed(0)
    config = AppearanceAutoencoderConfig(
        num_channels=1, image_size=[32, 32], patch_size=4, widths=[16, 32], blocks_per_level=0,
        latent_channels=6, warp_latents=2, warp_grid=4,
    )  # fmt: skip
    model = AppearanceAutoencoderModel(config)
    train, held_out = shifted_blobs(400), shifted_blobs(100, seed=9)
    model.bottleneck.code.start_from_images(train)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        loss = model.train()(train[step % 10 * 40 :][:40]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = F.mse_loss(model.eval()(held_out).reconstruction, held_out).item()
    flat = train.flatten(1)
    components = torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:6]
    centered = held_out.flatten(1) - flat.mean(0)
    pca = (centered - centered @ components.T @ components).square().mean().item()
    assert 10 * math.log10(pca / error) > 2, "decibels above PCA with as many numbers"


def test_start_in_a_metric_is_the_best_linear_code_there():
    """Against the dense generalised eigenproblem: the part of the distance that no code of this length can keep."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.linspace(1, 0.1, 64)
    images = 0.5 + (torch.randn(400, 64, generator=generator) * spectrum).view(400, 1, 8, 8)
    slopes = torch.randn(50, 64, generator=generator) * spectrum.flip(0)
    module = WarpedLinearCode(1, [8, 8], 9, 1, 2, code_filters=True)
    with torch.no_grad():
        for parameter, value in zip((module.mean, module.basis, module.fields), module.starting_values(), strict=True):
            parameter.copy_(value)
    flat = images.flatten(1)
    basis = module.basis.detach().flatten(1) / 10
    left = flat - 0.5 - (flat - 0.5) @ basis.T @ basis
    scale = left[:50].square().sum(1).mean() / (left[:50] @ slopes.T).square().mean()
    metric = torch.eye(64) + 2 * scale * slopes.T @ slopes / 50
    root = torch.linalg.cholesky(metric)
    least = torch.linalg.eigvalsh(root.T @ torch.cov(flat.T, correction=0) @ root)[:-8].sum()

    module.start_in_metric(images, slopes.view(50, 1, 8, 8), 2.0)

    def distance(latents):
        error = (module.decode(latents) - images).detach().flatten(1)
        return ((error @ metric) * error).sum(1).mean()

    code = module.refit(torch.zeros(400, 9), images)  # no warp, and an orthonormal basis: one step is all
    torch.testing.assert_close(distance(code), least, rtol=1e-3, atol=0)
    orthogonal = module._step(torch.zeros(400, 9), images, module.basis)
    assert distance(orthogonal) > 1.1 * least


def test_unwarp_undoes_a_smooth_warp_and_keeps_what_is_drawn():
    module = code()
    module.start_from_images(shifted_blobs(200))
    latents = torch.randn(4, 12, generator=torch.Generator().manual_seed(3))
    drawn = module._unwarped(latents[:, 6:])
    torch.testing.assert_close(module.unwarp(module.decode(latents), latents), drawn)
    other = drawn + 0.1 * shifted_blobs(4, seed=7)
    again = module.unwarp(module.warp(other, latents[:, :6]), latents)
    assert F.mse_loss(again, other) < 0.2 * F.mse_loss(drawn, other)
