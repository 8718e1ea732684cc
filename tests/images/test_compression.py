import zlib

import numpy as np
import pytest
import torch

from hfembed.errors import InputError
from hfembed.images.compression import _HEADER, HEADER_BYTES, LatentCodec
from hfembed.images.latent_statistics import LatentStatistics, encode_images
from tests.images.tiny_autoencoder import smooth_images, tiny_autoencoder

pytest.importorskip("constriction")


@pytest.fixture(scope="module")
def codec():
    return make_codec(0)


def make_codec(seed):
    model = tiny_autoencoder(seed)
    return LatentCodec(model, LatentStatistics.fit(model, encode_images(model, smooth_images(300)), 1))


def test_rounding_changes_pixels_by_what_the_quality_says(codec):
    images = smooth_images(20, seed=5)
    for quality in (6, 12, 20):
        decoded = torch.stack([codec.decompress(codec.compress(image, quality)) for image in images])
        clean = codec.model.decode(codec.model.encode(images)).clamp(0, 1)
        # D numbers, each off by up to half a step that moves a pixel by 2 ** (-quality / 2)
        expected = 2 ** (-quality / 2) / 12**0.5 * codec.statistics.mean.size**0.5
        assert (decoded - clean).square().mean().sqrt() < 1.5 * expected


def test_files_are_as_small_as_the_entropy_of_their_symbols(codec):
    quality, statistics = 12, codec.statistics
    latents = encode_images(codec.model, smooth_images(200, seed=6)).flatten(1).double().numpy()
    steps = 2.0 ** (-quality / 2) / statistics.sensitivity
    symbols = np.rint((latents - statistics.mean) / steps)
    ideal = np.maximum(np.log2(statistics.std / steps * (2 * np.pi * np.e) ** 0.5), 0).sum() / 8
    sizes = [len(codec.compress(image, quality)) - HEADER_BYTES for image in smooth_images(200, seed=6)]
    assert ideal * 0.85 < np.mean(sizes) < ideal * 1.15 + 4
    assert np.mean(sizes) < np.abs(symbols).max() * symbols.shape[1], "and far smaller than plain numbers"


def test_bytes_are_the_same_every_time_and_grow_with_quality(codec):
    image = smooth_images(1)[0]
    sizes = [len(codec.compress(image, quality)) for quality in (0, 8, 16, 24)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert codec.compress(image, 8) == make_codec(0).compress(image, 8)


def test_latents_far_outside_are_clipped_not_lost(codec):
    image = smooth_images(1)[0]
    inverted = codec.decompress(codec.compress(50 * image, 10))
    assert inverted.isfinite().all() and 0 <= inverted.min() and inverted.max() <= 1


def forged(codec, content, quality=None, size=None, payload=None):
    """Another header or payload under a checksum that fits."""
    magic, version, model, old_quality, height, width = _HEADER.unpack(content[: _HEADER.size])
    height, width = size or (height, width)
    quality = old_quality if quality is None else quality
    header = _HEADER.pack(magic, version, model, quality, height, width)
    payload = content[HEADER_BYTES:] if payload is None else payload
    return header + zlib.crc32(header + payload).to_bytes(4, "little") + payload


def test_forged_files_are_damaged_or_decode_to_an_image(codec, tmp_path):
    content = codec.compress(smooth_images(1)[0])
    payload = content[HEADER_BYTES:]
    for wrong, words in (
        (forged(codec, content, quality=200), "quality"),
        (forged(codec, content, size=(60000, 60000)), "60000 x 60000"),
        (forged(codec, content, payload=payload + b"x"), "damaged"),
        (forged(codec, content, payload=payload + bytes(4 * 1000)), "damaged"),
        (forged(codec, content, payload=payload + bytes(4)), "damaged"),
    ):
        with pytest.raises(InputError, match=words):
            codec.decompress(wrong)
    generator = np.random.default_rng(0)
    for _ in range(200):
        mutated = forged(codec, content, int(generator.integers(0, 41)), payload=generator.bytes(len(payload)))
        try:
            assert codec.decompress(mutated).isfinite().all()
        except InputError as error:
            assert "\n" not in str(error)
    (tmp_path / "huge.face").write_bytes(content + bytes(10_000))
    with pytest.raises(InputError, match=r"huge\.face: larger than"):
        codec.read_file(tmp_path / "huge.face")
    (tmp_path / "good.face").write_bytes(content)
    assert torch.equal(codec.read_file(tmp_path / "good.face"), codec.decompress(content))


def test_what_is_wrong_with_a_file_is_said(codec):
    content = codec.compress(smooth_images(1)[0])
    with pytest.raises(InputError, match="another model"):
        make_codec(1).decompress(content)
    for damaged in (content[:-1], content[:-4], content[:HEADER_BYTES], content + b"\0" * 4,
                    content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]):  # fmt: skip
        with pytest.raises(InputError, match="damaged or cut short"):
            codec.decompress(damaged)
    for other in (b"", content[:10], b"\x89PNG" + content[4:]):
        with pytest.raises(InputError, match="not a file of"):
            codec.decompress(other)
    with pytest.raises(InputError, match="version 9"):
        codec.decompress(content[:4] + b"\x09" + content[5:])


def test_impossible_requests_are_refused(codec):
    with pytest.raises(InputError, match="quality"):
        codec.compress(smooth_images(1)[0], 50)
    with pytest.raises(InputError, match="resize"):
        codec.compress(smooth_images(1, size=32)[0])


def test_a_quantized_model_comes_back_to_the_bit():
    model = tiny_autoencoder(1, quantizer="fsq", quantizer_levels=[5, 8])
    images = smooth_images(300)
    codec = LatentCodec(model, LatentStatistics.fit(model, encode_images(model, images), 1))
    latents = encode_images(model, images[:20])
    for image, latent in zip(images[:20], latents, strict=True):
        content = codec.compress(image)
        assert torch.equal(codec.decompress_latent(content), latent)
        # two numbers of 5 and 8 levels at each of 4 x 4 places
        assert len(content) - HEADER_BYTES <= 16 * (np.log2(5) + np.log2(8)) / 8 + 8
    with pytest.raises(InputError, match="levels of their own: leave the quality out"):
        codec.compress(images[0], 12)
    with pytest.raises(InputError, match="it has a quality"):
        codec.decompress(forged(codec, content, quality=3))


def test_levels_that_were_never_seen_can_be_coded():
    model = tiny_autoencoder(1, quantizer="fsq", quantizer_levels=[3])
    statistics = LatentStatistics.fit(model, encode_images(model, smooth_images(50)), 1)
    statistics.std[:], statistics.mean[:] = 0, 0
    codec = LatentCodec(model, statistics)
    extreme = torch.ones(tuple(statistics.shape.tolist()))
    assert torch.equal(codec.decompress_latent(codec.compress_latent(extreme, 16, 16)), extreme)
