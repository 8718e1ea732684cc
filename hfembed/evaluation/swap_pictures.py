"""Pictures of faces drawn as other people."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hfembed.atomic import atomic_write
from hfembed.models.face_swap.modeling_face_swap import FaceSwapModel


@torch.no_grad()
def draw_swap_grid(
    model: FaceSwapModel, faces: Sequence[torch.Tensor], path: str | Path, magnify: int = 2, gap: int = 4
) -> None:
    """Draw a block of rows a person: their photos, then the same as everybody, person by person.

    Args:
        model: The model, in eval mode; its people are the order of the columns.
        faces: A tensor (count, channels, height, width) in [0, 1] for each of the model's people; equal counts.
        path: The picture file to write.
        magnify: Side of a pixel.
        gap: Pixels between the blocks.

    Raises:
        OSError: The file cannot be written.
    """
    rows = []
    for photos in faces:
        columns = [photos] + [model.swap(photos.to(model.device), person)[0].cpu() for person in model.config.people]
        blocks = [torch.cat(list(column.float()), dim=2) for column in columns]
        space = torch.ones(*blocks[0].shape[:2], gap)
        rows.append(torch.cat([part for block in blocks for part in (block, space)][:-1], dim=2))
        rows.append(torch.ones(rows[0].shape[0], gap, rows[0].shape[2]))
    pixels = (torch.cat(rows[:-1], dim=1).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
    with atomic_write(path) as temporary:
        picture.resize((magnify * picture.width, magnify * picture.height), Image.Resampling.NEAREST).save(temporary)
