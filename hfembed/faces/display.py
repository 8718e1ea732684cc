"""How notebooks show faces and photos: as pictures."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hfembed.errors import InputError
from hfembed.photos import open_photo

_COLOR = (31, 95, 168)
_SIDE = 640


def png(pixels: np.ndarray | Image.Image) -> bytes:
    """Encode a picture."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels.squeeze())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def draw_faces(photo: str, faces: Sequence[tuple[np.ndarray, np.ndarray]]) -> bytes | None:
    """A photo with the box and landmarks of each face, at most 640 pixels a side; None if there is no such file."""
    if not Path(photo).is_file():
        return None
    try:
        image = open_photo(photo)
    except InputError:
        return None
    scale = min(1.0, _SIDE / max(image.size))
    image = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    draw = ImageDraw.Draw(image)
    for box, landmarks in faces:
        draw.rectangle([float(side) * scale for side in box], outline=_COLOR, width=3)
        for x, y in landmarks * scale:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(255, 210, 30))
    return png(image)
