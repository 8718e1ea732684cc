"""The converted RetinaFace against the original network, its priors and its decoding, written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from hfembed.convert.retinaface import convert_retinaface
from hfembed.errors import InputError
from tests.convert.detections import as_pixels, assert_same_faces, non_maximum_suppression, real_photos
from tests.convert.foreign_networks import Reference, StateDict, convert

# channels in, channels out, stride of each block
BLOCKS = {
    "stage1": [(8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)],
    "stage2": [(64, 128, 2), *[(128, 128, 1)] * 5],
    "stage3": [(128, 256, 2), (256, 256, 1)],
}
CONTEXT = {
    "conv3X3": (64, 32),
    "conv5X5_1": (64, 16),
    "conv5X5_2": (16, 16),
    "conv7X7_2": (16, 16),
    "conv7x7_3": (16, 16),
}
HEADS = {"ClassHead": 2, "BboxHead": 4, "LandmarkHead": 10}


def random_weights():
    torch.manual_seed(0)
    state = StateDict()

    def conv_norm(key, out_channels, in_channels, side, first=0):
        state.conv(f"{key}.{first}", out_channels, in_channels, side, side)
        state.norm(f"{key}.{first + 1}", out_channels)

    conv_norm("body.stage1.0", 8, 3, 3)
    for stage, blocks in BLOCKS.items():
        for number, (before, after, _) in enumerate(blocks, start=int(stage == "stage1")):
            conv_norm(f"body.{stage}.{number}", before, 1, 3)
            conv_norm(f"body.{stage}.{number}", after, before, 1, first=3)
    for level, channels in ((1, 64), (2, 128), (3, 256)):
        conv_norm(f"fpn.output{level}", 64, channels, 1)
        for name, (before, after) in CONTEXT.items():
            conv_norm(f"ssh{level}.{name}", after, before, 3)
    conv_norm("fpn.merge1", 64, 64, 3)
    conv_norm("fpn.merge2", 64, 64, 3)
    for head, numbers in HEADS.items():
        for level in range(3):
            state.conv(f"{head}.{level}.conv1x1", 2 * numbers, 64, 1, 1)
            state[f"{head}.{level}.conv1x1.bias"] = 0.1 * torch.randn(2 * numbers)
    # scores between 0 and 1, boxes of ordinary sizes
    return {key: 0.02 * value if "Head" in key else value for key, value in state.items()}


def original(state, pixels, slope):
    """Of each head the rows (positions x priors, numbers) of all three levels, one after the other."""
    layers = Reference(state)

    def conv_norm(x, key, first=0, stride=1, active=True):
        x = layers.norm(layers.conv(x, f"{key}.{first}", stride), f"{key}.{first + 1}")
        return torch.where(x > 0, x, slope * x) if active else x

    x = conv_norm(pixels, "body.stage1.0", stride=2)
    maps = []
    for stage, blocks in BLOCKS.items():
        for number, (_, _, stride) in enumerate(blocks, start=int(stage == "stage1")):
            x = conv_norm(x, f"body.{stage}.{number}", stride=stride)
            x = conv_norm(x, f"body.{stage}.{number}", first=3)
        maps.append(conv_norm(x, f"fpn.output{len(maps) + 1}"))
    for level in (1, 0):
        larger = F.interpolate(maps[level + 1], size=maps[level].shape[2:], mode="nearest")
        maps[level] = conv_norm(maps[level] + larger, f"fpn.merge{level + 1}")
    rows = {head: [] for head in HEADS}
    for level, x in enumerate(maps):
        key = f"ssh{level + 1}"
        five = conv_norm(x, f"{key}.conv5X5_1")
        seven = conv_norm(five, f"{key}.conv7X7_2")
        parts = [(x, "conv3X3"), (five, "conv5X5_2"), (seven, "conv7x7_3")]
        x = F.relu(torch.cat([conv_norm(part, f"{key}.{name}", active=False) for part, name in parts], 1))
        for head, numbers in HEADS.items():
            rows[head].append(layers.conv(x, f"{head}.{level}.conv1x1").permute(0, 2, 3, 1).reshape(-1, numbers))
    return [torch.cat(rows[head]).numpy() for head in HEADS]


def decoded(state, photo, slope, min_sizes, score_threshold):
    """Faces [(score, box, landmarks)] of a photo; positions and sizes as fractions of the photo, as there."""
    height, width = photo.shape[:2]
    pixels = torch.from_numpy(photo[:, :, ::-1].astype(np.float32) - [104, 117, 123]).permute(2, 0, 1)[None].float()
    logits, locations, points = original(state, pixels, slope)
    scores = np.exp(logits[:, 1]) / np.exp(logits).sum(1)
    faces, place = [], 0
    for step, sizes in zip((8, 16, 32), min_sizes, strict=True):
        for row in range(-(-height // step)):
            for column in range(-(-width // step)):
                for size in sizes:
                    center = np.array([(column + 0.5) * step / width, (row + 0.5) * step / height])
                    extent = np.array([size / width, size / height])
                    if scores[place] >= score_threshold:
                        middle = center + locations[place, :2] * 0.1 * extent
                        half = extent * np.exp(locations[place, 2:] * 0.2) / 2
                        scale = np.array([width, height])
                        box = np.concatenate([(middle - half) * scale, (middle + half) * scale])
                        landmarks = (center + points[place].reshape(5, 2) * 0.1 * extent) * scale
                        faces.append((float(scores[place]), box, landmarks))
                    place += 1
    assert place == len(scores)
    return faces


SETTINGS = {
    "Face-Detector-1MB-with-landmark": (0.0, [[10, 20], [32, 64], [128, 256]]),
    "Pytorch_Retinaface": (0.1, [[16, 32], [64, 128], [256, 512]]),
}


@pytest.mark.parametrize("trainer", SETTINGS)
@torch.no_grad()
def test_every_prior_of_the_converted_network_is_the_originals(trainer, tmp_path):
    state = random_weights()
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "mobilenet0.25_Final.pth")
    convert("retinaface", tmp_path / "mobilenet0.25_Final.pth", tmp_path / "detector", "--trainer", trainer)
    model = AutoModel.from_pretrained(tmp_path / "detector").eval()
    model.config.score_threshold, model.config.nms_threshold = 0.0, 1.0
    photo = np.random.default_rng(0).integers(100, 140, (45, 70, 3), np.uint8)
    found = model.detect_in([as_pixels(photo)])[0]
    expected = sorted(decoded(state, photo, *SETTINGS[trainer], 0.0), key=lambda face: -face[0])
    assert_same_faces(found, expected, pixels=0.05, scores=1e-4)


def test_bad_sources_are_named(tmp_path):
    torch.save(random_weights() | {"ssh1.conv3X3.0.weight": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a.pth is not a RetinaFace .*ssh1.conv3X3.0.weight \(3,\) instead of"):
        convert_retinaface(tmp_path / "a.pth", tmp_path / "detector")
    assert not (tmp_path / "detector").exists()


@pytest.mark.data
@torch.no_grad()
def test_faces_in_real_photos_are_the_originals(research_data, tmp_path):
    file = research_data / "weights" / "retinaface_mobilenet" / "mobilenet0.25_Final.pth"
    model = convert_retinaface(file, tmp_path / "detector")
    state = torch.load(file, weights_only=True, map_location="cpu")
    photos = real_photos(research_data, 4)
    found = model.detect_in([as_pixels(photo) for photo in photos])
    assert sum(len(faces.scores) for faces in found) >= 4
    for photo, faces in zip(photos, found, strict=True):
        settings = SETTINGS["Face-Detector-1MB-with-landmark"]
        expected = non_maximum_suppression(decoded(state, photo, *settings, model.config.score_threshold), 0.4)
        assert_same_faces(faces, expected, pixels=0.5, scores=1e-4)
