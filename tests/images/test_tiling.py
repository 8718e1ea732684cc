import pytest
import torch

from hfembed.images.latent_statistics import decode_latents, encode_images
from hfembed.images.tiling import apply_in_tiles, decode_in_tiles, encode_in_tiles
from tests.images.tiny_autoencoder import smooth_images, tiny_autoencoder, tiny_restoration


@pytest.mark.parametrize("size", [(16, 16), (50, 37), (7, 90), (1, 3), (64, 8)])
@pytest.mark.parametrize("overlap", [0, 3, 8])
def test_a_network_that_changes_nothing_gives_the_photo_back(size, overlap):
    photo = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    seen = []

    def network(tiles):
        seen.append(tiles.shape)
        return tiles

    result = apply_in_tiles(network, photo, 16, overlap, batch_size=3)
    assert torch.allclose(result, photo, atol=1e-6)
    assert all(shape[1:] == (3, 16, 16) and shape[0] <= 3 for shape in seen)


def test_no_seams_where_tiles_disagree():
    """Every tile brings a level of its own; with overlap the picture changes in small steps."""
    levels = iter(range(100))

    def network(tiles):
        return torch.stack([torch.full_like(tile, float(next(levels) % 2)) for tile in tiles])

    result = apply_in_tiles(network, torch.zeros(1, 16, 80), 16, 8)
    assert result.diff(dim=2).abs().max() < 0.15 and result.max() > 0.8 and result.min() == 0


def test_a_local_filter_is_the_same_in_tiles():
    """Away from the tiles' borders a filter depends on its neighborhood only."""
    photo = torch.rand(1, 60, 60, generator=torch.Generator().manual_seed(0))

    def network(tiles):
        return torch.nn.functional.pad(torch.nn.functional.avg_pool2d(tiles, 3, 1), (1, 1, 1, 1), mode="replicate")

    whole = network(photo[None])[0]
    tiled = apply_in_tiles(network, photo, (24, 32), 12)
    assert (tiled - whole).abs().mean() < 0.05 * (whole - photo).abs().mean()


def test_an_impossible_overlap_is_named():
    with pytest.raises(ValueError, match="overlap"):
        apply_in_tiles(lambda tiles: tiles, torch.zeros(1, 20, 20), 16, 9)


@pytest.mark.parametrize("size", [(224, 420), (200, 44), (20, 20), (97, 96)])
def test_an_autoencoder_of_convolutions_is_the_same_in_tiles(size):
    """Its latents depend on less than 20 pixels around them, the outer third of the overlap."""
    model = tiny_autoencoder()
    images = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    if size[0] % model.config.stride:
        with pytest.raises(ValueError, match="multiples of 4"):
            encode_in_tiles(model, images)
        return
    with torch.no_grad():
        latents = model.encode(images)
        torch.testing.assert_close(encode_in_tiles(model, images, 192, 64), latents, rtol=0, atol=1e-4)
        torch.testing.assert_close(decode_in_tiles(model, latents, 192, 64), model.decode(latents), rtol=0, atol=1e-4)


def test_group_normalization_and_attention_are_close_in_tiles():
    model = tiny_autoencoder(architecture="autoencoder_kl", norm_groups=4)
    images = torch.rand(1, 1, 192, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model.encode(images)
        tiled = encode_in_tiles(model, images, 144, 48)
        assert 0 < (tiled - whole).abs().mean() < 0.1 * whole.std()
        decoded = model.decode(whole)
        assert (decode_in_tiles(model, whole, 144, 48) - decoded).abs().mean() < 0.2 * decoded.std()


def test_levels_stay_levels_in_tiles():
    model = tiny_autoencoder(quantizer="fsq", quantizer_levels=[5], architecture="autoencoder_kl", norm_groups=4)
    images = torch.rand(1, 1, 100, 140, generator=torch.Generator().manual_seed(0))
    assert set(encode_in_tiles(model, images, 48, 16).unique().tolist()) <= {-1.0, -0.5, 0.0, 0.5, 1.0}


def test_large_images_are_encoded_and_decoded_in_tiles():
    model = tiny_autoencoder()
    image = smooth_images(1, size=1100)
    sizes = []
    model.encoder.register_forward_hook(lambda module, inputs, output: sizes.append(max(inputs[0].shape)))
    latents = encode_images(model, image)
    assert max(sizes) <= 512
    decoded = decode_latents(model, latents)
    with torch.no_grad():
        torch.testing.assert_close(decoded, model.decode(model.encode(image)).clamp(0, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "options", "overlap", "words"),
    [
        (tiny_autoencoder, {"bottleneck": "dense"}, 4, "a vector"),
        (tiny_autoencoder, {}, 8, "overlap .* 5"),
        (tiny_restoration, {}, 4, "no latents"),
    ],
)
def test_what_has_no_tiles_is_refused(make, options, overlap, words):
    with pytest.raises(ValueError, match=words):
        encode_in_tiles(make(**options), smooth_images(1), 16, overlap)
