"""FaceImageProcessor: geometry against a plain reference, colors, bad input, the round trip through its file."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from transformers import AutoImageProcessor

import hfembed  # noqa: F401  registers the processor
from hfembed.models.face_embedder.image_processing_face_embedder import (
    STANDARD_TEMPLATE,
    FaceImageProcessor,
    similarity_transform,
    template_for_size,
)

LANDMARKS = [[101.0, 112.0], [149.0, 118.0], [122.0, 141.0], [103.0, 165.0], [141.0, 170.0]]


def photo(width=250, height=230, seed=0):
    """A smooth color picture: what is compared is geometry, not the resampling of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image, **arguments):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **arguments)
    return buffer.getvalue()


def warp(image, matrix, height, width):
    """Bilinear sampling of `image` (H, W, C) at the inverse of `matrix`, written out."""
    padded = np.pad(np.asarray(image, dtype=np.float64), ((1, 1), (1, 1), (0, 0)))
    y, x = np.mgrid[:height, :width]
    points = (np.stack([x, y], -1).reshape(-1, 2) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    corner = np.floor(points).astype(int)
    fx, fy = (points - corner).T[..., None]

    def at(dx, dy):
        rows = np.clip(corner[:, 1] + dy + 1, 0, padded.shape[0] - 1)
        return padded[rows, np.clip(corner[:, 0] + dx + 1, 0, padded.shape[1] - 1)]

    top, bottom = at(0, 0) * (1 - fx) + at(1, 0) * fx, at(0, 1) * (1 - fx) + at(1, 1) * fx
    return (top * (1 - fy) + bottom * fy).reshape(height, width, -1)


def umeyama(source, target):
    """Umeyama 1991, by the singular values of the covariance."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    covariance = (target - target_mean).T @ (source - source_mean) / len(source)
    u, d, vt = np.linalg.svd(covariance)
    sign = np.diag([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    scale = np.trace(np.diag(d) @ sign) / (source - source_mean).var(0).sum()
    rotation = u @ sign @ vt
    return np.hstack([scale * rotation, (target_mean - scale * rotation @ source_mean)[:, None]])


def test_the_similarity_transform_is_umeyamas():
    random = np.random.default_rng(0)
    for _ in range(20):
        source, target = random.normal(size=(5, 2)) * 30, random.normal(size=(5, 2)) * 20
        np.testing.assert_allclose(similarity_transform(source, target), umeyama(source, target), atol=1e-9)
    targets = random.normal(size=(3, 5, 2))
    alone = [similarity_transform(source, target) for target in targets]
    np.testing.assert_array_equal(similarity_transform(source, targets), alone)


@pytest.mark.parametrize("size", [(112, 112), (112, 96), (64, 64)])
def test_alignment_samples_where_the_landmarks_say(size):
    processor = FaceImageProcessor(size=list(size))
    crop = processor.align(photo(), LANDMARKS)
    matrix = similarity_transform(np.array(LANDMARKS), np.array(processor.template))
    expected = warp(photo(), matrix, *size)
    # Pillow rounds down; a slip of half a pixel would cost 4 gray levels here
    difference = np.abs(crop[2:-2, 2:-2] - expected[2:-2, 2:-2])
    assert crop.shape == (*size, 3) and crop.dtype == np.uint8
    if size != (64, 64):
        assert difference.mean() < 0.6 and np.quantile(difference, 0.99) <= 1.1
    else:  # averaged down
        assert difference.mean() < 1.5


def test_outside_the_photo_is_black():
    white = Image.new("RGB", (120, 120), "white")
    crop = FaceImageProcessor().align(white, np.array(STANDARD_TEMPLATE) - [40, 0])
    assert (crop[:, :39] == 0).all() and (crop[:, 41:] == 255).all()


def test_templates_for_other_sizes():
    standard, narrow, small = (np.array(template_for_size(*size)) for size in ((112, 112), (112, 96), (56, 56)))
    np.testing.assert_allclose(standard, STANDARD_TEMPLATE)
    np.testing.assert_allclose(narrow, standard - [8, 0])
    crop = FaceImageProcessor().align(photo(), LANDMARKS)
    columns = FaceImageProcessor(size=[112, 96]).align(photo(), LANDMARKS)
    assert np.abs(columns.astype(int) - crop[:, 8:104]).max() <= 1
    # half the size shows the same, every pixel the mean of four
    np.testing.assert_allclose(small + 0.5, (standard + 0.5) / 2)


@pytest.mark.parametrize("scale", [3, 4, 9])
@pytest.mark.parametrize("encoded", [False, True])
def test_large_photos_are_averaged_down_in_place(scale, encoded):
    small = photo()
    # a fine chequered pattern on top, of mean 0: aliasing would show as waves
    large = small.resize((250 * scale, 230 * scale), Image.Resampling.BICUBIC)
    pixels = np.asarray(large).astype(int)
    pattern = 40 * (np.indices(pixels.shape[:2]).sum(0) % 2 * 2 - 1)[:, :, None]
    large = Image.fromarray(np.clip(pixels + pattern, 0, 255).astype(np.uint8))
    landmarks = (np.array(LANDMARKS) + 0.5) * scale - 0.5
    crop = FaceImageProcessor().align(jpeg(large, subsampling=0) if encoded else large, landmarks)
    smooth = large.filter(ImageFilter.BoxBlur(scale / 2 - 0.5)).resize((250, 230), Image.Resampling.BOX)
    expected = FaceImageProcessor().align(smooth, LANDMARKS)
    assert np.abs(crop.astype(int) - expected).mean() < 2.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("landmarks", [True, False])
def test_exif_orientation_is_applied_before_anything_else(orientation, landmarks):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    # once a size that a reduced JPEG divides, once one that it does not
    for width, height in ((1200, 960), (1001, 907)):
        upright = photo().resize((width, height), Image.Resampling.BICUBIC)
        stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        points = np.array(LANDMARKS) * 4 if landmarks else None
        processor = FaceImageProcessor(size=[112, 96])
        expected = processor.align(upright, points).astype(int)
        for image in (jpeg(stored, exif=exif), Image.open(io.BytesIO(jpeg(stored, exif=exif)))):
            assert np.abs(processor.align(image, points) - expected).mean() < 1.5


def test_a_photo_handed_over_stays_as_it_was():
    image = Image.open(io.BytesIO(jpeg(photo(1200, 1000))))
    processor = FaceImageProcessor()
    first = processor.align(image, np.array(LANDMARKS) * 4)
    assert image.size == (1200, 1000)
    np.testing.assert_array_equal(processor.align(image, np.array(LANDMARKS) * 4), first)


def test_an_aligned_crop_passes_through_untouched():
    for size in ((112, 112), (112, 96), (64, 80)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        np.testing.assert_array_equal(FaceImageProcessor(size=list(size)).align(pixels), pixels)


def test_the_center_crop_keeps_the_middle_and_the_shape():
    canvas = Image.new("RGB", (300, 200), "black")
    ImageDraw.Draw(canvas).rectangle((100, 50, 199, 149), fill="white")  # 100 x 100 in the middle
    assert FaceImageProcessor(size=50, crop_fraction=0.5).align(canvas)[1:-1, 1:-1].min() > 220
    wider = FaceImageProcessor(size=50, crop_fraction=0.6).align(canvas)
    assert wider[25].max() == 255 and wider[:2].max() < 255 and wider[:, -2:].max() < 255
    np.testing.assert_array_equal(wider, wider[::-1, ::-1])


def test_colors_and_normalization():
    pixels = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    rgb = FaceImageProcessor().align(pixels)
    np.testing.assert_array_equal(FaceImageProcessor(color="bgr").align(pixels), rgb[:, :, ::-1])
    gray = FaceImageProcessor(color="gray", image_mean=0.4, image_std=0.2)
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(gray.align(pixels)[:, :, 0], pixels @ weights, atol=1)
    values = gray(Image.fromarray(pixels)).pixel_values
    assert values.shape == (1, 1, 112, 112) and values.dtype == torch.float32
    expected = (gray.align(pixels).transpose(2, 0, 1) / 255 - 0.4) / 0.2
    np.testing.assert_allclose(values[0].numpy(), expected, atol=1e-5)


def in_mode(mode):
    image = photo(112, 112)
    if mode.startswith("I"):
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "RGBA":
        image.putalpha(255)
        return image
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_other_pixel_formats_look_the_same(mode):
    expected = photo(112, 112).convert("L" if mode in ("L", "LA", "I;16") else "RGB").convert("RGB")
    crop = FaceImageProcessor().align(in_mode(mode)).astype(int)
    assert np.abs(crop - np.asarray(expected)).mean() < (20 if mode == "P" else 2)


def test_what_is_transparent_is_white():
    image = Image.new("RGBA", (112, 112), (0, 0, 0, 255))
    image.paste((200, 100, 50, 0), (0, 0, 56, 112))
    crop = FaceImageProcessor().align(image)
    assert (crop[:, :56] == 255).all() and (crop[:, 56:] == 0).all()


def test_all_ways_to_hand_over_a_photo_agree(tmp_path):
    image = photo()
    image.save(tmp_path / "a.png")
    pixels = np.asarray(image)
    ways = [
        image,
        pixels,
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ]
    ways += [(tmp_path / "a.png").read_bytes(), {"bytes": None, "path": str(tmp_path / "a.png")}]
    processor = FaceImageProcessor()
    batch = processor(ways, landmarks=[LANDMARKS] * len(ways)).pixel_values
    assert (batch == batch[:1]).all()
    torch.testing.assert_close(processor(image, landmarks=LANDMARKS).pixel_values, batch[:1], atol=0, rtol=0)
    mixed = processor([image, image], landmarks=[LANDMARKS, None]).pixel_values
    assert torch.equal(mixed[:1], batch[:1]) and torch.equal(mixed[1:], processor(image).pixel_values)


def test_broken_photos_are_named(tmp_path):
    (tmp_path / "half.jpg").write_bytes(jpeg(photo())[:3000])
    (tmp_path / "text.jpg").write_text("no picture")
    for name in ("half.jpg", "text.jpg", "absent.jpg"):
        with pytest.raises(ValueError, match=rf"image 1 of 2: .*{name}") as caught:
            FaceImageProcessor()([photo(), tmp_path / name])
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="half.jpg"):
        FaceImageProcessor().align(Image.open(tmp_path / "half.jpg"))


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        ([[1, 2]] * 5, "coincide"),
        ([[1, 2]] * 4, "five finite"),
        ([[1, float("nan")]] * 5, "five finite"),
        (np.array(LANDMARKS) / 250, "as fractions"),
        (np.array(LANDMARKS) * 10, "another scale"),
        (np.array(LANDMARKS) - 1000, "another scale"),
    ],
)
def test_unusable_landmarks_are_refused(landmarks, message):
    with pytest.raises(ValueError, match=message):
        FaceImageProcessor().align(photo(), landmarks)


@pytest.mark.parametrize(
    "arguments",
    [
        {"colour": "rgb"},
        {"color": "hsv"},
        {"crop_fraction": 0},
        {"image_std": 0},
        {"image_std": float("nan")},
        {"image_std": 1e-300},
        {"image_std": [0.5, float("inf"), 0.5]},
        {"image_mean": float("nan")},
        {"image_mean": "0.5"},
        {"image_mean": [1e6] * 3},
        {"image_std": [1e-6] * 3},
        {"image_std": 1e3},
        {"template": [[2147483648, 1], [2, 2], [3, 3], [4, 4], [5, 5]]},
        {"template": [[float("nan"), 1], [2, 2], [3, 3], [4, 4], [5, 5]]},
        {"template": [[1, 1]] * 5},
        {"template": [[55, 55], [58, 55], [56, 56], [55, 57], [58, 57]]},
        {"size": 10**9},
        {"image_mean": [0.5, 0.5]},
        {"template": [[1, 2]]},
        {"size": [112]},
    ],
)
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        FaceImageProcessor(**arguments)


def test_the_file_round_trip_is_exact_and_silent(tmp_path):
    processor = FaceImageProcessor(
        size=[112, 96], color="bgr", crop_fraction=0.7, image_mean=[0.1, 1 / 3, 0.5], image_std=128 / 255
    )
    processor.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = AutoImageProcessor.from_pretrained(tmp_path)
        other = AutoImageProcessor.from_pretrained(tmp_path, crop_fraction=1.0)
    assert type(loaded) is FaceImageProcessor and loaded.to_dict() == processor.to_dict()
    assert other.crop_fraction == 1.0
    torch.testing.assert_close(loaded(photo()).pixel_values, processor(photo()).pixel_values, atol=0, rtol=0)
