"""The quality of a face: each component, the one number, and what is done with it."""

import numpy as np
import pytest

from hfembed.faces.quality import FaceQuality, assess_face, completeness, head_angles, overall_quality
from hfembed.models.face_embedder.image_processing_face_embedder import STANDARD_TEMPLATE

GOOD = FaceQuality(score=0.95, size=112, sharpness=400, norm=10.0)
WORSE = {"score": 0.6, "size": 12, "sharpness": 3, "yaw": 60, "pitch": -50, "roll": 180, "completeness": 0.6}
FACE = np.array(STANDARD_TEMPLATE)
BOX = np.array([10.0, 5, 102, 115])
REFERENCE = {"mean": 10.0, "std": 1.0}


def turned(yaw, pitch, roll):
    """The template's points on a head that is turned."""
    yaw, pitch, roll = np.radians([yaw, pitch, roll])
    head = np.column_stack([FACE, [0, 0, -18, -4, -4]])
    turns = (
        [[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]],
        [[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]],
        [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]],
    )
    for turn in turns:
        head = head @ np.array(turn).T
    return head[:, :2] * 2.5 + [30, 40]


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (35, 0, 0), (-35, 0, 0), (0, 20, 0), (0, -20, 0), (0, 0, 40), (0, 0, 180), (60, 0, 0)]
)
def test_the_angles_of_a_turned_head_are_found(angles):
    found = head_angles(turned(*angles))
    assert np.abs(np.array(found) - angles)[:2] == pytest.approx([0, 0], abs=0.1)
    assert np.cos(np.radians(found[2] - angles[2])) == pytest.approx(1)


def test_the_part_of_a_face_inside_the_photo():
    assert completeness(FACE, 112, 112) > 0.98 and completeness(FACE + 200, 500, 500) == 1
    assert completeness(FACE - [0, 63], 112, 112) == pytest.approx(0.5, abs=0.05), "cut through the middle"
    assert completeness(FACE - [0, 35], 112, 112) == pytest.approx(0.83, abs=0.05), "cut at the forehead"
    assert completeness(FACE * 3, 56 * 3, 336) == pytest.approx(0.5, abs=0.05), "the photo ends at the nose"


@pytest.mark.parametrize("reference", [None, REFERENCE])
def test_quality_lies_between_0_and_1_and_never_falls_as_a_component_rises(reference):
    best = overall_quality(GOOD, reference)
    assert 0.9 < best <= 1
    worst = overall_quality(GOOD._replace(**WORSE, norm=1.0), reference)
    assert 0 <= worst < 0.05
    for name, poor in {**WORSE, "norm": 4.0}.items():
        values = np.linspace(poor, getattr(GOOD, name), 30)
        qualities = overall_quality(GOOD._replace(**{name: values}), reference) * np.ones(30)
        assert (np.diff(qualities) >= 0).all()
        assert (qualities[0] < best) == (name != "norm" or reference is not None)


def test_what_lowers_the_quality_most_is_said():
    def assess(score=0.95, landmarks=FACE, size=(112, 120), sharpness=400.0, norm=10.0, box=BOX):
        return assess_face(score, box, landmarks, size, sharpness, norm, REFERENCE)

    assert assess().overall > 0.85
    assert assess(sharpness=2.0).weakness == "blurred"
    assert assess(box=BOX / 8, landmarks=FACE / 8, size=(60, 60)).weakness == "small"
    assert assess(landmarks=turned(65, 0, 0), size=(400, 400)).weakness == "turned away"
    assert assess(landmarks=turned(0, 0, 180) + 200, size=(900, 900)).weakness == "upside down"
    assert assess(landmarks=FACE - [0, 60]).weakness == "cut off"
    assert assess(norm=2.0).weakness == "unclear"
