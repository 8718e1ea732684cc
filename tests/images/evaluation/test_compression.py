import io
import json

import pytest
import torch
from PIL import Image

from hfembed.errors import InputError
from hfembed.images.compression import HEADER_BYTES, LatentCodec
from hfembed.images.evaluation.compression import RatePoint, at_bytes, latent_points, photo_points, report_rates
from hfembed.images.evaluation.photo_formats import photo_formats
from hfembed.images.latent_statistics import LatentStatistics, encode_images
from tests.images.tiny_autoencoder import smooth_images, tiny_autoencoder

pytest.importorskip("constriction")


@pytest.fixture(scope="module")
def codec():
    model = tiny_autoencoder()
    return LatentCodec(model, LatentStatistics.fit(model, encode_images(model, smooth_images(200)), 1))


def test_bytes_of_latents_are_those_of_their_files(codec):
    images = smooth_images(5, seed=3)
    (point,) = latent_points(codec, images, (10,))
    sizes = [len(codec.compress(image, 10)) for image in images]
    assert point.file_bytes == sum(sizes) / 5 and point.data_bytes == point.file_bytes - HEADER_BYTES


@pytest.mark.parametrize("options", [{"quantizer": "fsq", "quantizer_levels": [5, 8]}, {"quantizer": "vq"}])
def test_quantized_codes_have_one_size_and_no_quality(options):
    model = tiny_autoencoder(1, **options)
    codec = LatentCodec(model, LatentStatistics.fit(model, encode_images(model, smooth_images(100)), 1))
    (point,) = latent_points(codec, smooth_images(3))
    assert point.quality == 0
    with pytest.raises(InputError, match="leave the quality out"):
        latent_points(codec, smooth_images(3), (10,))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("method", [name for name, kind in photo_formats().items() if not kind.needs])
def test_photo_formats_get_better_with_bytes(method, channels):
    images = smooth_images(4, channels, size=32)
    points = photo_points(images, method, (5, 50, 90))
    for figure in ("file_bytes", "psnr"):
        values = [getattr(point, figure) for point in points]
        assert values == sorted(values) and values[0] < values[-1]
    assert all(0 < point.data_bytes < point.file_bytes and 0 < point.ssim <= 1 for point in points)
    assert points[-1].psnr > 33


def test_a_jpegs_tables_are_what_two_of_them_share():
    """Two flat gray pictures of different levels: next to nothing is left but the tables."""
    flat = torch.stack([torch.full((1, 32, 32), level) for level in (0.3, 0.7)])
    (point,) = photo_points(flat, "jpeg", (50,))
    file = io.BytesIO()
    Image.new("L", (32, 32), 76).save(file, "JPEG", quality=50, optimize=True)
    assert point.file_bytes == pytest.approx(file.tell(), abs=6) and point.data_bytes < 20


def test_figures_at_equal_bytes_lie_between_the_settings():
    points = [RatePoint("webp", quality, size, size - 20, size / 10, 0.5) for quality, size in ((1, 120), (5, 420))]
    halfway = at_bytes(points, 200)  # the geometric mean of 100 and 400 bytes of data
    assert halfway == pytest.approx({"psnr": (12 + 42) / 2, "ssim": 0.5})
    assert at_bytes(points, 100) == pytest.approx({"psnr": 12, "ssim": 0.5})
    assert at_bytes(points, 99) == {} == at_bytes(points, 401)
    assert at_bytes(points, 410) == {} != at_bytes(points, 410, "file_bytes")


def test_results_and_picture_are_written(codec, tmp_path):
    def judge(decoded):
        return 0.5, float(decoded.mean())

    points, text = report_rates(
        codec, smooth_images(3, seed=3), tmp_path, {"images": None}, {"held_out_share": 0.1}, (8, 10), judge
    )
    results = json.loads((tmp_path / "results.json").read_text())
    missing = {name for name, kind in photo_formats().items() if kind.needs}
    assert {point.method for point in points} == {"latents", *photo_formats()} - missing
    assert set(results["compression"]["left_out"]) == missing
    assert all(f"{name} was left out: it needs" in text for name in missing)
    for point in points:
        assert results[f"compression_{point.method}_q{point.quality}_psnr"] == point.psnr
        assert point.identity_kept == 0.5 and point.perceptual_distance is not None
    rates = results["compression"]["equal_bytes"]
    assert list(rates) == [f"{rate} bits per pixel" for rate in (0.05, 0.15, 0.3, 0.5)]
    assert Image.open(tmp_path / "rates.png").width > 500
