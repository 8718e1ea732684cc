"""Tables of swapped faces: the people across, the photos down, each photo as each person."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from hfembed.atomic import atomic_write

_GAP = 4
_TEXT = 14


def draw_swap_table(
    sources: torch.Tensor, targets: torch.Tensor, swaps: torch.Tensor, path: str | Path, magnify: int = 1
) -> None:
    """Draw a labeled table.

    Args:
        sources: (S, C, H, W) in [0, 1], the photos; each heads a row.
        targets: (T, C, H, W) in [0, 1], a photo of each person; each heads a column.
        swaps: (S, T, C, H, W) in [0, 1].
        magnify: Every pixel becomes this many across and down.

    Raises:
        OSError: The file cannot be written.
    """
    side = sources.shape[-1] * magnify
    step = side + _GAP
    size = (_TEXT + step * (len(targets) + 1), _TEXT + step * (len(sources) + 1))
    table = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(table)
    font = ImageFont.load_default(size=_TEXT - 3)
    draw.text((_TEXT + step, 0), "target: whose face it becomes", fill="black", font=font)
    note = Image.new("RGB", (side, _TEXT), "white")
    ImageDraw.Draw(note).text((0, 0), "source: the photo", fill="black", font=font)
    table.paste(note.rotate(90, expand=True), (0, _TEXT + step))
    for column, face in enumerate(targets):
        table.paste(_picture(face, side), (_TEXT + step * (column + 1), _TEXT))
    for row, face in enumerate(sources):
        top = _TEXT + step * (row + 1)
        table.paste(_picture(face, side), (_TEXT, top))
        for column, swapped in enumerate(swaps[row]):
            table.paste(_picture(swapped, side), (_TEXT + step * (column + 1), top))
    with atomic_write(path) as temporary:
        table.save(temporary)


def _picture(face: torch.Tensor, side: int) -> Image.Image:
    pixels = (face.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
    return picture.resize((side, side), Image.Resampling.NEAREST)
