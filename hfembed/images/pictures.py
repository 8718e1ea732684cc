"""Write network output as pictures, grids of pictures, and animations (GIF, MP4)."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from hfembed.atomic import atomic_write
from hfembed.errors import InputError

ANIMATION_SUFFIXES = (".gif", ".mp4")
_GAP = 2
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def to_pictures(images: torch.Tensor) -> np.ndarray:
    """Images (B, 1 or 3, H, W) in [0, 1], clipped, -> (B, H, W, 3) uint8."""
    pixels = images.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def picture_grid(rows: Sequence[np.ndarray], gap: int = _GAP) -> np.ndarray:
    """Rows of pictures (columns, H, W, 3) uint8 -> one picture, with `gap` white pixels between."""
    height, width = rows[0].shape[1:3]
    columns = max(len(row) for row in rows)
    grid = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            grid[top : top + height, left : left + width] = picture
    return grid


def write_grid(
    rows: Sequence[np.ndarray],
    path: str | Path,
    scale: int = 1,
    labels: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> None:
    """Write rows of pictures (columns, H, W, 3) uint8, with labels left of the rows and captions below the columns."""
    grid = _enlarged(picture_grid(rows), scale)
    font = ImageFont.load_default(12)
    left = max((ceil(font.getlength(label)) + 8 for label in labels), default=0)
    page = Image.new("RGB", (left + grid.shape[1], grid.shape[0] + (18 if captions else 0)), "white")
    page.paste(Image.fromarray(grid), (left, 0))
    draw = ImageDraw.Draw(page)
    height, width = ((side + _GAP) * scale for side in rows[0].shape[1:3])
    for number, label in enumerate(labels):
        draw.text((left - 4, (number + 0.5) * height), label, "black", font, anchor="rm")
    for number, caption in enumerate(captions):
        draw.text((left + (number + 0.5) * width, page.height - 2), caption, "black", font, anchor="mb")
    write_picture(np.asarray(page), path)


def write_picture(picture: np.ndarray, path: str | Path, scale: int = 1) -> None:
    """Write a picture (H, W, 3) or (H, W) uint8, enlarged by an integer factor; the suffix chooses the format.

    Raises:
        InputError: The suffix is none of `PICTURE_SUFFIXES`.
    """
    if Path(path).suffix.lower() not in PICTURE_SUFFIXES:
        raise InputError(f"{path}: a picture's name ends in {', '.join(PICTURE_SUFFIXES)}")
    with atomic_write(path) as temporary:
        Image.fromarray(_enlarged(picture, scale)).save(temporary)


def write_animation(
    pictures: np.ndarray, path: str | Path, frames_per_second: int = 15, scale: int = 1, there_and_back: bool = True
) -> None:
    """Write pictures (frames, H, W, 3) uint8 as .gif, which plays without end, or .mp4 (H.264, the extra "film").

    Raises:
        InputError: The suffix is another, or PyAV is not installed.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in ANIMATION_SUFFIXES:
        raise InputError(f"{path}: an animation's name ends in {' or '.join(ANIMATION_SUFFIXES)}")
    frames = [_enlarged(picture, scale) for picture in pictures]
    if there_and_back:
        frames += frames[-2:0:-1]
    with atomic_write(path) as temporary:
        if suffix == ".gif":
            first, *rest = [Image.fromarray(frame) for frame in frames]
            duration = round(1000 / frames_per_second)
            first.save(temporary, save_all=True, append_images=rest, duration=duration, loop=0)
        else:
            _write_mp4(frames, temporary, frames_per_second)


def _write_mp4(frames: list[np.ndarray], path: Path, frames_per_second: int) -> None:
    try:
        import av
    except ImportError:
        raise InputError('MP4 needs PyAV: pip install "hfembed[film]", or choose a .gif') from None
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=frames_per_second, options={"crf": "18"})
        # H.264 halves the resolution of colors: sides must be even
        height, width = (side + side % 2 for side in frames[0].shape[:2])
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            padding = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.pad(frame, padding, mode="edge"), format="rgb24")))
        video.mux(stream.encode())


def _enlarged(picture: np.ndarray, scale: int) -> np.ndarray:
    return picture.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else picture
