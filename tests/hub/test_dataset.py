"""What a data set from outside may name, and what is published of it."""

import tarfile
import zipfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.utils.extract import ExtractManager
from huggingface_hub import constants

from hfembed.errors import InputError
from hfembed.faces.data.faces import load_faces
from hfembed.faces.data.lfw import load_lfw
from hfembed.hub.dataset import OwnFiles, Part, _write_shards, check_dataset_card
from tests.faces.data.conftest import encode, own_cache, write_folder  # noqa: F401


def write_rows(path, images, columns=("image",), typed=False, label="a"):
    path.parent.mkdir(exist_ok=True)
    rows = {name: images for name in columns} | {"label": [label] * len(images), "same": [1] * len(images)}
    table = pa.table(rows)
    if typed:
        features = datasets.Features({name: datasets.Image() for name in columns})
        features |= {
            "label": datasets.Value("string" if isinstance(label, str) else "int64"),
            "same": datasets.Value("int64"),
        }
        table = table.cast(features.arrow_schema)
    pq.write_table(table, path)
    return path


@pytest.mark.attack
@pytest.mark.parametrize("typed", [True, False], ids=["typed", "untyped"])
@pytest.mark.parametrize("kind", ["absolute", "relative", "link", "http", "hop"])
def test_a_row_cannot_name_a_foreign_file(tmp_path, kind, typed):
    secret = tmp_path / "id_rsa"
    secret.write_bytes(encode(3))
    for folder in ("set", "pairs", "numbered"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "link.jpg").symlink_to(secret)
    named = {
        "absolute": str(secret),
        "relative": "../id_rsa",
        "link": "link.jpg",
        "http": "http://127.0.0.1:9/a.jpg",
        "hop": f"zip://a.jpg::{secret}",
    }[kind]
    images = [{"bytes": encode(1), "path": "a.jpg"}, {"bytes": None, "path": named}]
    path = write_rows(tmp_path / "set" / "train.parquet", images, typed=typed)
    for source in (path, tmp_path / "set", str(tmp_path / "set" / "*.parquet")):
        with pytest.raises(InputError, match="not part of the data set"):
            load_faces(source)
    path = write_rows(tmp_path / "numbered" / "train.parquet", images, typed=typed, label=7)
    with pytest.raises(InputError, match="not part of the data set"):
        list(load_faces(path, streaming=True))
    path = write_rows(tmp_path / "pairs" / "train.parquet", images, ("img1", "img2"), typed)
    with pytest.raises(InputError, match="not part of the data set"):
        load_lfw(path, "pairs")


def test_text_columns_and_files_beside_the_rows(tmp_path):
    path = write_rows(tmp_path / "set" / "train.parquet", ["photos/a.jpg"])
    write_folder(tmp_path / "set" / "photos", {"a.jpg": encode(1)})
    assert load_faces(path)[0]["image"].size == (40, 40)
    path = write_rows(tmp_path / "other" / "train.parquet", ["/etc/hostname"])
    with pytest.raises(InputError, match="/etc/hostname.*not part of the data set"):
        load_faces(path)


@pytest.mark.attack
@pytest.mark.parametrize("streaming", [False, True])
def test_rows_decode_with_the_formats_of_photos_alone(tmp_path, streaming):
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    images = [{"bytes": encode(1), "path": "a.jpg"}, {"bytes": postscript, "path": "b.jpg"}]
    faces = load_faces(write_rows(tmp_path / "train.parquet", images, typed=True, label=7), streaming=streaming)
    assert isinstance(faces.features["image"], datasets.Image)
    rows = iter(faces)
    assert next(rows)["image"].size == (40, 40)
    with pytest.raises(InputError, match="not an image"):
        next(rows)
    folder = write_folder(tmp_path / "people", {"Ann/1.jpg": encode(1), "Ann/2.jpg": postscript})
    with tarfile.open(tmp_path / "people.tar", "w") as archive:
        archive.add(folder, "people")
    other = write_folder(tmp_path / "other", {"Bob/1.jpg": encode(1)})
    for source in (folder, tmp_path / "people.tar", tmp_path / "people.tar", [folder, other]):
        with pytest.raises(InputError, match="not an image"):
            load_faces(source)[1]["image"]


@pytest.mark.attack
def test_files_of_a_hub_repository(monkeypatch, tmp_path):
    own = OwnFiles("ann/faces")
    url = "hf://datasets/ann/faces@0123/a.jpg"
    for ours in (url, f"zip://a/b.jpg::{url}", f"tar://b.tar::gzip://::{url}"):
        assert own.resolve(ours) == ours
    protocols = ("file:///etc/passwd", "local:///etc/passwd", "http://x/a", "simplecache://", "zip://a::file:///etc")
    for other in (
        *("hf://datasets/bob/faces@0123/a.jpg", "/etc/passwd", f"{url}::file:///etc/passwd"),
        *(f"{protocol}::{url}" for protocol in protocols),
    ):
        with pytest.raises(InputError, match="not part"):
            own.resolve(other)


@pytest.mark.attack
def test_of_unpacked_archives_only_its_own_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", str(tmp_path / "extracted"))
    photos = {}
    for name in ("ann", "bob"):
        archive = tmp_path / "hub" / f"datasets--{name}--faces" / "snapshots" / "0123" / "photos.zip"
        archive.parent.mkdir(parents=True)
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("a.jpg", encode(1))
        photos[name] = str(Path(ExtractManager(str(tmp_path)).extract(str(archive)), "a.jpg"))
    own = OwnFiles("ann/faces")
    assert own.resolve(photos["ann"]) == photos["ann"]
    with pytest.raises(InputError, match="not part"):
        own.resolve(photos["bob"])


@pytest.mark.attack
@pytest.mark.parametrize("place", ["/etc/*.parquet", "https://example.com/a.parquet", "../*.parquet", "zip://a::b"])
@pytest.mark.parametrize("file", ["README.md", ".huggingface.yaml"])
def test_a_card_cannot_name_foreign_data(tmp_path, place, file):
    folder = tmp_path / "set"
    write_rows(folder / "train.parquet", [{"bytes": encode(1), "path": "a.jpg"}])
    notes = f'configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: "{place}"\n'
    (folder / file).write_text(f"---\n{notes}---\n# Faces\n" if file == "README.md" else notes)
    with pytest.raises(InputError, match=f"{file} names the file"):
        load_faces(folder)
    (folder / file).write_text((folder / file).read_text().replace(place, "*.parquet"))
    check_dataset_card(str(folder))


@pytest.mark.attack
def test_only_decoded_images_are_published(tmp_path):
    faces = load_faces(write_folder(tmp_path / "people", {"Ann/1.jpg": encode(1), "Bob/1.jpg": encode(2)}))
    (shard,) = _write_shards(Part(faces), tmp_path / "shards")
    rows = pq.read_table(shard).to_pylist()
    assert [row["image"] for row in rows] == [{"bytes": encode(n), "path": "1.jpg"} for n in (1, 2)]
    assert str(tmp_path).encode() not in shard.read_bytes()
    (tmp_path / "people" / "Bob" / "1.jpg").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    with pytest.raises(InputError, match="Bob/1.jpg: not an image"):
        _write_shards(Part(faces), tmp_path / "again")
