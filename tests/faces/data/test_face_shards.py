"""Conversion: the photos and people of the source, whatever it is; a killed run is continued, byte for byte."""

import hashlib
import json
import os

import datasets
import pytest

from hfembed.errors import InputError
from hfembed.faces.data.face_shards import write_shards
from hfembed.faces.data.faces import load_faces
from hfembed.faces.data.push_dataset import crop_faces
from tests.faces.data.conftest import encode, person_photos, write_folder, write_zip
from tests.faces.data.record_files import write_records

PEOPLE = {"Ann_Lee": 5, "Zoë": 4, "Cy": 3}


def content(faces):
    """(person, photo) of every row, sorted."""
    names = faces.features["label"].names
    rows = faces.cast_column("image", datasets.Image(decode=False))
    read = lambda image: image["bytes"] or open(image["path"], "rb").read()  # noqa: E731
    return sorted((names[row["label"]], read(row["image"])) for row in rows)


@pytest.fixture(params=["folder", "zip", "records", "crops", "saved", "landmarks"])
def source(request, tmp_path):
    """The same kind of data from everywhere, and options to load it."""
    photos = person_photos(PEOPLE)
    folder = write_folder(tmp_path / "people", photos)
    if request.param == "zip":
        return write_zip(tmp_path / "people.zip", photos), {}
    if request.param == "records":
        return write_records(tmp_path / "records", [[encode(9 * a + b) for b in range(4)] for a in range(3)]), {}
    if request.param == "crops":
        crop_faces(load_faces(folder), 32).to_parquet(tmp_path / "crops.parquet")
        return tmp_path / "crops.parquet", {}
    if request.param == "saved":
        load_faces(folder).save_to_disk(tmp_path / "saved")
        return tmp_path / "saved", {}
    if request.param == "landmarks":
        points = {file: [[n, 1], [2, 3], [4, 5], [6, 7], [8, 9]] for n, file in enumerate(photos) if n % 4}
        (tmp_path / "landmarks.json").write_text(json.dumps(points))
        return folder, {"landmarks": tmp_path / "landmarks.json"}
    return folder, {}


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_nothing_changes_on_the_way(source, tmp_path, to):
    faces = load_faces(source[0], **source[1])
    manifest = write_shards(faces, tmp_path / "shards", to, shard_photos=5, seed=3)
    assert (manifest["photos"], manifest["people"], len(manifest["shards"])) == (12, 3, 3)
    for shard in manifest["shards"]:
        stored = (tmp_path / "shards" / shard["name"]).read_bytes()
        assert hashlib.sha256(stored).hexdigest() == shard["sha256"] and len(stored) == shard["bytes"]
    again = load_faces(tmp_path / "shards")
    assert content(again) == content(faces)
    assert again.features["label"].names == faces.features["label"].names
    assert sorted(map(str, again["landmarks"][:])) == sorted(map(str, faces["landmarks"][:]))
    # from one format to the other, and another order
    other = "parquet" if to == "webdataset" else "webdataset"
    write_shards(again, tmp_path / "other", other, shard_photos=7, seed=4)
    assert content(load_faces(tmp_path / "other")) == content(faces)


def shards_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_a_killed_run_is_continued(tmp_path, monkeypatch, to):
    folder = write_records(tmp_path / "records", [[encode(9 * a + b) for b in range(5)] for a in range(4)])
    faces = load_faces(folder)
    write_shards(faces, tmp_path / "whole", to, shard_photos=6)

    class KilledError(Exception):
        pass

    renamed = []

    def replace(self, target):
        if str(target).endswith((".tar", ".parquet")):
            renamed.append(target.name)
            if len(renamed) == 3:
                raise KilledError
        os.replace(self, target)

    monkeypatch.setattr("pathlib.Path.replace", replace)
    with pytest.raises(KilledError):
        write_shards(faces, tmp_path / "killed", to, shard_photos=6)
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").iterdir()}
    assert sorted(name for name in written if name != "progress.json") == renamed[:2]
    with pytest.raises(InputError, match="holds shards of another conversion"):
        write_shards(faces, tmp_path / "killed", to, shard_photos=6, seed=1)
    write_shards(load_faces(folder), tmp_path / "killed", to, shard_photos=6)
    assert shards_of(tmp_path / "killed") == shards_of(tmp_path / "whole")
    assert all((tmp_path / "killed" / name).stat().st_mtime_ns == written[name] for name in renamed[:2])
    assert len(renamed) == 5, "whole shards are not written again"
    with pytest.raises(InputError, match="is not empty"):
        write_shards(faces, folder, to)


def test_the_order_is_shuffled_by_the_seed(tmp_path):
    faces = load_faces(write_folder(tmp_path / "people", person_photos({"A": 20, "B": 20})))
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_shards(faces, tmp_path / name, "parquet", shard_photos=100, seed=seed)
        [shard] = (tmp_path / name).glob("*.parquet")
        orders.append(datasets.Dataset.from_parquet(str(shard), cache_dir=str(tmp_path / "cache"))["file"][:])
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_people_are_kept_together(tmp_path, to):
    people = {"A": 7, "B": 1, "C": 12, "D": 5, "E": 3}
    faces = load_faces(write_folder(tmp_path / "people", person_photos(people)))
    orders = []
    for seed in (0, 1):
        folder = tmp_path / f"{to}{seed}"
        manifest = write_shards(faces, folder, to, shard_photos=6, by_person=True, seed=seed)
        assert content(load_faces(folder)) == content(faces)
        order = []
        for shard in manifest["shards"]:
            one = load_faces(folder / shard["name"])
            assert len(one) == shard["photos"] == sum(people[name] for name in one.features["label"].names)
            order.append(one.features["label"].names)
        assert len(order) > 1 and sum(map(len, order)) == len(people), "nobody is in two shards"
        orders.append(order)
    assert orders[0] != orders[1]
    with pytest.raises(InputError, match="holds shards of another conversion"):
        write_shards(faces, folder, to, shard_photos=6, seed=1)
