"""Photos of any size through a denoiser: without noise, without holes."""

from collections.abc import Callable

import torch

from hfembed.checkpoint.loading import RESTORATION_AUTOENCODER
from hfembed.errors import InputError
from hfembed.images.tiling import apply_in_tiles
from hfembed.models.autoencoder_base import AutoencoderModelBase


@torch.no_grad()
def denoise(model: AutoencoderModelBase, photo: torch.Tensor, overlap: int | None = None) -> torch.Tensor:
    """Remove noise from a photo (1 or 3, H, W) in [0, 1] of any size; float32 of the same shape, in [0, 1].

    It goes through the model in overlapping tiles of its training size. A gray model restores each color channel by
    itself; a color model takes a gray photo as three equal channels. The mean over the photo and its mirror image is a
    little better than either (Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", 2017,
    section 3.4).

    Args:
        overlap: Pixels that adjacent tiles share; a quarter of a tile by default.

    Raises:
        InputError: The model is no denoiser, gives numbers that are not finite, or the overlap is more than half a
            tile.
    """
    if model.config.model_type != RESTORATION_AUTOENCODER or model.config.inpainting:
        raise InputError("this autoencoder does not remove noise: train one for it (recipes/denoise.yaml)")
    return _in_tiles(model, lambda tiles: _with_mirror(model, tiles), photo.float(), overlap).clamp(0, 1)


@torch.no_grad()
def inpaint(
    model: AutoencoderModelBase, photo: torch.Tensor, mask: torch.Tensor, overlap: int | None = None
) -> torch.Tensor:
    """Fill holes, where `mask` (H, W) bool is true; all other pixels are unchanged. Otherwise like `denoise`.

    Raises:
        InputError: The model does not fill holes; mask and photo differ in size, or nothing or everything is masked;
            numbers are not finite, or the overlap is more than half a tile.
    """
    if not getattr(model.config, "inpainting", False):
        raise InputError("this autoencoder does not fill holes: train one with inpainting (recipes/inpaint.yaml)")
    if mask.shape != photo.shape[1:]:
        raise InputError(
            f"the mask is {mask.shape[0]} x {mask.shape[1]}, the photo {photo.shape[1]} x {photo.shape[2]} pixels"
        )
    if not mask.any() or mask.all():
        raise InputError("the mask covers nothing, or everything: white is what is to be filled in")

    def network(tiles: torch.Tensor) -> torch.Tensor:
        # the mask travels as one more channel; where tiles were filled up by mirroring, it was mirrored too
        return torch.cat([_with_mirror(model, tiles[:, :-1], tiles[:, -1:] > 0.5), tiles[:, -1:]], dim=1)

    filled = _in_tiles(model, network, torch.cat([photo.float(), mask[None].float()]), overlap)[:-1].clamp(0, 1)
    return torch.where(mask, filled, photo)


def _in_tiles(
    model: AutoencoderModelBase,
    network: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    overlap: int | None,
) -> torch.Tensor:
    height, width = model.config.image_size
    overlap = min(height, width) // 4 if overlap is None else overlap
    try:
        restored = apply_in_tiles(network, image, (height, width), overlap)
    except ValueError as error:
        raise InputError(str(error)) from error
    if not restored.isfinite().all():
        raise InputError("the model gives images that are not finite: its weights are damaged, or the photo")
    return restored


def _with_mirror(model: AutoencoderModelBase, tiles: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
    """Restore tiles (B, 1 or 3, h, w) and their mirror images, gray or color; the mean of both."""
    count, channels, height, width = tiles.shape
    if model.config.num_channels == 1:
        planes = tiles.reshape(count * channels, 1, height, width)
        masks = masks if masks is None else masks.repeat_interleave(channels, dim=0)
    else:
        planes = tiles.expand(-1, 3, -1, -1)
    plain, mirrored = ({"pixel_values": planes.to(model.device)}, {"pixel_values": planes.flip(3).to(model.device)})
    if masks is not None:
        plain["mask"], mirrored["mask"] = masks.to(model.device), masks.flip(3).to(model.device)
    restored = (model(**plain).reconstruction + model(**mirrored).reconstruction.flip(3)).float().cpu() / 2
    if restored.shape[1] > channels:
        restored = restored.mean(1, keepdim=True)
    return restored.reshape(tiles.shape)
