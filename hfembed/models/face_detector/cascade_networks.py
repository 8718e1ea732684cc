"""The three networks of MTCNN: Zhang et al., "Joint face detection and alignment using multi-task cascaded
convolutional networks", 2016, figure 2. Each classifies a window as face or not, and locates the face in it.
"""

import torch
from torch import nn


class ProposalNetwork(nn.Module):
    """Slides a window of 12 x 12 pixels over a picture, with a stride of two pixels ("P-Net")."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, 3)
        self.activation1 = nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(10, 16, 3)
        self.activation2 = nn.PReLU(16)
        self.conv3 = nn.Conv2d(16, 32, 3)
        self.activation3 = nn.PReLU(32)
        self.face = nn.Conv2d(32, 2, 1)
        self.box = nn.Conv2d(32, 4, 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Judge all windows of a batch of pictures.

        Returns:
            Scores (B, h, w), the probability of a face, and box shifts (B, 4, h, w), in window sides: left, top,
            right, bottom. h = ceil((H - 2) / 2) - 4.
        """
        hidden = self.activation1(self.conv1(pixels))
        hidden = self.pool1(hidden)
        hidden = self.activation2(self.conv2(hidden))
        hidden = self.activation3(self.conv3(hidden))
        return self.face(hidden).float().softmax(1)[:, 1], self.box(hidden).float()


class RefinementNetwork(nn.Module):
    """Judges windows of 24 x 24 pixels ("R-Net")."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 28, 3)
        self.activation1 = nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(28, 48, 3)
        self.activation2 = nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3 = nn.Conv2d(48, 64, 2)
        self.activation3 = nn.PReLU(64)
        self.dense = nn.Linear(64 * 3 * 3, 128)
        self.activation4 = nn.PReLU(128)
        self.face = nn.Linear(128, 2)
        self.box = nn.Linear(128, 4)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Judge windows.

        Returns:
            Scores (K,) and box shifts (K, 4), in window sides.
        """
        hidden = self.activation1(self.conv1(pixels))
        hidden = self.pool1(hidden)
        hidden = self.activation2(self.conv2(hidden))
        hidden = self.pool2(hidden)
        hidden = self.activation3(self.conv3(hidden))
        hidden = self.activation4(self.dense(hidden.flatten(1)))
        return self.face(hidden).float().softmax(1)[:, 1], self.box(hidden).float()


class LandmarkNetwork(nn.Module):
    """Judges windows of 48 x 48 pixels and finds the eyes, nose and mouth corners in them ("O-Net")."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.activation1 = nn.PReLU(32)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.activation2 = nn.PReLU(64)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.activation3 = nn.PReLU(64)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4 = nn.Conv2d(64, 128, 2)
        self.activation4 = nn.PReLU(128)
        self.dense = nn.Linear(128 * 3 * 3, 256)
        self.activation5 = nn.PReLU(256)
        self.face = nn.Linear(256, 2)
        self.box = nn.Linear(256, 4)
        self.landmarks = nn.Linear(256, 10)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Judge windows.

        Returns:
            Scores (K,), box shifts (K, 4) and landmarks (K, 5, 2), [x, y], all in window sides.
        """
        hidden = self.activation1(self.conv1(pixels))
        hidden = self.pool1(hidden)
        hidden = self.activation2(self.conv2(hidden))
        hidden = self.pool2(hidden)
        hidden = self.activation3(self.conv3(hidden))
        hidden = self.pool3(hidden)
        hidden = self.activation4(self.conv4(hidden))
        hidden = self.activation5(self.dense(hidden.flatten(1)))
        # the network lists five x, then five y
        landmarks = self.landmarks(hidden).float().unflatten(1, (2, 5)).transpose(1, 2)
        return self.face(hidden).float().softmax(1)[:, 1], self.box(hidden).float(), landmarks
