import pytest

from hfembed.errors import InputError
from hfembed.faces.swap.person_crops import load_people
from tests.faces.data.conftest import person_photos, write_folder


@pytest.fixture
def people(tmp_path):
    return write_folder(tmp_path / "people", person_photos())


def test_a_folder_is_a_person(people):
    photos = load_people([people / "Cy", people / "Ann_Lee"])
    assert photos.features["label"].names == ["Cy", "Ann_Lee"]
    assert photos["label"][:] == [0, 1, 1, 1]
    assert photos["file"][:2] == ["Cy/Cy_0001.jpg", "Ann_Lee/Ann_Lee_0001.jpg"]
    assert photos[0]["image"].size == (40, 40) and photos["landmarks"][:] == [None] * 4


def test_folders_below_belong_to_it_and_some_can_be_left_out(people):
    assert len(load_people([people])) == 6
    left = load_people([people], exclude_files=["Ann_Lee/Ann_Lee_0002.jpg"], exclude_people=["Bob_Ray"])
    assert left["file"][:] == [
        "people/Ann_Lee/Ann_Lee_0001.jpg",
        "people/Ann_Lee/Ann_Lee_0003.jpg",
        "people/Cy/Cy_0001.jpg",
    ]


def test_landmarks_hold_for_all_and_change_the_fingerprint(people):
    points = [[1.0, 2.0]] * 5
    photos = load_people([people / "Cy"], landmarks=points)
    assert photos[0]["landmarks"] == points
    assert photos._fingerprint != load_people([people / "Cy"])._fingerprint
    assert photos._fingerprint == load_people([people / "Cy"], landmarks=points)._fingerprint


def test_bad_folders_are_named(people, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "Cy").mkdir(parents=True)
    for folders, words in [
        ([people / "Dora"], "Dora"),
        ([people / "Cy", tmp_path / "empty"], "empty.*no photos"),
        ([people / "Cy", tmp_path / "other" / "Cy"], 'duplicate folder name "Cy"'),
    ]:
        with pytest.raises(InputError, match=words):
            load_people(folders)
