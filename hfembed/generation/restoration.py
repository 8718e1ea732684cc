"""Photos of any size through a denoiser: without noise, without holes."""

import torch
from transformers import PreTrainedModel

from hfembed.errors import InputError
from hfembed.generation.tiling import apply_in_tiles


@torch.no_grad()
def denoise(model: PreTrainedModel, photo: torch.Tensor, overlap: int | None = None) -> torch.Tensor:
    """Remove what the model has learned to remove.

    Tiles of the size the model was trained at go through it one by one, overlapping. A grey model takes the colours of
    a photo one at a time; a colour model takes a grey photo as three equal colours. The mean over the photo and its
    mirror image is a little better than either (Lim et al., "Enhanced Deep Residual Networks for Single Image
    Super-Resolution", 2017, section 3.4).

    Args:
        model: A denoising autoencoder, in eval mode.
        photo: (1 or 3, H, W) float in [0, 1].
        overlap: Pixels that neighbouring tiles share; a quarter of a tile by default.

    Returns:
        The same shape, float32 in [0, 1].

    Raises:
        InputError: The overlap is more than half a tile.
    """
    height, width = model.config.image_size
    overlap = min(height, width) // 4 if overlap is None else overlap

    def network(tiles: torch.Tensor) -> torch.Tensor:
        count, channels = tiles.shape[:2]
        if model.config.num_channels == 1:
            planes = tiles.reshape(count * channels, 1, height, width)
        else:
            planes = tiles.expand(-1, 3, -1, -1)
        planes = planes.to(model.device)
        restored = (model(planes).reconstruction + model(planes.flip(3)).reconstruction.flip(3)).float().cpu() / 2
        if restored.shape[1] > channels:
            restored = restored.mean(1, keepdim=True)
        return restored.reshape(tiles.shape)

    try:
        return apply_in_tiles(network, photo.float(), (height, width), overlap).clamp(0, 1)
    except ValueError as error:
        raise InputError(str(error)) from error


def inpaint(
    model: PreTrainedModel, photo: torch.Tensor, mask: torch.Tensor, level: float = 0.5, overlap: int | None = None
) -> torch.Tensor:
    """Fill a hole; all pixels outside of it stay as they are.

    Args:
        model: An autoencoder trained to fill holes of the grey `level`, in eval mode.
        photo: (1 or 3, H, W) float in [0, 1].
        mask: (H, W) bool, true where the photo is to be filled.
        level: What the model was trained to see in a hole (`hole_level` of its corruption).
        overlap: See `denoise`.

    Returns:
        The same shape, float32 in [0, 1].

    Raises:
        InputError: Mask and photo differ in size, or nothing or everything is masked.
    """
    if mask.shape != photo.shape[1:]:
        raise InputError(
            f"the mask is {mask.shape[0]} x {mask.shape[1]}, the photo {photo.shape[1]} x {photo.shape[2]} pixels"
        )
    if not mask.any() or mask.all():
        raise InputError("the mask covers nothing, or everything: white is what is to be filled in")
    masked = torch.where(mask, torch.full_like(photo, level), photo)
    return torch.where(mask, denoise(model, masked, overlap), photo)
