"""Photos of any size through a restoration model: without noise and other damage, without holes."""

import torch

from hfembed.errors import InputError
from hfembed.images.tiling import apply_in_tiles
from hfembed.models.autoencoder_base import AutoencoderModelBase


def denoise(model: AutoencoderModelBase, photo: torch.Tensor, overlap: int | None = None) -> torch.Tensor:
    """Remove noise from a photo: `restore` without holes."""
    return restore(model, photo, overlap=overlap)


@torch.no_grad()
def restore(
    model: AutoencoderModelBase, photo: torch.Tensor, mask: torch.Tensor | None = None, overlap: int | None = None
) -> torch.Tensor:
    """Remove damage from a photo (1 or 3, H, W) in [0, 1] of any size; float32 of the same shape, in [0, 1].

    It goes through the model in overlapping tiles of its training size. A gray model restores each color channel by
    itself; a color model takes a gray photo as three equal channels. The mean over the photo and its mirror image is a
    little better than either (Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", 2017,
    section 3.4).

    Args:
        mask: (H, W) bool, true where the photo has holes, which are filled.
        overlap: Pixels that adjacent tiles share; a quarter of a tile by default.

    Raises:
        InputError: The model removes no damage, or fills no holes where there is a mask; mask and photo differ in
            size, or nothing or everything is masked; numbers are not finite, or the overlap is more than half a tile.
    """
    check_removes_damage(model)
    if mask is not None:
        check_mask(model, photo, mask)
    return _in_tiles(model, photo, mask, overlap)


@torch.no_grad()
def inpaint(
    model: AutoencoderModelBase, photo: torch.Tensor, mask: torch.Tensor, overlap: int | None = None
) -> torch.Tensor:
    """Fill holes, where `mask` (H, W) bool is true; all other pixels are unchanged. Otherwise like `denoise`.

    Raises:
        InputError: The model does not fill holes; mask and photo differ in size, or nothing or everything is masked;
            numbers are not finite, or the overlap is more than half a tile.
    """
    check_mask(model, photo, mask)
    return torch.where(mask, _in_tiles(model, photo, mask, overlap), photo)


def check_removes_damage(model: AutoencoderModelBase) -> None:
    """Refuse a model that restores no photos.

    Raises:
        InputError: It removes neither noise nor other damage.
    """
    if not getattr(model.config, "removes_damage", False):
        raise InputError(
            "this autoencoder does not restore photos: train one for it (recipes/denoise.yaml against noise, "
            "recipes/restore_112.yaml for faces)"
        )


def check_mask(model: AutoencoderModelBase, photo: torch.Tensor, mask: torch.Tensor) -> None:
    """Refuse a mask (H, W) bool that does not belong to a photo (C, H, W), or to a model.

    Raises:
        InputError: The model fills no holes; mask and photo differ in size, or nothing or everything is masked.
    """
    if not getattr(model.config, "inpainting", False):
        raise InputError("this autoencoder does not fill holes: train one with inpainting (recipes/inpaint.yaml)")
    if mask.shape != photo.shape[1:]:
        raise InputError(
            f"the mask is {mask.shape[0]} x {mask.shape[1]}, the photo {photo.shape[1]} x {photo.shape[2]} pixels"
        )
    if not mask.any() or mask.all():
        raise InputError("the mask covers nothing, or everything: white is what is to be filled in")


def _in_tiles(
    model: AutoencoderModelBase, photo: torch.Tensor, mask: torch.Tensor | None, overlap: int | None
) -> torch.Tensor:
    height, width = model.config.image_size
    overlap = min(height, width) // 4 if overlap is None else overlap

    def network(tiles: torch.Tensor) -> torch.Tensor:
        if mask is None:
            return _with_mirror(model, tiles)
        # the mask travels as one more channel; where tiles were filled up by mirroring, it was mirrored too
        return torch.cat([_with_mirror(model, tiles[:, :-1], tiles[:, -1:] > 0.5), tiles[:, -1:]], dim=1)

    image = photo.float() if mask is None else torch.cat([photo.float(), mask[None].float()])
    try:
        restored = apply_in_tiles(network, image, (height, width), overlap)[: len(photo)]
    except ValueError as error:
        raise InputError(str(error)) from error
    if not restored.isfinite().all():
        raise InputError("the model gives images that are not finite: its weights are damaged, or the photo")
    return restored.clamp(0, 1)


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
