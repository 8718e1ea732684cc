"""Photos into the autoencoder and out of it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor


def photo(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_crops_the_center_and_resizes_with_antialiasing():
    processor = ConvAutoencoderImageProcessor(size=[16, 24], crop_fraction=0.5)
    pixels = photo(100, 120)
    # the largest 2:3 rectangle is 80 x 120, half of it 40 x 60 around the center
    assert processor.crop_box(100, 120) == (30, 30, 90, 70)
    expected = Image.fromarray(pixels).resize((24, 16), Image.Resampling.BILINEAR, box=(30, 30, 90, 70))
    np.testing.assert_array_equal(processor.align(pixels), np.asarray(expected))
    values = processor(Image.fromarray(pixels)).pixel_values
    assert values.shape == (1, 3, 16, 24) and values.dtype == torch.float32
    np.testing.assert_allclose(values[0].permute(1, 2, 0) * 255, np.asarray(expected), atol=1e-4)


def test_every_kind_of_photo_gives_the_same(tmp_path):
    processor = ConvAutoencoderImageProcessor(size=8, color="gray")
    pixels = photo(20, 30, channels=1)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "photo.png")
    encoded = (tmp_path / "photo.png").read_bytes()
    kinds = [
        *(image, pixels, pixels[:, :, None], torch.from_numpy(pixels)[None], image.convert("RGB")),
        *(encoded, tmp_path / "photo.png", {"bytes": encoded, "path": None}),
    ]
    values = processor(kinds).pixel_values
    assert values.shape == (len(kinds), 1, 8, 8)
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=0, atol=1.01 / 255)


def test_sixteen_bits_and_floats_are_scaled(tmp_path):
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray((values / 65535).astype(np.float32)).save(tmp_path / "float.tif")
    processor = ConvAutoencoderImageProcessor(size=8)
    for name in ("deep.png", "float.tif"):
        scaled = processor(tmp_path / name).pixel_values[0, 0]
        np.testing.assert_allclose(scaled, values / 65535, atol=1 / 255)


def test_own_size_cut_to_a_multiple():
    processor = ConvAutoencoderImageProcessor(do_resize=False, size_divisor=16, color="gray")
    pixels = photo(50, 67, channels=1)
    values = processor(pixels).pixel_values
    np.testing.assert_allclose(values[0, 0] * 255, pixels[1:49, 1:65], atol=1e-4)
    with pytest.raises(ValueError, match="12 x 30 pixels are fewer than 16"):
        processor(photo(30, 12))
    with pytest.raises(ValueError, match="images of different sizes"):
        processor([photo(32, 32), photo(32, 48)])


def test_exif_orientation_is_applied():
    pixels = photo(20, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    upright = ConvAutoencoderImageProcessor(do_resize=False).align(file.getvalue())
    np.testing.assert_array_equal(upright, np.rot90(pixels, -1))


def test_there_and_back():
    processor = ConvAutoencoderImageProcessor(size=[12, 10])
    pixels = photo(12, 10)
    back = processor.postprocess(processor(pixels).pixel_values)
    np.testing.assert_array_equal(np.asarray(back[0]), pixels)
    gray = processor.postprocess(torch.tensor([[[[-0.5, 0.5], [1.0, 7.0]]]]))[0]
    assert gray.mode == "L" and np.asarray(gray).tolist() == [[0, 128], [255, 255]]


def test_round_trip_of_the_settings(tmp_path):
    processor = ConvAutoencoderImageProcessor(size=[48, 32], crop_fraction=0.6, color="gray", size_divisor=4)
    processor.save_pretrained(tmp_path)
    assert ConvAutoencoderImageProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"color": "bgr"}, "color is 'rgb' or 'gray'"),
        ({"crop_fraction": 0}, "crop_fraction lies in"),
        ({"size": [1, 2, 3]}, "size is a number"),
        ({"size_divisor": 0}, "size_divisor is 1 or more"),
        ({"crop_fracton": 1}, "unknown key 'crop_fracton'"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ConvAutoencoderImageProcessor(**settings)


def test_broken_photos_are_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    processor = ConvAutoencoderImageProcessor()
    with pytest.raises(ValueError, match=r"image 1 of 2: .*broken\.jpg: not an image of a supported format$"):
        processor([photo(8, 8), tmp_path / "broken.jpg"])
    with pytest.raises(ValueError, match="got no images"):
        processor([])
