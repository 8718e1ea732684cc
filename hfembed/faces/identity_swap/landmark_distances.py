"""How far a face's landmarks move when it is drawn as somebody else, as a loss."""

import torch
import torch.nn.functional as F
from torch import nn

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.loading import load_face_detector
from hfembed.errors import InputError
from hfembed.models.yunet.modeling_yunet import STRIDES, YuNetModel

_MARGIN = 0.15  # of a crop's side, added around it: a detector looks for whole heads
_SURE = 0.5  # the least score of a photo's face whose landmarks count


class LandmarkDistances(nn.Module):
    """Distances of five landmarks between two pictures of one face, by a frozen YuNet.

    The landmarks of both are those that the network predicts at the position at which it is surest of the face in the
    photo, so that there are gradients for the drawn one.

    Args:
        detector: Checkpoint folder or Hub id of a YuNet.

    Raises:
        InputError: It is another kind of detector.
    """

    def __init__(self, detector: str | Checkpoint) -> None:
        super().__init__()
        network, _ = load_face_detector(detector, "cpu")
        if not isinstance(network, YuNetModel):
            raise InputError(f"landmark_detector: {detector} is no YuNet; `hfembed convert yunet` makes one")
        self.network = network
        self.requires_grad_(False)
        self.eval()

    def forward(self, drawn: torch.Tensor, photos: torch.Tensor) -> torch.Tensor:
        """Two batches of aligned crops (B, 1 or 3, H, W) in [0, 1] -> (B,) mean distances, in distances of the eyes.

        It is 0 for a photo in which the network is not sure of a face.
        """
        with torch.no_grad():
            predicted = self.predict(photos)
            scores, surest = predicted[:, :2].sigmoid().prod(1).sqrt().max(1)
            wanted = self.landmarks(predicted, surest)
            eyes = (wanted[:, 1] - wanted[:, 0]).norm(dim=1).clamp(min=1)
        found = self.landmarks(self.predict(drawn), surest)
        return (scores > _SURE) * (found - wanted).norm(dim=2).mean(1) / eyes

    def predict(self, crops: torch.Tensor) -> torch.Tensor:
        """(B, 16, positions): the network's numbers at all positions, box and landmarks in pixels."""
        height, width = crops.shape[2:]
        sides = [-int(-side * (1 + 2 * _MARGIN) // STRIDES[-1]) * STRIDES[-1] for side in (height, width)]
        top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
        around = (left, sides[1] - width - left, top, sides[0] - height - top)
        pixels = F.pad(crops.float().expand(-1, 3, -1, -1) * 255, around, mode="replicate")
        maps = []
        for stride, values in zip(STRIDES, self.network.predict(pixels), strict=True):
            rows, columns = values.shape[2:]
            grid = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
            position = torch.stack(grid).to(values).repeat(5, 1, 1)
            maps.append(torch.cat([values[:, :6], (values[:, 6:] + position) * stride], dim=1).flatten(2))
        return torch.cat(maps, dim=2)

    def landmarks(self, predicted: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """(B, 5, 2): the landmarks at one position of each image."""
        return predicted[torch.arange(len(positions)), 6:, positions].unflatten(1, (5, 2))
