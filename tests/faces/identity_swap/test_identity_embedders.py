"""What a swap model knows of a person: the mean vector, and photos that look like the person."""

import numpy as np
import torch
import torch.nn.functional as F

from hfembed.faces.identity_swap.identity_embedders import describe_people


class ColorEmbedder(torch.nn.Module):
    """The unit vector of a face is that of its mean color."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, faces):
        return self.unit(self.scale * faces.mean((2, 3)))

    def unit(self, vectors):
        return F.normalize(vectors, dim=1)


def test_photos_of_somebody_else_are_no_references():
    own = torch.tensor([200, 40, 40])[None] + torch.arange(16)[:, None]
    own[[3, 7, 11]] = torch.tensor([40, 200, 200])  # somebody else, in a quarter of the photos
    few = torch.tensor([[10, 10, 200], [200, 10, 10], [10, 10, 220]])
    pixels = torch.cat([own, few]).to(torch.uint8)[:, :, None, None].expand(-1, -1, 2, 2)
    labels = np.repeat([0, 1], [16, 3])
    vectors, photos = describe_people(ColorEmbedder(), pixels, labels, 2, photos_per_person=6)
    assert vectors.shape == (2, 3) and photos.shape == (2, 6, 3, 2, 2)
    reds, greens = photos[0, :, 0, 0, 0].tolist(), photos[0, :, 1, 0, 0].tolist()
    assert reds == sorted(reds) and len(set(reds)) == 6 and reds[0] < 204 and reds[-1] > 210, "spread evenly"
    assert max(greens) < 60
    assert photos[1, :, 0, 0, 0].tolist() == [10, 10, 200, 200, 10, 10], "all of three photos"
