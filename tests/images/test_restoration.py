from types import SimpleNamespace

import pytest
import torch

from hfembed.errors import InputError
from hfembed.images.morphing import midpoint_sharpness, morph, walk
from hfembed.images.restoration import denoise, inpaint, restore
from tests.images.tiny_autoencoder import SIZE, smooth_images, tiny_autoencoder, tiny_restoration


class Darken:
    """A 'denoiser' that halves every pixel, and accepts what it was configured for only."""

    device = torch.device("cpu")

    def __init__(self, channels, inpainting=False, removes_damage=None):
        removes_damage = not inpainting if removes_damage is None else removes_damage
        self.config = SimpleNamespace(
            model_type="hfembed_restoration_autoencoder",
            num_channels=channels,
            image_size=[SIZE, SIZE],
            inpainting=inpainting,
            removes_damage=removes_damage,
        )

    def __call__(self, pixel_values, mask=None):
        assert pixel_values.shape[1:] == (self.config.num_channels, SIZE, SIZE)
        if mask is not None:
            assert mask.shape == (len(pixel_values), 1, SIZE, SIZE) and mask.dtype == torch.bool
            pixel_values = torch.where(mask, 0.4, pixel_values)
        return SimpleNamespace(reconstruction=pixel_values / 2)


@pytest.mark.parametrize("model_channels", [1, 3])
@pytest.mark.parametrize("photo_channels", [1, 3])
def test_photos_of_any_size_and_color(model_channels, photo_channels):
    photo = torch.rand(photo_channels, 45, 30, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(denoise(Darken(model_channels), photo), photo / 2, atol=1e-6)


def test_a_new_denoiser_changes_nothing():
    photo = smooth_images(1, size=40)[0]
    assert torch.allclose(denoise(tiny_restoration(), photo), photo, atol=1e-6)
    with pytest.raises(InputError, match="overlap"):
        denoise(Darken(1), photo, overlap=SIZE)


@pytest.mark.parametrize("model", [tiny_autoencoder(), Darken(1, inpainting=True)])
def test_what_removes_no_noise_is_refused(model):
    with pytest.raises(InputError, match="does not restore photos"):
        denoise(model, smooth_images(1)[0])


def test_a_result_that_is_not_finite_is_refused():
    model, photo = tiny_restoration(), smooth_images(1)[0]
    next(model.parameters()).data[:] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        denoise(model, photo)
    filler = tiny_restoration(inpainting=True)
    next(filler.parameters()).data[:] = torch.nan
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[3:6, 3:6] = True
    with pytest.raises(InputError, match="not finite"):
        inpaint(filler, photo, mask)


def test_a_photo_and_its_mirror_image_give_mirrored_results():
    model = tiny_restoration()
    torch.nn.init.normal_(model.decoder.conv_out.weight, std=0.1)  # a new one changes nothing
    photo = smooth_images(1)[0]
    assert torch.allclose(denoise(model, photo.flip(2)), denoise(model, photo).flip(2), atol=1e-6)


@pytest.mark.parametrize("model_channels", [1, 3])
@pytest.mark.parametrize("photo_channels", [1, 3])
def test_only_the_hole_is_filled(model_channels, photo_channels):
    photo, mask = torch.rand(photo_channels, 30, 20), torch.zeros(30, 20, dtype=torch.bool)
    mask[5:12, 3:9] = True
    filled = inpaint(Darken(model_channels, inpainting=True), photo, mask)
    assert torch.equal(filled[:, ~mask], photo[:, ~mask])
    assert torch.allclose(filled[:, mask], torch.tensor(0.2), atol=1e-6)
    with pytest.raises(InputError, match="30 x 19"):
        inpaint(Darken(1, inpainting=True), photo, mask[:, 1:])
    for nothing in (mask & False, mask | True):
        with pytest.raises(InputError, match="mask covers"):
            inpaint(Darken(1, inpainting=True), photo, nothing)
    with pytest.raises(InputError, match="does not fill holes"):
        inpaint(tiny_restoration(), photo, mask)


@pytest.mark.parametrize("model_channels", [1, 3])
@pytest.mark.parametrize("photo_channels", [1, 3])
def test_one_model_removes_damage_and_fills_holes(model_channels, photo_channels):
    photo, mask = torch.rand(photo_channels, 30, 20), torch.zeros(30, 20, dtype=torch.bool)
    mask[5:12, 3:9] = True
    model = Darken(model_channels, inpainting=True, removes_damage=True)
    restored = restore(model, photo, mask)
    assert torch.allclose(restored, torch.where(mask, 0.2, photo / 2), atol=1e-6)
    assert torch.allclose(restore(model, photo), photo / 2, atol=1e-6)
    with pytest.raises(InputError, match="does not fill holes"):
        restore(Darken(1), photo, mask)


def test_a_morph_goes_from_one_reconstruction_to_the_other():
    model, (a, b) = tiny_autoencoder(), smooth_images(2)
    ends = model.decode(model.encode(torch.stack([a, b]))).clamp(0, 1)
    for spherical in (False, True):
        frames = morph(model, a, b, 5, spherical)
        assert frames.shape == (5, 1, SIZE, SIZE)
        assert torch.allclose(frames[[0, -1]], ends, atol=1e-5)
        assert frames.diff(dim=0).abs().amax((1, 2, 3)).max() < (ends[1] - ends[0]).abs().max()


def test_a_ghost_is_less_sharp_than_its_ends():
    a, b = torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    assert midpoint_sharpness(torch.stack([a, (a + b) / 2, b])) == pytest.approx(0.5, abs=0.1)
    assert midpoint_sharpness(torch.stack([a, a, a])) == pytest.approx(1)


def test_a_walk_has_the_reconstruction_in_its_middle():
    model, image = tiny_autoencoder(), smooth_images(1)[0]
    direction = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    frames = walk(model, image, direction, reach=1.0, steps=3)
    latent = model.encode(image[None])
    expected = torch.cat([model.decode(latent + move * direction) for move in (-1, 0, 1)]).clamp(0, 1)
    assert torch.allclose(frames, expected, atol=1e-5)
