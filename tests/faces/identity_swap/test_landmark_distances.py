"""How far landmarks move, as a loss: of pictures whose motion is known."""

import io
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hfembed.convert.yunet import convert_yunet
from hfembed.errors import InputError
from hfembed.faces.identity_swap.landmark_distances import LandmarkDistances
from tests.checkpoint.checkpoints import retinaface, yunet


@pytest.fixture
def crops():
    generator = torch.Generator().manual_seed(0)
    return F.interpolate(torch.rand(3, 3, 7, 7, generator=generator), (112, 112), mode="bicubic").clamp(0, 1)


@pytest.fixture
def distances(tmp_path):
    torch.manual_seed(0)
    yunet(tmp_path)
    return LandmarkDistances(tmp_path)


def sure(distances: LandmarkDistances, logit: float) -> LandmarkDistances:
    """The network says the same of every position: that it is as sure of a face."""
    with torch.no_grad():
        for head in distances.network.heads:
            head[-1].depthwise.weight[:2].zero_()
            head[-1].depthwise.bias[:2] = logit
    return distances


def test_nothing_moves_in_the_same_picture_and_gradients_lead_back(distances, crops):
    sure(distances, 3.0)
    assert torch.equal(distances(crops, crops), torch.zeros(3))
    other = crops.roll(1, 0).requires_grad_()
    moved = distances(other, crops)
    assert moved.shape == (3,) and (moved > 0).all()
    moved.sum().backward()
    assert other.grad.isfinite().all() and (other.grad.abs().amax((1, 2, 3)) > 0).all()
    gray, rolled = crops[:, :1], crops[:, :1].roll(1, 0)
    torch.testing.assert_close(distances(rolled, gray), distances(rolled.expand(-1, 3, -1, -1), gray))


def test_photos_without_a_sure_face_do_not_count(distances, crops):
    sure(distances, -3.0)
    assert torch.equal(distances(crops.roll(1, 0), crops), torch.zeros(3))


def test_another_detector_is_refused(tmp_path):
    retinaface(tmp_path)
    with pytest.raises(InputError, match="is no YuNet"):
        LandmarkDistances(tmp_path)


def test_a_face_moved_by_some_pixels_is_seen_to_move_by_as_many(research_data, tmp_path):
    convert_yunet(research_data / "weights/yunet/yunet_n.pth", tmp_path)
    with tarfile.open(research_data / "celeba299/aligned_112x112.tgz") as archive:
        files = (member for member in archive if member.isfile() and member.name.endswith(".jpg"))
        encoded = [archive.extractfile(member).read() for member, _ in zip(files, range(8), strict=False)]
    photos = np.stack([np.asarray(Image.open(io.BytesIO(photo)).convert("RGB")) for photo in encoded])
    pixels = torch.from_numpy(photos).permute(0, 3, 1, 2) / 255
    moved = F.pad(pixels, (5, 0, 0, 0), mode="replicate")[..., :112]
    # the eyes of the standard template are 35.2 pixels apart
    found = LandmarkDistances(tmp_path)(moved, pixels)
    assert abs(found.median() - 5 / 35.2) < 0.25 * 5 / 35.2
