"""A face analyzer of untrained networks that finds bright squares, and photos with such "faces" in them."""

import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.faces.face_analyzer import FaceAnalyzer
from hfembed.models.face_detector.configuration_face_detector import FaceDetectorConfig
from hfembed.models.face_detector.image_processing_face_detector import FaceDetectorImageProcessor
from hfembed.models.face_detector.modeling_face_detector import FaceDetectorModel
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

THRESHOLDS = {
    "data": "drawn pairs",
    "impostors": 3000,
    "accuracy": 0.9,
    "eer": 0.9,
    "far": {"0.01": 0.999},
    "calibration": {"slope": 20.0, "intercept": -18.0},
}


@torch.no_grad()
def white_square_detector():
    """A detector that calls a window of 40 pixels a face if it is almost all white, without box regression."""
    config = FaceDetectorConfig(
        min_face_size=40, pyramid_factor=0.001, max_image_size=400, nms_thresholds=[0.05, 0.05, 0.05, 0.05]
    )
    model = FaceDetectorModel(config).eval()
    for network in (model.proposal, model.refinement, model.landmark):
        for name, parameter in network.named_parameters():
            # every layer hands on the mean of what is below it, from -1, black, to +1, white
            is_average = name.endswith("weight") and parameter.ndim > 1
            parameter.fill_(1 / parameter[0].numel() if is_average else float("activation" in name))
        network.face.weight.mul_(torch.tensor([0.0, 60.0]).view(-1, *[1] * (network.face.weight.ndim - 1)))
        network.face.bias.copy_(torch.tensor([36.0, 0.0]))
        network.box.weight.zero_()
    # eyes, nose and mouth corners where an upright face has them: five x, then five y, in window sides
    model.landmark.landmarks.weight.zero_()
    model.landmark.landmarks.bias.copy_(torch.tensor([0.34, 0.66, 0.5, 0.37, 0.63, 0.46, 0.46, 0.64, 0.82, 0.82]))
    return model


@pytest.fixture(scope="session")
def analyzer():
    torch.manual_seed(0)
    config = FaceEmbedderConfig(
        trunk="iresnet",
        trunk_arguments={"depths": [1], "widths": [8]},
        image_size=[24, 24],
        embedding_size=8,
        mirror="sum",
        thresholds=THRESHOLDS,
    )
    return FaceAnalyzer(
        white_square_detector(),
        FaceDetectorImageProcessor(max_pixels=1_000_000),
        FaceEmbedderModel(config).eval(),
        FaceImageProcessor(size=24),
    )


@pytest.fixture(scope="session")
def folder(analyzer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "analyzer"
    analyzer.save_pretrained(folder)
    return folder


def draw(*places, size=(160, 120), person=None, side=44):
    """A black photo with a white square, a "face", at each (left, top), shaded with a pattern of the person's own."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    shade = np.zeros((side, side, 3), np.uint8)
    if person is not None:
        pattern = np.random.default_rng(person).integers(0, 2, (6, 6, 3), np.uint8) * 50
        shade = np.asarray(Image.fromarray(pattern).resize((side, side), Image.Resampling.NEAREST))
    for left, top in places:
        pixels[top : top + side, left : left + side] = 255 - shade
    return Image.fromarray(pixels)
