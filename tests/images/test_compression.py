import zlib

import numpy as np
import pytest
import torch

from hfembed.checkpoint.loading import load_autoencoder
from hfembed.errors import InputError
from hfembed.images.compression import _HEADER, HEADER_BYTES, LatentCodec, fit_entropy_model
from hfembed.images.latent_statistics import LatentStatistics, encode_images
from tests.images.tiny_autoencoder import save_tiny_autoencoder, smooth_images, tiny_autoencoder

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
    sizes = [len(codec.compress(image, quality)) for quality in (2, 8, 16, 24)]
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


def test_indices_of_a_codebook_come_back_to_the_bit():
    model, images = tiny_autoencoder(1, quantizer="vq", codebook_size=40), smooth_images(300)
    codec = LatentCodec(model, LatentStatistics.fit(model, encode_images(model, images), 1))
    for image, latent in zip(images[:20], encode_images(model, images[:20]), strict=True):
        content = codec.compress(image)
        assert torch.equal(codec.decompress_latent(content), latent)
        assert len(content) - HEADER_BYTES <= 16 * np.log2(40) / 8 + 8
    torch.testing.assert_close(codec.decompress(content), model.decode(latent[None])[0].detach().clamp(0, 1))
    with pytest.raises(InputError, match="a codebook of their own: leave the quality out"):
        codec.compress(images[0], 12)
    for wrong, words in (
        (forged(codec, content, quality=3), "it has a quality"),
        (forged(codec, content, payload=bytes(400)), "400 bytes of symbols"),
        (forged(codec, content, payload=content[HEADER_BYTES:] + bytes(4)), "not those of"),
    ):
        with pytest.raises(InputError, match=words):
            codec.decompress(wrong)
    with pytest.raises(InputError, match="leave its steps out"):
        fit_entropy_model(model, codec.statistics, encode_images(model, images), 1)
    assert fit_entropy_model(model, codec.statistics, encode_images(model, images), 0) is None


@pytest.mark.parametrize("codebook_size", [2, 65_536])
def test_codebooks_of_any_size_can_be_coded(codebook_size):
    model = tiny_autoencoder(1, quantizer="vq", codebook_size=codebook_size)
    latents = model.vector_quantizer.vectors(torch.randint(codebook_size, (5, 4, 4))).detach()
    codec = LatentCodec(model, LatentStatistics.fit(model, latents, 1))
    for latent in latents:
        content = codec.compress_latent(latent, 16, 16)
        assert len(content) <= codec.max_bytes and torch.equal(codec.decompress_latent(content), latent)


def test_levels_that_were_never_seen_can_be_coded():
    model = tiny_autoencoder(1, quantizer="fsq", quantizer_levels=[3])
    statistics = LatentStatistics.fit(model, encode_images(model, smooth_images(50)), 1)
    statistics.std[:], statistics.mean[:] = 0, 0
    codec = LatentCodec(model, statistics)
    extreme = torch.ones(tuple(statistics.shape.tolist()))
    assert torch.equal(codec.decompress_latent(codec.compress_latent(extreme, 16, 16)), extreme)


def staged_codec(seed=0, num_steps=60, **options):
    model = tiny_autoencoder(seed, **options)
    latents = encode_images(model, smooth_images(300))
    statistics = LatentStatistics.fit(model, latents, 1)
    return LatentCodec(model, statistics, fit_entropy_model(model, statistics, latents, num_steps))


FAMILIES = {
    "none": {},
    "rounding": {"quantizer": "rounding", "qualities": [8, 16]},
    "fsq": {"quantizer": "fsq", "quantizer_levels": [5, 8]},
}


@pytest.fixture(scope="module", params=FAMILIES)
def staged(request):
    return staged_codec(1, **FAMILIES[request.param])


def qualities_of(codec):
    return (None,) if codec.levels else (6, 12, 18)


def test_stages_decode_to_exactly_what_was_rounded(staged):
    latents = encode_images(staged.model, smooth_images(20, seed=3))
    for quality in qualities_of(staged):
        for latent in latents:
            content = staged.compress_latent(latent, 16, 16, quality)
            decoded = staged.decompress_latent(content)
            *_, (*_, rounded) = staged._stages(latent.double(), quality or 0)
            assert torch.equal(decoded, rounded.float())
            if staged.levels:
                assert torch.equal(decoded, latent)
            else:
                steps = torch.from_numpy(staged.steps(quality)).view(latent.shape)
                assert ((decoded - latent).abs() <= steps / 2 * 1.001).all()


def test_files_are_what_the_entropy_model_says(staged):
    """A byte per file is what ends a stream; header left out."""
    latents = encode_images(staged.model, smooth_images(100, seed=4))
    for quality in (None,) if staged.levels else (16, 18):
        sizes = [len(staged.compress_latent(latent, 16, 16, quality)) - staged.header_bytes for latent in latents]
        ideal = np.mean([staged.ideal_bytes(latent, quality) for latent in latents])
        assert ideal * 0.99 < np.mean(sizes) < ideal * 1.01 + 1


def test_the_same_file_whatever_the_threads(staged):
    latent = encode_images(staged.model, smooth_images(1, seed=5))[0]
    threads, contents = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            contents.append(staged.compress_latent(latent, 16, 16, qualities_of(staged)[-1]))
            torch.set_num_threads(3 - count)
            assert torch.equal(staged.decompress_latent(contents[-1]), staged.decompress_latent(contents[0]))
    finally:
        torch.set_num_threads(threads)
    assert contents[0] == contents[1]


def test_stages_take_fewer_bytes_for_the_same_error(codec):
    images = smooth_images(100, seed=6)
    model, statistics = codec.model, codec.statistics
    entropy_model = fit_entropy_model(model, statistics, encode_images(model, smooth_images(300)), 80)
    learned = LatentCodec(model, statistics, entropy_model)
    for quality in (12, 16):
        before, after = ([one.compress(image, quality) for image in images] for one in (codec, learned))
        errors = [
            torch.stack([one.decompress(file) for file in files]).sub(images).square().mean()
            for one, files in ((codec, before), (learned, after))
        ]
        assert errors[1] < 1.05 * errors[0]
        assert sum(map(len, after)) - 12 * 100 < 0.95 * (sum(map(len, before)) - 22 * 100)


def test_files_of_version_1_are_decoded_with_an_entropy_model_too(codec):
    content = codec.compress(smooth_images(1)[0])
    assert content[4] == 1
    entropy_model = fit_entropy_model(codec.model, codec.statistics, encode_images(codec.model, smooth_images(50)), 2)
    newer = LatentCodec(codec.model, codec.statistics, entropy_model)
    assert torch.equal(newer.decompress(content), codec.decompress(content))
    assert newer.compress(smooth_images(1)[0])[4] == 2
    with pytest.raises(InputError, match="needs the model's entropy model: run hfembed fit-latents"):
        codec.decompress(newer.compress(smooth_images(1)[0]))


def forged_stages(codec, content, quality=None, payload=None):
    """Another quality or payload under a checksum that fits."""
    header, payload = bytearray(content[:8]), content[12:] if payload is None else payload
    header[5] = header[5] if quality is None else quality
    return bytes(header) + codec._checksum(bytes(header), payload) + payload


def test_damaged_stages_are_refused_or_an_image(staged):
    image = smooth_images(1, seed=7)[0]
    content = staged.compress(image)
    assert staged.decompress(forged_stages(staged, content)).isfinite().all()
    for damaged in (content[:-1], content + b"\0", content[:12], content[:-1] + bytes([content[-1] ^ 1])):
        with pytest.raises(InputError, match="damaged or cut short"):
            staged.decompress(damaged)
    with pytest.raises(InputError, match="not a file of"):
        staged.decompress(content[:11])
    with pytest.raises(InputError, match="another model"):
        staged_codec(2, num_steps=1, **FAMILIES["fsq" if staged.levels else "none"]).decompress(content)
    for wrong, words in (
        (forged_stages(staged, content, quality=200), "quality"),
        (forged_stages(staged, content, payload=content[12:] + b"\0"), "damaged"),
        (forged_stages(staged, content, payload=content[12:] + bytes(10_000)), "10[0-9]{3} bytes of symbols"),
    ):
        with pytest.raises(InputError, match=words):
            staged.decompress(wrong)
    generator = np.random.default_rng(0)
    for length in generator.integers(0, 40, 60):
        quality = 0 if staged.levels else int(generator.integers(0, 41))
        mutated = forged_stages(staged, content, quality, generator.bytes(int(length)))
        try:
            assert staged.decompress(mutated).isfinite().all()
        except InputError as error:
            assert "\n" not in str(error)


def test_numbers_far_outside_are_clipped_in_stages(staged):
    extreme = torch.full(tuple(staged.statistics.shape.tolist()), 1e6)
    if staged.levels:
        extreme = extreme.clamp(max=1)
    assert staged.decompress(staged.compress_latent(extreme, 16, 16)).isfinite().all()


def test_a_model_that_rounds_is_the_same_after_loading(tmp_path):
    model = save_tiny_autoencoder(tmp_path, quantizer="rounding", qualities=[8, 16])
    loaded, _ = load_autoencoder(str(tmp_path), "cpu")
    latents = encode_images(model, smooth_images(50))
    statistics = LatentStatistics.fit(model, latents, 1)
    before, after = (
        LatentCodec(one, statistics, fit_entropy_model(one, statistics, latents, 0)) for one in (model, loaded)
    )
    for latent in latents[:5]:
        content = before.compress_latent(latent, 16, 16)
        assert after.compress_latent(latent, 16, 16) == content
        assert torch.equal(after.decompress_latent(content), before.decompress_latent(content))
    outputs = []
    for one in (model, loaded):
        torch.manual_seed(0)
        outputs.append(one.train()(smooth_images(4)))
    assert torch.equal(outputs[0].rate, outputs[1].rate) and torch.equal(outputs[0].latents, outputs[1].latents)


def test_a_model_that_rounds_brings_its_entropy_model():
    model = tiny_autoencoder(1, quantizer="rounding", qualities=[8, 16])
    latents = encode_images(model, smooth_images(50))
    statistics = LatentStatistics.fit(model, latents, 1)
    own = fit_entropy_model(model, statistics, latents, 0)
    codec = LatentCodec(model, statistics, own)
    assert codec.default_quality == 12 and list(codec.qualities) == list(range(6, 19))
    with pytest.raises(InputError, match="between 6 and 18 for this model, not 40"):
        codec.compress_latent(latents[0], 16, 16, 40)
    assert np.unique(codec.steps(12)) == pytest.approx(2.0**-6 * 16)
    assert fit_entropy_model(tiny_autoencoder(), statistics, latents, 0) is None
