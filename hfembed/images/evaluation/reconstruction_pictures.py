"""Pictures of what an autoencoder makes of images."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from hfembed.faces.data.spread_rows import spread_rows
from hfembed.images.evaluation.reconstruction import HeldOutReconstruction, psnr, reconstruct, takes_masks
from hfembed.images.pictures import to_pictures, write_grid
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor

_SIDE = 128  # smaller images are enlarged up to this height


def draw_reconstructions(
    protocol: HeldOutReconstruction,
    model: PreTrainedModel,
    processor: ConvAutoencoderImageProcessor,
    path: str | Path,
    count: int = 8,
) -> None:
    """Draw images of a protocol above their reconstructions, with the damaged ones in between where there are some."""
    chosen = torch.from_numpy(spread_rows(len(protocol.pixels), count))
    targets = processor.normalize(protocol.pixels[chosen])
    damaged = processor.normalize(protocol.damaged[chosen])
    masks = None if protocol.masks is None or not takes_masks(model) else protocol.masks[chosen]
    again, _ = reconstruct(model, damaged, masks=masks)
    rows = {"photo": targets, "damaged": damaged, "this model": again}
    if protocol.damaged is protocol.pixels:
        del rows["damaged"]
    draw_rows(rows, path)


def draw_rows(rows: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Draw labeled rows of images above each other, with how near they are to the first, the photos.

    Args:
        rows: Label -> (N, 1 or 3, H, W) in [0, 1], in the order photo, damaged, this model, baselines.
        path: Of the picture.
    """
    photos = next(iter(rows.values()))
    labels = [label if row is photos else f"{label}, {psnr(row, photos):.1f} dB" for label, row in rows.items()]
    write_grid([to_pictures(row) for row in rows.values()], path, max(1, _SIDE // photos.shape[2]), labels)
