"""What the image processors of all families share: known settings, sizes, batches of photos."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor

PhotoSource = str | Path | bytes | dict | Image.Image | np.ndarray | torch.Tensor
Result = TypeVar("Result")

MAX_SIDE = 4096
# keys that transformers itself writes beside ours
_FOREIGN_KEYS = ("image_processor_type", "feature_extractor_type", "processor_class", "auto_map")


class ImageProcessorBase(BaseImageProcessor):
    """An image processor that knows its settings; `valid_kwargs` of a subclass lists them."""

    model_input_names = ["pixel_values"]

    def __init__(self, **others: Any) -> None:
        unknown = ", ".join(repr(key) for key in others if key not in _FOREIGN_KEYS)
        if unknown:
            known = ", ".join(self.valid_kwargs.__annotations__)
            raise ValueError(f"{type(self).__name__}: unknown key {unknown}; known: {known}")
        super().__init__()

    @property
    def backend(self) -> str:
        """The one backend, whatever else is installed: published numbers depend on the resampling."""
        return "pil"


def height_and_width(
    size: int | Sequence[int] | dict[str, int] | None, default: int, processor: ImageProcessorBase
) -> tuple[int, int]:
    """A size in any of its spellings -> height and width."""
    if size is None:
        size = default
    sides: Sequence[Any]
    if isinstance(size, int):
        sides = (size, size)
    elif isinstance(size, dict):
        sides = (size["height"], size["width"]) if set(size) == {"height", "width"} else ()
    else:
        sides = size
    if len(sides) != 2 or not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in sides):
        raise ValueError(
            f"{type(processor).__name__}: size is a number, [height, width] or "
            f'{{"height": ..., "width": ...}}, from 1 to {MAX_SIDE}; got {size!r}'
        )
    return sides[0], sides[1]


def as_batch(images: PhotoSource | Sequence[PhotoSource]) -> Sequence[PhotoSource]:
    """One image or several -> several; an array of four dimensions is a batch already."""
    is_array = isinstance(images, np.ndarray | torch.Tensor)
    is_single = isinstance(images, PhotoSource) and not (is_array and cast(np.ndarray, images).ndim == 4)
    return cast("Sequence[PhotoSource]", [images] if is_single else images)


def for_each(function: Callable[..., Result], *columns: Sequence[Any]) -> list[Result]:
    """Call a function for each image of a batch; a `ValueError` names the image's position."""
    results = []
    for index, row in enumerate(zip(*columns, strict=True)):
        try:
            results.append(function(*row))
        except ValueError as error:
            raise ValueError(f"image {index} of {len(columns[0])}: {error}") from error
    return results


__all__ = ["ImageProcessorBase", "PhotoSource", "as_batch", "for_each", "height_and_width"]
