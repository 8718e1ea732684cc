"""Pictures of what an autoencoder makes of images."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from hfembed.images.evaluation.reconstruction import HeldOutReconstruction, reconstruct, takes_masks
from hfembed.images.pictures import to_pictures, write_grid
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor


def draw_reconstructions(
    protocol: HeldOutReconstruction,
    model: PreTrainedModel,
    processor: ConvAutoencoderImageProcessor,
    path: str | Path,
    count: int = 8,
) -> None:
    """Draw images of a protocol above their reconstructions, with the damaged ones in between where there are some."""
    chosen = torch.linspace(0, len(protocol.pixels) - 1, min(count, len(protocol.pixels))).round().long()
    targets = processor.normalize(protocol.pixels[chosen])
    damaged = processor.normalize(protocol.damaged[chosen])
    masks = None if protocol.masks is None or not takes_masks(model) else protocol.masks[chosen]
    again, _ = reconstruct(model, damaged, masks=masks)
    rows = {"photos": targets, "damaged": damaged, "reconstructed": again}
    if protocol.damaged is protocol.pixels:
        del rows["damaged"]
    draw_rows(rows, path)


def draw_rows(rows: dict[str, torch.Tensor], path: str | Path, scale: int = 2) -> None:
    """Draw rows of images above each other, label -> (N, 1 or 3, H, W) in [0, 1]."""
    write_grid([to_pictures(row) for row in rows.values()], path, scale, list(rows))
