"""A face analyzer travels as one repository: the embedder's checkpoint with the detector's in a folder."""

import shutil

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


def push_twice(folder):  # noqa: F811
    from huggingface_hub import HfApi
    from transformers import pipeline

    import hfembed.faces.pipelines  # noqa: F401
    from hfembed import FaceAnalyzer
    from hfembed.checkpoint.checkpoint import Checkpoint

    Checkpoint.resolve(folder).write_note("training.json", {"name": "squares"})
    first = FaceAnalyzer.from_pretrained(folder, "cpu").push_to_hub("ann/analyzer", private=True)
    again = FaceAnalyzer.from_pretrained("ann/analyzer", "cpu")
    same = again.push_to_hub("ann/analyzer", private=True)
    notes = Checkpoint.resolve("ann/analyzer").training.get("name")
    again.detector.config.min_face_size = 60
    again.push_to_hub("ann/analyzer", private=True)
    sizes = [
        pipeline("face-embedding", model="ann/analyzer", revision=revision, device="cpu").analyzer.detector
        for revision in (None, first.commit)
    ]
    sizes += [FaceAnalyzer.from_pretrained("ann/analyzer", "cpu", revision=first.commit).detector]
    sizes += [FaceAnalyzer.from_pretrained(f"ann/analyzer@{first.commit}", "cpu").detector]
    files = HfApi().list_repo_files("ann/analyzer")
    return [size.config.min_face_size for size in sizes], same.changed, notes, files


def test_notes_stay_and_the_detector_is_of_the_revision_asked_for(hub, client, folder, tmp_path):  # noqa: F811
    shutil.copytree(folder, tmp_path / "analyzer")
    sizes, changed, notes, files = client(push_twice, folder=str(tmp_path / "analyzer"))
    assert sizes == [60, 40, 40, 40] and not changed and notes == "squares"
    assert {"README.md", "training.json", "detector/model.safetensors"} <= set(files)
