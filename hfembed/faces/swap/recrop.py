"""From the crops of one image processor to those of another, on tensors and with gradients."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import grid_sample

from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, similarity_transform

_LUMA = (0.299, 0.587, 0.114)


class Recrop(nn.Module):
    """Prepare generated faces for a face embedder: align to its template and normalize as its processor does.

    Args:
        source: The `FaceImageProcessor` of the model that drew the faces, color "rgb" or "gray".
    """

    grid: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    luma: torch.Tensor

    def __init__(self, source: FaceImageProcessor, target: FaceImageProcessor) -> None:
        super().__init__()
        self.color = target.color
        height, width = target.size["height"], target.size["width"]
        matrix = similarity_transform(np.asarray(target.template), np.asarray(source.template))
        rows, columns = np.mgrid[:height, :width]
        x, y = np.einsum("ij,jhw->ihw", matrix, np.stack([columns, rows, np.ones_like(rows)]))
        # pixel centers at whole numbers -> [-1, 1] between the image's edges
        grid = np.stack([(2 * x + 1) / source.size["width"] - 1, (2 * y + 1) / source.size["height"] - 1], axis=-1)
        self.register_buffer("grid", torch.tensor(grid, dtype=torch.float32))
        self.register_buffer("mean", torch.tensor(target.image_mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(target.image_std, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("luma", torch.tensor(_LUMA).view(3, 1, 1))

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        """Faces (batch, 1 or 3, height, width) in [0, 1] -> the embedder's `pixel_values`, black outside."""
        grid = self.grid.expand(len(faces), -1, -1, -1)
        faces = grid_sample(faces.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if self.color == "gray" and faces.shape[1] == 3:
            faces = (faces * self.luma).sum(dim=1, keepdim=True)
        elif self.color != "gray" and faces.shape[1] == 1:
            faces = faces.expand(-1, 3, -1, -1)
        elif self.color == "bgr":
            faces = faces.flip(1)
        return (faces - self.mean) / self.std
