"""Photos of every kind become upright RGB pixels, or one line that names them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.models.face_detector.image_processing_face_detector import FaceDetectorImageProcessor


@pytest.fixture
def photo():
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[:30, :, 0], pixels[:, :40, 1], pixels[..., 2] = 200, 120, 60
    return Image.fromarray(pixels)


def encoded(image, file_format, **arguments):
    file = io.BytesIO()
    image.save(file, file_format, **arguments)
    return file.getvalue()


def sixteen_bits(photo):
    return Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("make", "expected", "tolerance"),
    [
        (lambda photo: encoded(photo, "JPEG", quality=95), lambda photo: photo, 12),
        (lambda photo: encoded(photo.convert("CMYK"), "JPEG", quality=95), lambda photo: photo, 12),
        (lambda photo: encoded(photo.convert("P"), "GIF"), lambda photo: photo.convert("P").convert("RGB"), 0),
        (lambda photo: encoded(photo.convert("L"), "PNG"), lambda photo: photo.convert("L").convert("RGB"), 0),
        (lambda photo: encoded(sixteen_bits(photo), "PNG"), lambda photo: photo.convert("L").convert("RGB"), 0),
        (lambda photo: np.asarray(photo.convert("L")), lambda photo: photo.convert("L").convert("RGB"), 0),
        (lambda photo: torch.from_numpy(np.array(photo)).permute(2, 0, 1), lambda photo: photo, 0),
        (lambda photo: {"bytes": encoded(photo, "PNG"), "path": None}, lambda photo: photo, 0),
    ],
)
def test_every_kind_of_photo(photo, make, expected, tolerance):
    opened = FaceDetectorImageProcessor().open(make(photo))
    assert opened.pixels.dtype == torch.uint8 and opened.shrinkage == 1
    difference = opened.pixels.permute(1, 2, 0).int() - torch.from_numpy(np.array(expected(photo))).int()
    assert difference.abs().float().quantile(0.95) <= tolerance


def test_transparent_parts_are_white(photo):
    photo.putalpha(Image.fromarray(np.uint8(np.arange(80) < 40)[None].repeat(60, 0) * 255))
    pixels = FaceDetectorImageProcessor().open(encoded(photo, "PNG")).pixels
    assert (pixels[:, :, 40:] == 255).all() and (pixels[2, :, :40] == 60).all()


def test_of_an_animation_the_first_picture(photo):
    frames = [photo.convert("P"), Image.new("P", photo.size)]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(animated)).n_frames == 2
    pixels = FaceDetectorImageProcessor().open(animated).pixels
    assert torch.equal(pixels.permute(1, 2, 0), torch.from_numpy(np.array(photo.convert("P").convert("RGB"))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("longest_side", [None, 30])
def test_exif_orientation_and_size(photo, orientation, longest_side):
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = FaceDetectorImageProcessor().open(encoded(photo, "JPEG", exif=exif, quality=95), longest_side)
    turned = photo if orientation < 5 else photo.transpose(Image.Transpose.TRANSPOSE)
    height, width = opened.pixels.shape[1:]
    assert max(height, width) == (longest_side or 80)
    assert (height > width) == (turned.height > turned.width)
    assert opened.shrinkage == 80 / (longest_side or 80)


def test_what_is_no_photo_is_named(tmp_path, photo):
    processor = FaceDetectorImageProcessor(max_pixels=5000)
    (tmp_path / "notes.jpg").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(encoded(photo, "JPEG")[:-400])
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("1", (100, 60)).save(tmp_path / "bomb.png")
    for name, reason in (
        ("notes.jpg", "not an image"),
        ("cut.jpg", "[Tt]runcated"),
        ("empty.jpg", "the file is empty"),
        ("bomb.png", "100 x 60 pixels, more than max_pixels = 5,000"),
        ("missing.jpg", "[Nn]o such file"),
    ):
        with pytest.raises(ValueError, match=f"{name}: .*{reason}"):
            processor.open(tmp_path / name)
    with pytest.raises(ValueError, match="image 1 of 2: .*cut.jpg"):
        processor([photo, tmp_path / "cut.jpg"])
    for wrong in (np.zeros((4, 4), np.int64), np.zeros((0, 4), np.uint8), 3):
        with pytest.raises(ValueError, match="image: cannot be read"):
            processor.open(wrong)


def test_a_large_jpeg_is_decoded_small():
    large = encoded(Image.new("RGB", (4000, 3000), "teal"), "JPEG")
    opened = FaceDetectorImageProcessor(max_pixels=1_000_000).open(large, 500)
    assert opened.pixels.shape == (3, 375, 500) and opened.shrinkage == 8


def test_settings_are_kept_and_typos_refused(tmp_path):
    FaceDetectorImageProcessor(max_pixels=123).save_pretrained(tmp_path)
    assert FaceDetectorImageProcessor.from_pretrained(tmp_path).max_pixels == 123
    with pytest.raises(ValueError, match="max_pixel'"):
        FaceDetectorImageProcessor(max_pixel=3)
    for impossible in (0, 500_000_000):
        with pytest.raises(ValueError, match="max_pixels"):
            FaceDetectorImageProcessor(max_pixels=impossible)
