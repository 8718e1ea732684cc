"""From the crops of one image processor to those of another, on tensors and with gradients."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import grid_sample

from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, similarity_transform

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's conversion to gray


class Recrop(nn.Module):
    """Prepare generated faces for a face embedder: align to its template and normalize as its processor does.

    Args:
        source: The `FaceImageProcessor` of the model that drew the faces, color "rgb" or "gray".
    """

    grid: torch.Tensor

    def __init__(self, source: FaceImageProcessor, target: FaceImageProcessor) -> None:
        super().__init__()
        self.processor = target
        size = source.size["height"], source.size["width"]
        self.register_buffer("grid", face_grid(np.asarray([source.template]), target, size))

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """Faces (batch, 1 or 3, height, width) in [0, 1] -> the embedder's `pixel_values`, black outside."""
        return sample_faces(faces, self.grid.expand(len(faces), -1, -1, -1), self.processor)


def face_grid(landmarks: np.ndarray, processor: FaceImageProcessor, crop_size: Sequence[int]) -> torch.Tensor:
    """Where the pixels of an aligned face lie in a crop, for `grid_sample` with `align_corners=False`.

    Args:
        landmarks: (B, 5, 2), [x, y] in the crop's pixels, pixel centers at whole numbers.
        processor: Has the aligned face's template and size.
        crop_size: Height and width of the crop.

    Returns:
        (B, height, width, 2) float32.
    """
    matrices = similarity_transform(landmarks, np.asarray(processor.template))
    inverse = np.linalg.inv(matrices[:, :, :2]).transpose(0, 2, 1)[:, None]
    y, x = np.mgrid[: processor.size["height"], : processor.size["width"]]
    places = (np.stack([x, y], axis=-1) - matrices[:, None, None, :, 2]) @ inverse
    return torch.from_numpy((2 * places + 1) / np.array([crop_size[1], crop_size[0]]) - 1).float()


def sample_faces(images: torch.Tensor, grid: torch.Tensor, processor: FaceImageProcessor) -> torch.Tensor:
    """Images (B, 1 or 3, H, W) in [0, 1] -> `pixel_values` (B, C, height, width) of faces, black outside."""
    faces = grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return to_pixel_values(faces, processor)


def to_pixel_values(faces: torch.Tensor, processor: FaceImageProcessor) -> torch.Tensor:
    """Faces (B, 1 or 3, H, W) in [0, 1] -> a processor's `pixel_values` (B, C, H, W), differentiable."""
    if processor.num_channels == 1 and faces.shape[1] == 3:
        faces = (faces * faces.new_tensor(_LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)
    faces = faces.expand(-1, processor.num_channels, -1, -1)
    if processor.color == "bgr":
        faces = faces.flip(1)
    return processor.normalize(faces * 255)
