"""The published weights on 120 photos in the wild, against the detections that came with them.

`-s` prints the figures.
"""

import json
import tarfile

import pytest

from hfembed.convert.mtcnn import convert_mtcnn
from hfembed.models.face_detector.image_processing_face_detector import FaceDetectorImageProcessor

pytestmark = [pytest.mark.data, pytest.mark.slow]


def test_given_detections_are_found_again(research_data, tmp_path):
    model = convert_mtcnn(research_data / "weights" / "mtcnn_facenet_pytorch", tmp_path / "detector")
    with tarfile.open(research_data / "celeba299" / "raw_sample.tgz") as archive:
        files = {
            member.name.rpartition("/")[2]: archive.extractfile(member).read() for member in archive if member.size
        }
    given = {file: entry for file, entry in json.loads(files["landmarks.json"]).items() if entry and entry.get("lm")}
    names = [file for file in files if file.endswith(".jpg")]

    processor = FaceDetectorImageProcessor()
    photos = processor([files[name] for name in names], longest_side=model.config.max_image_size)
    found = dict(zip(names, model.detect_in(photos.pixel_values, photos.shrinkage), strict=True))
    assert len(found) == 120, "no photo breaks the batch"

    errors = []
    for file, entry in given.items():
        width = entry["box"][2] - entry["box"][0]
        distances = [
            (landmarks - landmarks.new_tensor(entry["lm"])).norm(dim=1).mean().item() / width
            for landmarks in found[file].landmarks
        ]
        errors.append(min(distances, default=float("inf")))
    recall = sum(error < 0.15 for error in errors) / len(errors)
    median = sorted(errors)[len(errors) // 2]
    print(f"recall {recall:.3f} of {len(errors)}, median landmark error {median:.4f} box widths")
    assert recall >= 0.98 and median < 0.02
