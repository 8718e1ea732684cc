"""YuNet and RetinaFace as their users meet them: photos of any sizes in, faces in the photos' own pixels out."""

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModel

from hfembed import (
    RetinaFaceConfig,
    RetinaFaceImageProcessor,
    RetinaFaceModel,
    YuNetConfig,
    YuNetImageProcessor,
    YuNetModel,
)
from hfembed.models.detected_faces import DetectedFaces, FaceDetector, FaceDetectorOutput, turn_back
from hfembed.models.face_detector_config import DetectorConfig
from tests.contract import ModelContract
from tests.models.detector_checks import (
    assert_same_faces,
    check_faces_in_pixels_of_the_photo_itself,
    check_searched_alike_alone_and_among_others,
)

SMALL_YUNET = {"widths": [4, 8, 8, 8, 8, 8]}
SMALL_RETINAFACE = {"base_width": 2, "feature_width": 8}


@torch.no_grad()
def shrink_heads(model, factor=0.1):
    """Random logarithms of box sizes would make boxes of any size from nothing to infinity."""
    for head in model.heads:
        last = head if isinstance(head, torch.nn.Conv2d) else head[-1].depthwise
        last.weight.mul_(factor)
    return model.eval()


def random_detector(family, **fields):
    torch.manual_seed(3)
    if family == "yunet":
        return shrink_heads(YuNetModel(YuNetConfig(**(SMALL_YUNET | {"score_threshold": 0.5} | fields))), 1e-3)
    return shrink_heads(RetinaFaceModel(RetinaFaceConfig(**(SMALL_RETINAFACE | {"score_threshold": 0.5} | fields))))


def random_photos(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


class DetectorContract(ModelContract):
    typo = ("score_treshold", "score_threshold")

    def model(self, model_class):
        return shrink_heads(super().model(model_class), 1e-3)

    def outputs(self, model, **inputs):
        inputs = inputs or self.inputs(model.config)
        best = {name: value[:, :1] for name, value in super().outputs(model, **inputs).items()}
        with torch.no_grad():
            maps = model.predict(inputs["pixel_values"].to(model.dtype))
        return maps_of(best, maps) if model.dtype == torch.float32 else maps_of({}, maps)

    def inputs(self, config, batch_size=3):
        generator = torch.Generator().manual_seed(0)
        return {"pixel_values": 255 * torch.rand(batch_size, 3, 32, 64, generator=generator)}


def maps_of(best, maps):
    return best | {f"map {number}": values.float() for number, values in enumerate(maps)}


class TestYuNet(DetectorContract):
    base_class = YuNetModel
    auto_classes = {AutoModel: YuNetModel}
    impossible = {
        "widths": [16, 64, 64, 64, 64, 32],
        "head_units": -1,
        "score_threshold": 1.5,
        "nms_threshold": -0.1,
        "max_candidates": 0,
        "max_image_size": 4,
    }

    def config(self):
        return YuNetConfig(**SMALL_YUNET, head_units=2, score_threshold=0.0)


class TestRetinaFace(DetectorContract):
    base_class = RetinaFaceModel
    auto_classes = {AutoModel: RetinaFaceModel}
    impossible = {
        "feature_width": 6,
        "min_sizes": [[10, 20], [32], [64, 128]],
        "variances": [0.1, 0.0],
        "image_mean": [1.0, 2.0],
        "negative_slope": 2.0,
        "score_threshold": 1.5,
        "max_image_size": 4,
    }

    def config(self):
        return RetinaFaceConfig(**SMALL_RETINAFACE, negative_slope=0.1, score_threshold=0.0)


@pytest.mark.parametrize("family", ["yunet", "retinaface"])
class TestDetection:
    def test_a_photo_is_searched_alike_alone_and_among_others(self, family):
        # 60 x 80 and 61 x 83 are one size once padded to multiples of 32
        photos = random_photos((60, 80), (200, 120), (61, 83), (12, 300), (60, 80), (5, 7), (1, 1))
        check_searched_alike_alone_and_among_others(
            random_detector(family), photos, pixels_at_a_time=10_000, pixels_in_cache=1
        )

    def test_faces_come_in_the_pixels_of_the_photo_itself(self, family, tmp_path):
        model = random_detector(family, max_image_size=100)
        check_faces_in_pixels_of_the_photo_itself(model, random_photos((80, 100))[0], tmp_path)

    def test_faces_fall_in_score_and_do_not_overlap(self, family):
        faces = random_detector(family, nms_threshold=0.0).detect_in(random_photos((96, 128)))[0]
        assert (faces.scores.diff() <= 0).all() and faces.scores.min() >= 0.5
        corner = torch.maximum(faces.boxes[:, None, :2], faces.boxes[None, :, :2])
        other = torch.minimum(faces.boxes[:, None, 2:], faces.boxes[None, :, 2:])
        shared = (other - corner).clamp(min=0).prod(2).fill_diagonal_(0)
        assert len(faces.scores) > 1 and (shared == 0).all()

    def test_of_many_candidates_the_highest_scoring_are_kept(self, family):
        photos = random_photos((96, 128), (64, 64))
        every = random_detector(family, nms_threshold=1.0).detect_in(photos)
        some = random_detector(family, nms_threshold=1.0, max_candidates=5).detect_in(photos)
        for faces, best in zip(every, some, strict=True):
            assert len(faces.scores) > 5
            assert_same_faces(type(faces)(*(values[:5] for values in faces)), best, 1e-4)

    def test_no_photo_or_no_face(self, family):
        model = random_detector(family, score_threshold=1.0)
        assert model.detect([]) == []
        faces = model.detect([np.zeros((1, 1, 3), np.uint8), np.zeros((23, 500), np.uint8)])
        assert [tuple(found.landmarks.shape) for found in faces] == [(0, 5, 2), (0, 5, 2)]

    def test_a_photo_of_another_shape_is_refused(self, family):
        with pytest.raises(ValueError, match=r"\(3, height, width\).*\(4, 20, 20\)"):
            random_detector(family)(torch.zeros(1, 4, 20, 20))

    def test_processor_and_model_load_by_the_auto_classes(self, family, tmp_path):
        processor_class = {"yunet": YuNetImageProcessor, "retinaface": RetinaFaceImageProcessor}[family]
        random_detector(family).save_pretrained(tmp_path)
        processor_class(max_pixels=1000).save_pretrained(tmp_path)
        assert type(AutoModel.from_pretrained(tmp_path)) is type(random_detector(family))
        processor = AutoImageProcessor.from_pretrained(tmp_path)
        assert type(processor) is processor_class and processor.max_pixels == 1000


class CornerDetector(FaceDetector):
    """Calls the white spot of a photo a face: surely if it is in the upper left, else with a score of 0.75."""

    def forward(self, pixel_values):
        scores, boxes, landmarks = [], [], []
        for photo in pixel_values:
            rows, columns = photo[0].nonzero().unbind(1)
            x, y = float(columns[0]), float(rows[0])
            scores.append([1.0 if x < photo.shape[2] / 2 and y < photo.shape[1] / 2 else 0.75])
            boxes.append([[x - 1, y - 2, x + 3, y + 4]])
            landmarks.append([[[x, y], [x + 2, y], [x + 1, y + 1], [x, y + 3], [x + 2, y + 3]]])
        return FaceDetectorOutput(*(torch.tensor(values) for values in (scores, boxes, landmarks)))


@pytest.mark.parametrize("quarters", range(4))
def test_a_photo_on_its_side_is_searched_upright(quarters):
    detector = CornerDetector(DetectorConfig())
    upright = torch.zeros(3, 20, 30)
    upright[:, 6, 10] = 1
    photo = torch.rot90(upright, -quarters, (1, 2))
    row, column = photo[0].nonzero()[0].tolist()
    assert detector.detect_in([photo])[0].scores.tolist() == [0.75 if quarters else 1.0]
    detector.config.turned = True
    other = torch.zeros(3, 9, 9)
    other[:, 1, 1] = 1
    faces, _ = detector.detect_in([photo, other], [2.0, 1.0])
    assert faces.scores.tolist() == [1.0]
    # the left eye is on the spot; pixel centers lie at whole numbers
    assert faces.landmarks[0, 0].tolist() == [2 * column + 0.5, 2 * row + 0.5]
    sides = faces.boxes[0, 2:] - faces.boxes[0, :2]
    assert sides.tolist() == ([8, 12] if quarters % 2 == 0 else [12, 8])
    # down in the face is where down is in the upright photo
    down = faces.landmarks[0, 3] - faces.landmarks[0, 0]
    assert down.tolist() == [[0, 6], [-6, 0], [0, -6], [6, 0]][quarters]


def test_how_photos_are_searched_can_be_changed():
    model = random_detector("yunet")
    model.change_search(True, 0, 40)
    assert (model.config.turned, model.config.max_image_size, model.config.search_scale) == (True, None, 0.5)
    model.change_search(max_image_size=640)
    assert (model.config.turned, model.config.max_image_size) == (True, 640)
    for impossible in ({"max_image_size": 5}, {"min_face_size": 2}):
        with pytest.raises(ValueError, match=next(iter(impossible))):
            model.change_search(**impossible)


def test_a_smaller_search_finds_the_same_places():
    model = random_detector("yunet", nms_threshold=1.0)
    photo = random_photos((64, 96))[0]
    small = torch.nn.functional.interpolate(photo[None], (32, 48), mode="bilinear", antialias=True)[0]
    expected = model.detect_in([small], [2.0])[0]
    model.change_search(min_face_size=40)
    assert_same_faces(model.detect_in([photo])[0], expected, 1e-3)


def test_no_face_stays_no_face():
    none = DetectedFaces(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 5, 2))
    assert [tuple(values.shape) for values in turn_back(none, 1, 20, 30)] == [(0, 4), (0,), (0, 5, 2)]
