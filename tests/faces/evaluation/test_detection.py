"""LFW from raw photos: the detector finds whom to align."""

import io

import numpy as np
import pytest

from hfembed.errors import InputError
from hfembed.faces.data.lfw import LfwPairs
from hfembed.faces.evaluation.detection import detect_central_faces
from hfembed.faces.evaluation.lfw import LfwVerification
from tests.faces.conftest import analyzer, draw  # noqa: F401


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_the_face_nearest_to_the_middle_counts(analyzer):  # noqa: F811
    photos = {
        "middle": png(draw((10, 10), (66, 40), person=1)),
        "none": png(draw()),
        "broken": b"x",
        "one": png(draw((10, 60), person=2)),
    }
    found = detect_central_faces(analyzer.detector, photos, batch_size=2, num_threads=2, progress=False)
    assert found["middle"].shape == (5, 2) and found["middle"][:, 0].min() > 66
    assert found["none"] == "no face detected" and "not an image" in found["broken"]
    assert found["one"][:, 1].min() > 60
    alone = detect_central_faces(analyzer.detector, {"one": photos["one"]}, progress=False)
    np.testing.assert_allclose(found["one"], alone["one"], atol=1e-3)


def test_lfw_with_a_detector(analyzer, tmp_path):  # noqa: F811
    for person in ("Ann", "Bob"):
        (tmp_path / person).mkdir()
        for number in (1, 2):
            draw((50, 30), person=ord(person[0])).save(tmp_path / person / f"{person}_000{number}.jpg")
    draw().save(tmp_path / "Bob" / "Bob_0002.jpg")
    names = {name: f"{name[:3]}/{name[:3]}_000{name[3]}.jpg" for name in ("Ann1", "Ann2", "Bob1", "Bob2")}
    pairs = LfwPairs(
        [names["Ann1"], names["Bob1"], names["Ann1"], names["Ann2"]],
        [names["Ann2"], names["Bob2"], names["Bob1"], names["Bob1"]],
        np.array([True, True, False, False]),
        np.zeros(4, int),
        1,
    )
    lfw = LfwVerification(tmp_path, pairs, num_workers=0, progress=False, detector=analyzer.detector)
    result = lfw.evaluate(analyzer.embedder, analyzer.embedder_processor)
    assert result.details["failures"] == {names["Bob2"]: "no face detected"}
    assert result.scorer.failed.tolist() == [False, True, False, False]
    assert result.scores[0] == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="either landmarks or a detector"):
        LfwVerification(tmp_path, pairs, landmarks={}, detector=analyzer.detector)
