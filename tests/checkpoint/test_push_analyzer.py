"""A face analyzer travels as one repository: the embedder's checkpoint with the detector's in a folder."""

import numpy as np

from tests.faces.conftest import analyzer, draw, folder  # noqa: F401


def push_and_load(folder):  # noqa: F811
    from hfembed import FaceAnalyzer

    pushed = FaceAnalyzer.from_pretrained(folder, "cpu").push_to_hub("ann/analyzer", private=True)
    loaded = FaceAnalyzer.from_pretrained("ann/analyzer", "cpu")
    from tests.faces.conftest import draw

    face = loaded(draw((50, 30), person=3))[0].faces[0]
    return pushed.url, face.embedding.tolist(), loaded.detector.config.min_face_size


def test_an_analyzer_goes_to_the_hub_and_comes_back(hub, client, analyzer, folder):  # noqa: F811
    url, embedding, min_face_size = client(push_and_load, folder=str(folder))
    assert url == f"{hub.url}/ann/analyzer" and min_face_size == 40
    expected = analyzer(draw((50, 30), person=3))[0].faces[0].embedding
    np.testing.assert_allclose(embedding, expected, atol=1e-4)
