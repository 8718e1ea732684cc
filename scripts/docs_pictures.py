"""Pictures as docs/ has them: at most 1,200 pixels wide and high."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hfembed.images.pictures import write_grid


def shrink(picture: Path, output: Path, quality: int = 85) -> None:
    """Write a picture as a JPEG of at most 1,200 pixels to each side."""
    shrunk = Image.open(picture).convert("RGB")
    shrunk.thumbnail((1200, 1200))
    shrunk.save(output, quality=quality)


def write_docs_grid(
    rows: Sequence[np.ndarray],
    output: Path,
    scale: int,
    labels: Sequence[str],
    captions: Sequence[str] = (),
    quality: int = 85,
) -> None:
    """As `write_grid`; a .png keeps its size, a .jpg is shrunk."""
    page = output.with_suffix(".png")
    write_grid(rows, page, scale, labels, captions)
    if output.suffix != ".png":
        shrink(page, output, quality)
        page.unlink()
    print(output)
