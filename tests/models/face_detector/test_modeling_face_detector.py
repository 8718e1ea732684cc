"""The face detector as its users meet it: photos of any sizes in, faces in the photos' own pixels out."""

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModel

from hfembed.models.face_detector.configuration_face_detector import FaceDetectorConfig
from hfembed.models.face_detector.image_processing_face_detector import FaceDetectorImageProcessor
from hfembed.models.face_detector.modeling_face_detector import FaceDetectorModel
from tests.contract import ModelContract
from tests.models.detector_checks import (
    check_faces_in_pixels_of_the_photo_itself,
    check_searched_alike_alone_and_among_others,
)

# random networks say "face" with a probability near one half: some windows pass, some do not
SOME_PASS = {"score_thresholds": [0.5, 0.5, 0.5]}


def random_detector(**fields):
    torch.manual_seed(3)
    return shift_little(FaceDetectorModel(FaceDetectorConfig(**({"min_face_size": 24} | SOME_PASS | fields))).eval())


@torch.no_grad()
def shift_little(model):
    """A random box shift is many window sides long: no window would be left in its photo."""
    for head in (model.proposal.box, model.refinement.box, model.landmark.box, model.landmark.landmarks):
        head.weight.mul_(0.01), head.bias.mul_(0.01)
    return model


def random_photos(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # large blobs: white noise averages to gray at every level
    coarse = [
        torch.randint(0, 256, (3, height // 8 + 2, width // 8 + 2), generator=generator) for height, width in sizes
    ]
    return [
        torch.nn.functional.interpolate(blobs[None].float(), size, mode="bilinear")[0].to(torch.uint8)
        for blobs, size in zip(coarse, sizes, strict=True)
    ]


class TestFaceDetector(ModelContract):
    base_class = FaceDetectorModel
    auto_classes = {AutoModel: FaceDetectorModel}
    typo = ("min_face_sise", "min_face_size")
    impossible = {
        "min_face_size": 8,
        "max_image_size": 4,
        "pyramid_factor": 1.0,
        "score_thresholds": [0.5, 0.5],
        "nms_thresholds": [0.5, 0.5, 0.5, 1.5],
    }

    def config(self):
        return FaceDetectorConfig(min_face_size=14, score_thresholds=[0.0, 0.0, 0.0], pyramid_factor=0.8)

    def model(self, model_class):
        return shift_little(super().model(model_class))

    def outputs(self, model, **inputs):
        outputs = super().outputs(model, **inputs)
        assert outputs["scores"].shape[1] == 1
        return outputs

    def inputs(self, config, batch_size=3):
        # just one window fits in: one face per photo, whatever the weights
        generator = torch.Generator().manual_seed(0)
        return {"pixel_values": 255 * torch.rand(batch_size, 3, 14, 14, generator=generator)}


def test_a_photo_is_searched_alike_alone_and_among_others():
    photos = random_photos((60, 80), (200, 120), (61, 83), (12, 300), (60, 80), (5, 7), (33, 24))
    check_searched_alike_alone_and_among_others(
        random_detector(), photos, pixels_at_a_time=10_000, windows_at_a_time=1
    )


def test_faces_come_in_the_pixels_of_the_photo_itself(tmp_path):
    model = random_detector(max_image_size=100, min_face_size=30)
    check_faces_in_pixels_of_the_photo_itself(model, random_photos((80, 100))[0], tmp_path)


def test_photos_too_small_for_a_face_have_none():
    model = random_detector(score_thresholds=[0.0, 0.0, 0.0])
    faces = model.detect([np.zeros((1, 1, 3), np.uint8), np.zeros((23, 500), np.uint8)])
    assert [tuple(found.landmarks.shape) for found in faces] == [(0, 5, 2), (0, 5, 2)]
    assert model.detect([]) == []


def test_the_forward_pass_pads_photos_with_fewer_faces():
    model = random_detector()
    photos = [*random_photos((60, 80), (120, 140)), torch.zeros(3, 8, 8)]
    with torch.no_grad():
        output, alone = model(photos), model.detect_in(photos)
    assert output.boxes.shape == (3, max(len(faces.scores) for faces in alone), 4)
    for number, faces in enumerate(alone):
        count = len(faces.scores)
        torch.testing.assert_close(output.boxes[number, :count], faces.boxes, rtol=0, atol=1e-3)
        assert (output.scores[number, count:] == 0).all() and (faces.scores.diff() <= 0).all()


def test_a_photo_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(3, height, width\).*\(4, 20, 20\)"):
        random_detector()(torch.zeros(1, 4, 20, 20))


def test_processor_and_model_load_by_the_auto_classes(tmp_path):
    random_detector().save_pretrained(tmp_path)
    FaceDetectorImageProcessor(max_pixels=1000).save_pretrained(tmp_path)
    assert isinstance(AutoModel.from_pretrained(tmp_path), FaceDetectorModel)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is FaceDetectorImageProcessor and processor.max_pixels == 1000
