"""The oval of a face on a template of five points."""

from collections.abc import Sequence

import numpy as np

# half axes of the oval, in distances between the eyes
_HALF_WIDTH, _HALF_HEIGHT = 1.15, 1.35


def face_oval(template: Sequence[Sequence[float]], height: int, width: int, softness: float = 0.15) -> np.ndarray:
    """A soft ellipse from forehead to chin and from cheek to cheek, which also ends softly at the picture's border.

    Args:
        template: Left eye, right eye, nose, left and right mouth corner, [x, y] in pixels.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.

    Returns:
        float32 (height, width) in [0, 1]: 1 inside, 0 outside and in the border's pixels.
    """
    points = np.asarray(template, dtype=np.float64)
    middle = (points[:2].mean(axis=0) + points[3:].mean(axis=0)) / 2
    across = points[1] - points[0]
    eye_distance = np.hypot(*across)
    across = across / eye_distance
    rows, columns = np.mgrid[:height, :width]
    x, y = columns - middle[0], rows - middle[1]
    right = (x * across[0] + y * across[1]) / (_HALF_WIDTH * eye_distance)
    down = (y * across[0] - x * across[1]) / (_HALF_HEIGHT * eye_distance)
    to_border = np.minimum(np.minimum(columns, width - 1 - columns), np.minimum(rows, height - 1 - rows))
    inside = np.minimum(1 - np.hypot(right, down), to_border / (_HALF_WIDTH * eye_distance))
    return np.clip(inside / softness, 0, 1).astype(np.float32)
