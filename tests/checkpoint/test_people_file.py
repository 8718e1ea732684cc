"""The names of very many people lie beside config.json, and only who asks for them reads them."""

import pytest

from hfembed import FaceEmbedderModel
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.people_file import write_people
from hfembed.errors import InputError
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification

TINY = {
    "trunk": "iresnet",
    "trunk_arguments": {"depths": [1], "widths": [4]},
    "image_size": [8, 8],
    "embedding_size": 4,
    "head": "arcface",
}


def test_a_million_people_are_a_number_in_the_config(tmp_path):
    model = FaceEmbedderForClassification(FaceEmbedderConfig(**TINY, num_labels=1_000_000))
    model.save_pretrained(tmp_path)
    names = [f"Person {label}" for label in range(999_999)] + ["Ödön\nÜ \udc80"]
    write_people(tmp_path / "people.txt", names)
    assert (tmp_path / "config.json").stat().st_size < 4000
    loaded = FaceEmbedderForClassification.from_pretrained(tmp_path)
    assert loaded.config.num_labels == len(loaded.classifier.weight) == 1_000_000
    assert loaded.config.id2label is None
    people = Checkpoint.resolve(tmp_path).people
    assert people[:-1] == names[:-1] and people[-1] == "Ödön Ü \\udc80"
    loaded.replace_head(num_labels=3)
    assert loaded.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"} and loaded.config.num_people is None
    assert FaceEmbedderModel.from_pretrained(tmp_path, num_labels=5).config.num_labels == 5


@pytest.mark.parametrize(
    ("content", "line"),
    [(None, "lacks people.txt"), (b"A\nB\n", "2 names of 20,000 people"), (b"\xff\n" * 20_000, "not UTF-8")],
)
def test_damaged_names_are_one_line(content, line, tmp_path):
    FaceEmbedderModel(FaceEmbedderConfig(**TINY, num_labels=20_000)).save_pretrained(tmp_path)
    if content is not None:
        (tmp_path / "people.txt").write_bytes(content)
    with pytest.raises(InputError, match=line):
        _ = Checkpoint.resolve(tmp_path).people
