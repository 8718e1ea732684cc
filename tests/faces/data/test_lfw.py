import hashlib
import json

import datasets
import numpy as np
import pytest

from hfembed.errors import InputError
from hfembed.faces.data.landmarks import read_landmarks
from hfembed.faces.data.lfw import lfw_people_in_folds, load_lfw, read_pairs
from tests.faces.data.conftest import encode, write_folder, write_tar, write_zip

VIEW_2 = "2\t1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tCy\t1\nBob_Ray\t1\t2\nBob_Ray\t2\tDee\t13\n"
FILES = [
    f"{person}/{person}_{n:04d}.jpg"
    for person, count in (("Ann_Lee", 3), ("Bob_Ray", 2), ("Cy", 1))
    for n in range(1, count + 1)
]


def write(path, text):
    path.write_text(text)
    return path


@pytest.fixture(params=["tgz", "tar.gz", "zip", "folder", "folder of a folder"])
def source(request, tmp_path, photos):
    if request.param == "zip":
        return write_zip(tmp_path / "any.zip", photos)
    if request.param.startswith("folder"):
        folder = tmp_path / "images"
        write_folder(folder if request.param == "folder" else folder / "lfw-deepfunneled", photos)
        return folder
    return write_tar(tmp_path / f"any.{request.param}", photos, top="lfw_funneled/")


def test_every_layout_gives_the_same_data_set(source, photos, tmp_path):
    landmarks = {FILES[0]: [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]], FILES[1]: None}
    faces = load_lfw(source, landmarks=write(tmp_path / "landmarks.json", json.dumps(landmarks)))
    assert faces["file"][:] == FILES
    assert faces.features["label"].names == ["Ann_Lee", "Bob_Ray", "Cy"]
    assert faces["label"][:] == [0, 0, 0, 1, 1, 2]
    assert faces["landmarks"][:] == [landmarks[FILES[0]], None, None, None, None, None]
    assert faces[3]["image"].size == (40, 40)
    stored = faces.cast_column("image", datasets.Image(decode=False))[3]["image"]
    assert stored["bytes"] in (None, photos[FILES[3]]), "the encoded bytes are kept as they are"


def test_the_same_source_has_the_same_fingerprint_until_it_changes(source, photos, tmp_path):
    first = load_lfw(source)._fingerprint
    assert load_lfw(source)._fingerprint == first
    if source.is_dir():
        (next(source.rglob(FILES[0]))).write_bytes(encode(99))
    else:
        kind = write_zip if source.suffix == ".zip" else write_tar
        kind(source, {**photos, FILES[0]: encode(99)})
    assert load_lfw(source)._fingerprint != first


def test_pairs_in_folds_with_missing_photos(tmp_path, photos):
    path = write(tmp_path / "pairs.txt", VIEW_2)
    pairs = read_pairs(path)
    assert pairs.view == 2 and len(pairs) == 4
    assert pairs.same.tolist() == [True, False, True, False] and pairs.fold.tolist() == [0, 0, 1, 1]
    assert pairs.file_b[3] == "Dee/Dee_0013.jpg" and "Cy/Cy_0001.jpg" in pairs.files
    assert lfw_people_in_folds(pairs, [1]) == {"Bob_Ray", "Dee"}
    rows = load_lfw(write_tar(tmp_path / "lfw.tgz", photos), "pairs", pairs=path)
    assert rows.column_names == ["image_a", "image_b", "same", "fold", "file_a", "file_b"]
    assert rows[3]["image_b"] is None and rows[3]["image_a"].size == (40, 40)
    assert rows["same"][:] == pairs.same.tolist() and rows["fold"][:] == pairs.fold.tolist()


def test_view_1(tmp_path):
    pairs = read_pairs(write(tmp_path / "pairsDevTest.txt", "2\nA\t1\t2\nB\t1\t2\nA\t1\tB\t1\nA\t2\tB\t2\n\n"))
    assert pairs.view == 1 and pairs.same.tolist() == [True, True, False, False] and set(pairs.fold) == {0}


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "line 1: expected"),
        ("hello\n", "line 1: expected"),
        ("1\t1\nAnn\t1\t2\n", "announces 2 pairs, found 1"),
        ("1\t1\nAnn\t1\nAnn\t1\tBob\t1\n", 'line 2: expected a person and two photo numbers, not "Ann 1"'),
        ("1\t1\nAnn\t1\t2\nAnn\t1\t3\n", "line 3: expected two people"),
        ("1\t1\nAnn\tone\t2\nAnn\t1\tBob\t3\n", "line 2: photo numbers are whole numbers"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, text, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        read_pairs(write(tmp_path / "mine.txt", text))
    assert "mine.txt" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("{", "cannot be read"),
        ("[1]", "expected"),
        ('{"A/A_0001.jpg": [[1, 2]]}', "A/A_0001.jpg"),
        ('{"A/A_0001.jpg": [[1, 2], [3, 2], [2, 3], [1, 4], [3, NaN]]}', "A/A_0001.jpg"),
        ('{"A/A_0001.jpg": [[1, 2], [3, 2], [2, 3], [1, 4], [3, 1e999]]}', "A/A_0001.jpg"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_landmarks_are_named(tmp_path, text, complaint):
    with pytest.raises(InputError, match=complaint):
        read_landmarks(write(tmp_path / "landmarks.json", text))


def test_parquet_in_the_public_layouts(tmp_path, photos):
    """What a repository on the Hub looks like once it is here: Parquet with columns of other names."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    columns = {
        "img": [{"bytes": encoded, "path": file.split("/")[1]} for file, encoded in photos.items()],
        "identity": [file.split("/")[0].replace("_", " ") for file in photos],
    }
    features = datasets.Features({"img": datasets.Image(), "identity": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / "train.parquet")
    faces = load_lfw(folder)
    assert faces["file"][:] == FILES and faces.features["label"].names == ["Ann_Lee", "Bob_Ray", "Cy"]


def test_pairs_in_parquet(tmp_path, photos):
    images = [{"bytes": encoded, "path": None} for encoded in list(photos.values())[:5]] * 4
    columns = {"image1": images, "image2": images[::-1], "target": [1, 0] * 10}
    features = datasets.Features(
        {"image1": datasets.Image(), "image2": datasets.Image(), "target": datasets.Value("int64")}
    )
    (tmp_path / "mirror").mkdir()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "mirror" / "lfw.parquet")
    pairs = load_lfw(tmp_path / "mirror", "pairs")
    assert pairs["same"][:] == [True, False] * 10
    assert pairs["fold"][:] == sorted(list(range(10)) * 2), "without folds: consecutive tenths"
    assert pairs[0]["image_a"].size == (40, 40)
    with pytest.raises(InputError, match="no column for the photos; it has image1, image2"):
        load_lfw(tmp_path / "mirror")


def test_a_url_needs_its_checksum_and_keeps_to_it(tmp_path, photos):
    archive = write_tar(tmp_path / "lfw.tgz", photos)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert len(load_lfw(f"{archive.as_uri()}#sha256={sha256}")) == 6
    archive.unlink()
    assert len(load_lfw(f"{archive.as_uri()}#sha256={sha256}")) == 6, "fetched once, then from the cache"
    other = write_tar(tmp_path / "other.tgz", photos, top="x/")
    with pytest.raises(InputError, match="checksum mismatch"):
        load_lfw(f"{other.as_uri()}#sha256={'0' * 64}")
    with pytest.raises(InputError, match="add its checksum"):
        load_lfw(other.as_uri())
    with pytest.raises(InputError, match="download failed"):
        load_lfw(f"{archive.as_uri()}#sha256={'1' * 64}")


def test_bad_sources_are_one_line(tmp_path, photos):
    torn = tmp_path / "torn.tgz"
    torn.write_bytes(write_tar(tmp_path / "whole.tgz", photos).read_bytes()[:-700])
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "strange", {"Ann/holiday.jpg": encode(1)})
    for source, complaint in [
        (torn, "torn.tgz.*damaged"),
        (tmp_path / "empty", "contains no photos"),
        (tmp_path / "missing.tgz", "is not a file, folder"),
        (tmp_path / "strange", "Person_0001.jpg"),
    ]:
        with pytest.raises(InputError, match=complaint) as error:
            load_lfw(source)
        assert "\n" not in str(error.value)


@pytest.mark.data
def test_the_real_lfw(research_data):
    """All pairs are covered by the archive; the folds' people are disjoint in View 2."""
    faces = load_lfw(research_data / "lfw" / "lfw-a.tgz", landmarks=research_data / "lfw" / "landmarks.json")
    assert len(faces) == 13233 and faces.features["label"].num_classes == 5749
    known = set(faces["file"][:])
    for name, count in (("pairs.txt", 6000), ("pairsDevTrain.txt", 2200), ("pairsDevTest.txt", 1000)):
        pairs = read_pairs(research_data / "lfw" / name)
        assert len(pairs) == count and set(pairs.files) <= known and pairs.same.mean() == 0.5
    pairs = read_pairs(research_data / "lfw" / "pairs.txt")
    assert np.bincount(pairs.fold).tolist() == [600] * 10
    folds = [lfw_people_in_folds(pairs, [fold]) for fold in range(10)]
    assert sum(map(len, folds)) == len(set().union(*folds))


def test_pairs_of_some_folds(tmp_path):
    pairs = read_pairs(write(tmp_path / "pairs.txt", VIEW_2))
    second = pairs.in_folds([1])
    assert set(second.fold) == {1} and len(second) == (pairs.fold == 1).sum()
    assert lfw_people_in_folds(second, [1]) == lfw_people_in_folds(pairs, [1])
    with pytest.raises(InputError, match="no fold 7"):
        pairs.in_folds([7])
