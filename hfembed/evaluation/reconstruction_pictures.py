"""Pictures of what an autoencoder makes of images."""

from pathlib import Path

import torch
from transformers import BaseImageProcessor, PreTrainedModel

from hfembed.evaluation.reconstruction import HeldOutReconstruction, reconstruct
from hfembed.generation.films import picture_grid, to_pictures, write_picture


def draw_reconstructions(
    protocol: HeldOutReconstruction,
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    path: str | Path,
    count: int = 8,
) -> None:
    """Draw images above what the model makes of them; damaged ones in between where it has to undo damage.

    Args:
        protocol: Has the images; some of them, spread evenly, are drawn.
        model: A `ConvAutoencoderModel` in eval mode.
        processor: Its processor.
        path: The picture file.
        count: Images.

    Raises:
        OSError: The file cannot be written.
    """
    chosen = torch.linspace(0, len(protocol.pixels) - 1, min(count, len(protocol.pixels))).round().long()
    targets = processor.normalize(protocol.pixels[chosen])
    damaged = processor.normalize(protocol.damaged[chosen])
    again, _ = reconstruct(model, damaged)
    rows = [targets, again] if protocol.damaged is protocol.pixels else [targets, damaged, again]
    draw_rows(rows, path)


def draw_rows(rows: list[torch.Tensor], path: str | Path, scale: int = 2) -> None:
    """Draw rows of images above each other.

    Args:
        rows: Each (N, 1 or 3, H, W) in [0, 1].
        path: The picture file.
        scale: Repeat every pixel so many times.

    Raises:
        OSError: The file cannot be written.
    """
    write_picture(picture_grid([to_pictures(row) for row in rows]), path, scale)
