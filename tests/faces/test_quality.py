"""The quality of a face: each component, the one number, and what is done with it."""

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from hfembed import EmbeddingIndex
from hfembed.errors import InputError
from hfembed.faces.quality import (
    FaceQuality,
    assess_face,
    completeness,
    head_angles,
    overall_quality,
    tempered_log_odds,
)
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import STANDARD_TEMPLATE
from tests.faces.conftest import THRESHOLDS, draw

GOOD = FaceQuality(score=0.95, size=112, sharpness=400, norm=10.0)
WORSE = {"score": 0.6, "size": 12, "sharpness": 3, "yaw": 60, "pitch": -50, "roll": 180, "completeness": 0.6}
FACE = np.array(STANDARD_TEMPLATE)
FACE[2, 1] += 4  # where detectors find the nose
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


def test_a_poor_face_moves_the_odds_toward_even():
    assert tempered_log_odds(8.0, 1.0) == 8 and tempered_log_odds(8.0, 0.0) == 0
    moved = [tempered_log_odds(8.0, quality) for quality in (0.1, 0.4, 0.7, 0.9)]
    assert moved == sorted(moved) and 0 < moved[0] < 0.5


def test_faces_of_too_low_a_quality_are_set_aside(analyzer, caplog):
    photo = draw((10, 10), (90, 50), person=1)
    pixels = np.array(photo)
    pixels[50:94, 90:134] = 255 - np.linspace(0, 40, 44, dtype=np.uint8)[:, None, None]  # no detail: blurred
    photo = Image.fromarray(pixels)
    (everything,) = analyzer(photo, min_quality=0)
    assert len(everything.faces) == 2 and not everything.set_aside
    poor, good = sorted(face.quality.overall for face in everything.faces)
    assert poor < good
    (chosen,) = analyzer(photo, min_quality=(poor + good) / 2)
    assert [face.quality.overall for face in chosen.faces] == [good] and chosen.error is None
    assert [face.quality.overall for face in chosen.set_aside] == [poor]
    assert "photo 0: 1 of 2 faces set aside, quality 0." in caplog.text
    (only,) = analyzer(photo, "only", min_quality=(poor + good) / 2)
    assert len(only.faces) == 1, "what is set aside does not count"
    assert "2 faces, where only one was expected" in analyzer(photo, "only", min_quality=0)[0].error
    (nothing,) = analyzer(photo, min_quality=1)
    assert nothing.faces == [] and nothing.error is None and "2 of 2 faces set aside" in nothing.problem
    for value in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="min_quality lies between 0 and 1"):
            analyzer(photo, min_quality=value)


def test_what_is_too_poor_is_not_compared(analyzer):
    a, b = draw((50, 30), person=1), draw((50, 30), person=2)
    with pytest.raises(InputError, match=r"photo 0: 1 of 1 faces set aside, quality 0\.\d\d.*min_quality=0"):
        analyzer.verify(a, b, min_quality=1)
    result = analyzer.verify(a, b, min_quality=0)
    plain = analyzer.compare(*(analyzer(photo)[0].faces[0].embedding for photo in (a, b)))
    assert result.similarity == pytest.approx(plain.similarity) and plain.quality is None
    assert abs(result.probability - 0.5) < abs(plain.probability - 0.5) and 0 < result.quality < 1


def test_the_norm_counts_once_the_model_says_what_is_usual(analyzer, monkeypatch):
    photo = draw((50, 30), person=1)
    (before,) = analyzer(photo)[0].faces
    thresholds = {**THRESHOLDS, "norm": {"mean": 10 * before.quality.norm, "std": before.quality.norm}}
    monkeypatch.setattr(analyzer.embedder.config, "thresholds", thresholds)
    (after,) = analyzer(photo, min_quality=0)[0].faces
    assert after.quality.norm == before.quality.norm and after.quality.overall < 0.7 * before.quality.overall
    assert FaceEmbedderConfig(thresholds=thresholds).thresholds == thresholds
    for wrong in ({"mean": 1.0}, {"mean": 0.0, "std": 1.0}, {"mean": float("nan"), "std": 1.0}, "10"):
        with pytest.raises(Exception, match="'norm'.* must "):
            FaceEmbedderConfig(thresholds={**THRESHOLDS, "norm": wrong})


@pytest.mark.parametrize("batch_size", [1, 3])
def test_pipelines_set_aside_too(folder, batch_size, caplog):
    photos = [draw((50, 30), person=person) for person in range(3)]
    embed = pipeline("face-embedding", model=str(folder), device="cpu")
    assert all(0 < faces[0]["quality"] < 1 for faces in embed(photos, batch_size=batch_size))
    assert embed(photos, batch_size=batch_size, min_quality=1.0) == [[], [], []]
    assert "1 of 1 faces set aside, quality 0." in caplog.text
    verify = pipeline("face-verification", model=str(folder), device="cpu")
    assert 0 < verify((photos[0], photos[1]))["quality"] < 1
    with pytest.raises(InputError, match="photo 0 of a pair: quality 0"):
        verify((photos[0], photos[1]), min_quality=1.0)


def test_an_index_takes_no_poor_faces(caplog):
    index = EmbeddingIndex()
    poor = index.add(np.eye(3, dtype=np.float32), ["Ann", "Bob", "Cem"], ["a", "b", "c"], [0.9, 0.1, float("nan")])
    assert poor == [1, 2] and index.names == ["Ann"] and index.files == ["a"]
    assert "2 of 3 faces set aside" in caplog.text and "b, c" in caplog.text
    assert index.add(np.eye(3, dtype=np.float32), ["Bob"] * 3, qualities=[0.1] * 3, min_quality=0) == []
    assert index.add(np.eye(3, dtype=np.float32), ["Dan"] * 3, qualities=[0.1] * 3) == [0, 1, 2]
    assert len(index) == 4 and "Dan" not in index
