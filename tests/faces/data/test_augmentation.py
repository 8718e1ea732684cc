import numpy as np
import pytest
import torch

from hfembed.faces.data.augmentation import FaceAugmentation

EVERYTHING = dict(
    mirror=0.5, zoom=(0.8, 1.2), aspect=0.1, rotation=15, shear=0.1, shift=0.08, perspective=0.05,
    downsample=0.3, blur=0.3, gamma=0.4, contrast=0.3, brightness=0.15, light=0.2, noise=0.7, erase=0.5,
)  # fmt: skip
COLOR = dict(grayscale=0.3, saturation=0.4, erase_fill="noise")


def crops(count, channels=1, height=40, width=32):
    """Smooth random pictures, as photos are."""
    coarse = torch.rand(count, channels, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return fine.clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_depends_on_its_key_and_nothing_else(channels):
    augment = FaceAugmentation(seed=7, **EVERYTHING, **(COLOR if channels == 3 else {}))
    pixels, keys = crops(37, channels, 31, 29), [(3, index) for index in range(37)]
    together = augment(pixels, keys)
    alone = torch.cat([augment(pixels[i : i + 1], keys[i : i + 1]) for i in range(37)])
    backwards = augment(pixels.flip(0), keys[::-1]).flip(0)
    assert torch.equal(together, alone) and torch.equal(together, backwards)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(together, augment(pixels, keys))
    finally:
        torch.set_num_threads(threads)


def test_seed_epoch_index_and_repetition_all_count():
    pixels = crops(1)
    seen = {
        bytes(FaceAugmentation(seed=seed, **EVERYTHING)(pixels, [key]).numpy())
        for seed, key in [(0, (0, 0)), (1, (0, 0)), (0, (1, 0)), (0, (0, 1)), (0, (0, 0, 1))]
    }
    assert len(seen) == 5
    same = FaceAugmentation(**EVERYTHING)
    assert torch.equal(same(pixels, [(2, 5)]), same(pixels, [(2, 5, 0)]))


def test_nothing_on_changes_nothing():
    pixels = crops(5, 3)
    result = FaceAugmentation()(pixels, [(0, i) for i in range(5)])
    assert torch.equal(result, pixels)
    result.zero_()
    assert pixels.any(), "the input must not share memory with the output"


@pytest.mark.parametrize(
    "tiny",
    [
        dict(rotation=1e-9), dict(zoom=(1.0, 1.0 + 1e-9)), dict(shift=1e-9), dict(shear=1e-9), dict(aspect=1e-9),
        dict(perspective=1e-9), dict(gamma=1e-9), dict(contrast=1e-9), dict(brightness=1e-9), dict(light=1e-9),
        dict(saturation=1e-9), dict(noise=1.0, noise_strength=1e-9), dict(blur=1.0, blur_sigma=(1e-2, 1e-2)),
        dict(downsample=1.0, downsample_size=(1.0, 1.0)),
    ],
)  # fmt: skip
def test_an_operation_of_no_strength_changes_nothing(tiny):
    pixels = crops(4, 3)
    assert torch.equal(FaceAugmentation(**tiny)(pixels, [(0, i) for i in range(4)]), pixels)


def test_mirror_and_margin():
    pixels = crops(3, 3, height=44, width=36)
    augment = FaceAugmentation(mirror=1.0, output_size=(40, 32))
    middle = pixels[:, :, 2:-2, 2:-2]
    keys = [(0, i) for i in range(3)]
    assert torch.equal(augment(pixels, keys), middle.flip(3))
    resampled = FaceAugmentation(mirror=1.0, rotation=1e-9, output_size=(40, 32))(pixels, keys)
    assert torch.equal(resampled, middle.flip(3))


def test_a_shift_brings_in_the_margin():
    """What moves in from outside of the output is the frame's real content, not a repeated border."""
    frame = torch.arange(48, dtype=torch.uint8).repeat(48, 1)[None, None] * 5
    augment = FaceAugmentation(seed=1, shift=0.1, output_size=(40, 40))
    result = augment(frame, [(0, 0)])[0, 0].int()
    steps = result[:, 1:] - result[:, :-1]
    assert ((steps - 5).abs() <= 1).all() and result[0, 0] != frame[0, 0, 0, 4]


def test_strengths_are_what_they_say():
    pixels = torch.full((400, 3, 16, 16), 128, dtype=torch.uint8)
    pixels[:, 0] = 100
    keys = [(0, i) for i in range(400)]
    bright = FaceAugmentation(brightness=0.2)(pixels, keys).float().mean((1, 2, 3)) - pixels.float().mean((1, 2, 3))
    assert bright.abs().max() <= 0.2 * 255 + 0.5 and bright.std() == pytest.approx(0.4 * 255 / 12**0.5, rel=0.1)
    noisy = FaceAugmentation(noise=1.0, noise_strength=0.1)(pixels, keys).float()[:, 1].std((1, 2))
    assert noisy.mean() == pytest.approx(0.05 * 255, rel=0.1)
    gray = FaceAugmentation(grayscale=0.25)(pixels, keys)
    assert (gray[:, 0, 0, 0] == gray[:, 1, 0, 0]).float().mean() == pytest.approx(0.25, abs=0.06)
    covered = FaceAugmentation(erase=1.0, erase_size=(0.25, 0.25))(pixels, keys) != pixels
    assert covered[:, 0].float().sum((1, 2)).max() == 16


def test_turning_one_operation_on_leaves_the_draws_of_the_others():
    pixels = crops(20)
    keys = [(0, i) for i in range(20)]
    geometry = FaceAugmentation(seed=2, rotation=20, mirror=0.5)(pixels, keys)
    assert torch.equal(
        FaceAugmentation(seed=2, rotation=20, mirror=0.5, brightness=0.1)(pixels, keys),
        FaceAugmentation(seed=2, brightness=0.1)(geometry, keys),
    )


@pytest.mark.parametrize(
    "wrong",
    [dict(mirror=1.5), dict(zoom=(1.2, 0.9)), dict(rotation=-3), dict(padding="wrap"), dict(perspective=0.6),
     dict(downsample_size=(0.5, 2.0)), dict(erase_fill="blue")],
)  # fmt: skip
def test_an_impossible_value_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FaceAugmentation(**wrong)


def test_fields_are_explained():
    texts = FaceAugmentation.help_texts()
    assert all(texts.values()) and {"seed", "mirror", "erase_fill"} <= set(texts)


def test_color_needs_color_crops():
    with pytest.raises(ValueError, match="3 channels"):
        FaceAugmentation(grayscale=0.5)(crops(1), [(0, 0)])


def test_noise_is_independent_between_samples():
    pixels = torch.full((2, 1, 64, 64), 128, dtype=torch.uint8)
    noise = FaceAugmentation(noise=1.0, noise_strength=0.2)(pixels, [(0, 0), (0, 1)]).float() - 128
    correlation = np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]
    assert abs(correlation) < 0.06
