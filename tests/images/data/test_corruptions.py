import io

import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.faces.data.augmentation import FaceAugmentation
from hfembed.images.data.corruptions import (
    Corruption,
    add_gaussian_noise,
    add_salt_and_pepper,
    blur_image,
    compress_as_jpeg,
    downsample_image,
    draw_hole,
    draw_stroke,
    resize_image,
    stroke_mask,
)

EVERYTHING = dict(
    blur=(0.2, 1.5), downsample=(0.4, 1.0), noise=(0.0, 0.2), salt_and_pepper=(0.0, 0.1), jpeg=(20, 90),
    holes=2, hole_size=(4, 9), reduction=(1.0, 3.0), strokes=(1, 3), stroke_width=(2, 5),
    chance={"reduction": 0.6, "strokes": 0.5, "noise": 0.8},
)  # fmt: skip


def crops(count, channels=1, height=40, width=32):
    """Smooth random pictures, as photos are."""
    coarse = torch.rand(count, channels, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return fine.clamp(0, 255).to(torch.uint8)


def keys(count, epoch=0):
    return [(epoch, index) for index in range(count)]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_depends_on_its_key_and_nothing_else(channels):
    corrupt, pixels = Corruption(seed=7, **EVERYTHING), crops(13, channels, 31, 29)
    together = corrupt(pixels, keys(13, 3))
    alone = torch.cat([corrupt(pixels[i : i + 1], [(3, i)]) for i in range(13)])
    backwards = corrupt(pixels.flip(0), keys(13, 3)[::-1]).flip(0)
    assert torch.equal(together, alone) and torch.equal(together, backwards)
    assert together.dtype == torch.float32 and 0 <= together.min() and together.max() <= 255


def test_seed_epoch_index_and_repetition_all_count():
    pixels = crops(1)
    seen = {
        bytes(Corruption(seed=seed, **EVERYTHING)(pixels, [key]).numpy())
        for seed, key in [(0, (0, 0)), (1, (0, 0)), (0, (1, 0)), (0, (0, 1)), (0, (0, 0, 1))]
    }
    assert len(seen) == 5


def test_nothing_on_changes_nothing_and_the_input_is_never_touched():
    pixels = crops(3, 3)
    before = pixels.clone()
    assert torch.equal(Corruption()(pixels, keys(3)), pixels.float())
    Corruption(**EVERYTHING)(pixels, keys(3))
    assert torch.equal(pixels, before)


def test_turning_one_damage_on_leaves_the_draws_of_the_others():
    pixels = torch.full((4, 1, 32, 32), 128, dtype=torch.uint8)  # blur changes nothing on a flat image
    noisy = Corruption(noise=(0.05, 0.2))(pixels, keys(4))
    both = Corruption(noise=(0.05, 0.2), blur=(0.5, 2.0))(pixels, keys(4))
    assert torch.allclose(noisy, both, atol=1e-3)


def test_corruption_and_augmentation_do_not_share_their_noise():
    pixels = torch.full((1, 1, 64, 64), 128, dtype=torch.uint8)
    ours = Corruption(noise=(0.1, 0.1))(pixels, [(0, 0)]) - 128
    theirs = FaceAugmentation(noise=1.0, noise_strength=0.2)(pixels, [(0, 0)]).float() - 128
    assert abs(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]) < 0.06


def test_no_two_draws_share_their_stream():
    """Salt of one sample was the noise of the next: jumps of the generator reached into its neighbor's draws."""
    corruption = Corruption()
    streams = {}
    for index in range(6):
        for kind, generator in zip(("noise", "salt", "holes"), corruption._draws((0, index))[1:], strict=True):
            streams[index, kind] = tuple(generator.integers(0, 2**62, 4))
    assert len(set(streams.values())) == len(streams)


def test_noise_has_the_strength_it_says_and_is_white():
    pixels = torch.full((40, 1, 32, 32), 128, dtype=torch.uint8)
    noise = Corruption(noise=(0.1, 0.1))(pixels, keys(40)).numpy() / 255 - 128 / 255
    assert noise.std() == pytest.approx(0.1, rel=0.02) and abs(noise.mean()) < 2e-3
    assert abs((noise[..., 1:] * noise[..., :-1]).mean()) < 3e-4
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.12
    drawn = Corruption(noise=(0.05, 0.15))(pixels, keys(40)).sub(128).div(255).std((1, 2, 3))
    assert 0.045 < drawn.min() < 0.075 and 0.125 < drawn.max() < 0.155


def test_noise_of_a_known_strength_gives_its_psnr():
    """20 dB without clipping; clipped noise is a little weaker."""
    clean = np.full((1, 200, 200), 128, dtype=np.float32)
    noisy = add_gaussian_noise(clean, 0.1, np.random.default_rng(0))
    assert -10 * np.log10(((noisy - clean) ** 2).mean() / 255**2) == pytest.approx(20, abs=0.1)
    assert add_gaussian_noise(clean * 0, 0.1, np.random.default_rng(0)).min() == 0


def test_salt_and_pepper_hits_whole_pixels_in_equal_shares():
    image = np.full((3, 200, 200), 100, dtype=np.float32)
    damaged = add_salt_and_pepper(image, 0.2, np.random.default_rng(0))
    assert (damaged == damaged[:1]).all()
    assert (damaged == 0).mean() == pytest.approx(0.1, abs=0.01)
    assert (damaged == 255).mean() == pytest.approx(0.1, abs=0.01)


def test_holes_have_their_size_and_reach_every_place():
    pixels = torch.full((300, 1, 24, 20), 10, dtype=torch.uint8)
    masked = Corruption(holes=1, hole_size=(16, 16))(pixels, keys(300)) != 10
    assert (masked.sum((1, 2, 3)) == 256).all()
    assert masked.any(0).all(), "the corners too"
    generator = np.random.default_rng(0)
    places = {draw_hole(5, 4, 4, generator)[0].start for _ in range(50)}
    assert places == {0, 1}
    with pytest.raises(ValueError, match="hole_size"):
        Corruption(holes=1, hole_size=(16, 21))(pixels, keys(300))


def test_the_mask_shows_the_holes_of_the_same_keys():
    pixels = torch.full((20, 3, 24, 20), 10, dtype=torch.uint8)
    corruption = Corruption(holes=2, hole_size=(3, 9), blur=(0.0, 1.0), hole_level=1.0)
    masks = corruption.hole_masks(keys(20), 24, 20)
    assert masks.shape == (20, 1, 24, 20) and masks.dtype == torch.bool
    assert torch.equal(masks.expand_as(pixels), corruption(pixels, keys(20)) > 200)
    with pytest.raises(ValueError, match="hole_size"):
        corruption.hole_masks(keys(20), 24, 8)


def test_blur_is_scipys():
    from scipy.ndimage import gaussian_filter

    image = crops(1, height=60, width=60)[0].numpy().astype(np.float32)
    inside = (slice(None), slice(15, -15), slice(15, -15))
    expected = gaussian_filter(image, sigma=(0, 1.3, 1.3), truncate=8)
    assert np.allclose(blur_image(image, 1.3)[inside], expected[inside], atol=1e-2)
    assert np.allclose(blur_image(np.full((1, 9, 9), 50, np.float32), 2.0), 50, atol=1e-3)


def test_downsampling_loses_detail_and_keeps_the_level():
    checks = np.indices((32, 32)).sum(0)[None].astype(np.float32) % 2 * 255
    softened = downsample_image(checks, 0.5)
    assert softened.std() < 0.1 * checks.std() and softened.mean() == pytest.approx(127.5, abs=1)
    assert np.allclose(downsample_image(checks, 1.0), checks, atol=1e-3)


def from_pillow(image, size):
    """Bicubic in floating point, channel by channel."""
    layers = [Image.fromarray(layer).resize(size, Image.Resampling.BICUBIC) for layer in image]
    return np.clip(np.stack([np.asarray(layer) for layer in layers]), 0, 255)


def test_reduction_is_pillows_there_and_back():
    image = crops(1, 3)[0].numpy().astype(np.float32)
    for height, width in ((13, 11), (40, 20), (80, 96)):
        assert np.allclose(resize_image(image, height, width), from_pillow(image, (width, height)), atol=0.05)
    reduced = Corruption(reduction=(4.0, 4.0))(crops(1, 3), keys(1))[0].numpy()
    assert np.allclose(reduced, from_pillow(from_pillow(image, (8, 10)), (32, 40)), atol=0.05)


def test_noise_and_jpeg_are_those_of_the_small_photo():
    """What is enlarged has grown: written down once more with Pillow and the keyed draws."""
    image = crops(1, 3)[0].numpy().astype(np.float32)
    damaged = Corruption(seed=3, reduction=(2.0, 2.0), noise=(0.1, 0.1), jpeg=(30, 30))(crops(1, 3), [(5, 7)])[0]
    generator = np.random.Generator(np.random.Philox(key=[3, 11], counter=[0, 0, 7, 5]))
    small = from_pillow(image, (16, 20))
    small = np.clip(small + 25.5 * generator.standard_normal(small.shape, dtype=np.float32), 0, 255)
    file = io.BytesIO()
    Image.fromarray(np.rint(small).astype(np.uint8).transpose(1, 2, 0)).save(file, "JPEG", quality=30)
    decoded = np.asarray(Image.open(file), dtype=np.float32).transpose(2, 0, 1)
    difference = np.abs(damaged.numpy() - from_pillow(decoded, (32, 40)))
    assert np.median(difference) < 0.05 and difference.mean() < 2, "up to what rounding changes in a block"


def test_a_stroke_is_what_is_near_its_line():
    corners, breadth = np.array([[3.0, 4.0], [20.0, 11.0], [9.0, 24.0]]), 5.0
    mask = stroke_mask(24, 30, corners, breadth)
    lines = zip(corners[:-1], corners[1:], strict=True)
    points = np.concatenate([a + np.linspace(0, 1, 4000)[:, None] * (b - a) for a, b in lines])
    for row in range(24):
        for column in range(30):
            distance = np.hypot(*(points - [row, column]).T).min()
            if abs(distance - 2.5) > 0.01:
                assert mask[row, column] == (distance < 2.5), (row, column)


def test_strokes_have_the_number_and_breadth_that_they_say_and_reach_every_place():
    generator = np.random.default_rng(0)
    for _ in range(50):
        corners, breadth = draw_stroke(40, 32, (3, 6), generator)
        assert 3 <= breadth <= 6 and 3 <= len(corners) <= 8
        assert (corners >= 0).all() and (corners <= [39, 31]).all()
    corruption = Corruption(strokes=(1, 2), stroke_width=(4, 8))
    masks = corruption.hole_masks(keys(200), 40, 32)
    assert masks.any(0).all() and 0.05 < masks.float().mean() < 0.5 and masks.any(3).any(2).all()
    damaged = corruption(crops(200), keys(200))
    assert torch.equal(damaged, torch.where(masks, 127.5, crops(200).float()))
    assert corruption.makes_holes and not Corruption().makes_holes


def test_a_chance_is_the_fraction_of_the_samples_and_independent_of_the_others():
    corruption = Corruption(noise=(0.1, 0.1), strokes=(1, 1), chance={"noise": 0.3, "strokes": 0.5})
    pixels = torch.full((400, 1, 16, 16), 128, dtype=torch.uint8)
    damaged, masks = corruption(pixels, keys(400)), corruption.hole_masks(keys(400), 16, 16)
    has_hole = masks.any(3).any(2)[:, 0]
    has_noise = ((damaged != 128) & ~masks).any(3).any(2)[:, 0]
    assert has_hole.float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert has_noise.float().mean().item() == pytest.approx(0.3, abs=0.08)
    assert (has_noise & has_hole).float().mean().item() == pytest.approx(0.15, abs=0.06)
    # those that have it have what they would have without a chance
    certain = Corruption(noise=(0.1, 0.1))(pixels, keys(400))
    shown = has_noise & ~has_hole
    assert torch.equal(damaged[shown], certain[shown])


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_and_worse_at_low_quality(channels):
    image = crops(1, channels)[0].numpy().astype(np.float32)
    error = {quality: np.abs(compress_as_jpeg(image, quality) - image).mean() for quality in (5, 95)}
    assert 0 < error[95] < 4 < error[5]


@pytest.mark.parametrize(
    "wrong",
    [
        dict(noise=(0.2, 0.1)), dict(blur=(-1.0, 0.0)), dict(downsample=(0.0, 1.0)), dict(jpeg=(0, 50)),
        dict(salt_and_pepper=(0.0, 1.5)), dict(holes=-1), dict(hole_size=(0, 4)), dict(hole_level=2.0),
        dict(reduction=(0.5, 2.0)), dict(strokes=(2, 1)), dict(stroke_width=(0.0, 4.0)), dict(chance={"nois": 0.5}),
        dict(chance={"noise": 1.5}),
    ],
)  # fmt: skip
def test_an_impossible_value_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Corruption(**wrong)
