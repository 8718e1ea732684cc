import pytest
import torch

from hfembed.images.tiling import apply_in_tiles


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
