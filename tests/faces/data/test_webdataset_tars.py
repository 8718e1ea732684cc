"""Webdataset shards by an index of offsets: the same rows as `datasets` and tarfile find in them."""

import io
import json
import tarfile

import datasets
import numpy as np
import pytest

from hfembed.errors import InputError
from hfembed.faces.data.faces import load_faces
from hfembed.faces.data.webdataset_tars import expand_braces, read_tar
from tests.faces.data.conftest import encode


def write_shard(path, members, form=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if data is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(data)
            archive.addfile(member, io.BytesIO(data or b""))
    return path


def samples(count, **more):
    members = [("folder", None)]
    for number in range(count):
        members += [(f"{number:06d}.jpg", encode(number)), (f"{number:06d}.cls", b"%d" % (number % 3))]
        members += [(f"{number:06d}.{name}", value) for name, value in more.items()]
    return members


def stored(faces):
    return [row["image"]["bytes"] for row in faces.cast_column("image", datasets.Image(decode=False))]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["", "a.b/" + 40 * "long/", 30 * "Дом/"])
def test_offsets_are_tarfiles(tmp_path, form, folder):
    if folder and form == tarfile.USTAR_FORMAT and not folder.isascii():
        folder = 20 * "Дом/"
    members = [(folder + name, data) for name, data in samples(5, txt=b"a word")]
    path = write_shard(tmp_path / "shard.tar", members, form)
    photos = read_tar(path)
    with tarfile.open(path) as opened:
        files = {member.name: member for member in opened if member.isfile()}
    assert photos.keys.to_pylist() == [name[:-4] for name in files if name.endswith(".jpg")]
    for key, start, size in zip(photos.keys.to_pylist(), photos.starts, photos.sizes, strict=True):
        assert (start, size) == (files[f"{key}.jpg"].offset_data, files[f"{key}.jpg"].size)
    assert photos.fields["cls"].to_pylist() == [b"0", b"1", b"2", b"0", b"1"]


def test_the_rows_of_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr("hfembed.faces.data.webdataset_tars._BLOCK", 3000)  # headers and photos cross the blocks
    for number in range(3):
        write_shard(tmp_path / f"part{number}.tar", [(f"{number}{name}", data) for name, data in samples(7)])
    pattern = str(tmp_path / "part{0..2}.tar")
    faces = load_faces(pattern)
    theirs = datasets.load_dataset("webdataset", data_files=expand_braces(pattern), split="train")
    theirs = theirs.cast_column("jpg", datasets.Image(decode=False))
    key = {f"{row['cls']}/{row['__key__']}": row["jpg"]["bytes"] for row in theirs}
    assert dict(zip(faces["file"][:], stored(faces), strict=True)) == key
    assert faces["file"][:] == sorted(key) and faces.features["label"].names == ["0", "1", "2"]
    streamed = list(load_faces(pattern, streaming=True))
    assert {row["file"] for row in streamed} == set(key)


def test_people_and_landmarks_in_json(tmp_path):
    points = [[float(x), 2.0] for x in range(5)]
    said = json.dumps({"identity": "Zoë", "file": "Zoë/1.jpg", "landmarks": points}).encode()
    path = write_shard(tmp_path / "a.tar", [("1.png", encode(1, kind="PNG")), ("1.json", said)])
    faces = load_faces(path)
    assert faces.features["label"].names == ["Zoë"] and faces["file"][:] == ["Zoë/1.jpg"]
    assert faces[0]["landmarks"] == points
    # a folder per person, in a folder of tars
    write_shard(tmp_path / "b.tar", [("Ann/1.jpg", encode(1)), ("Bob/2.jpg", encode(2))])
    (tmp_path / "a.tar").unlink()
    assert load_faces(tmp_path).features["label"].names == ["Ann", "Bob"]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("1.jpg", b"x"), ("1.json", b"[")], r"a.tar: the .json of 1 cannot be read"),
        ([("1.jpg", b"x"), ("1.json", b"[]")], "is not a JSON object"),
        ([("1.jpg", b"x"), ("1.json", b'{"label": 1.5}')], "has identity '1.5'"),
        ([("1.jpg", b"x"), ("1.json", b'{"label": "a", "landmarks": [[1]]}')], "no five finite"),
        ([("1.jpg", b"x"), ("1.cls", b"1"), ("2.jpg", b"x")], "2 has no .cls, and others have one"),
        ([("1.jpg", b"x"), ("1.cls", b"\xff")], "a .cls is not text"),
        ([("1.jpg", b"x"), ("1.cls", b"1" * 2_000_000)], "the .cls at byte 1,536 has 2,000,000 bytes"),
        ([("1.cls", b"1")], "contains no photos"),
    ],
)
def test_samples_that_cannot_be_understood(tmp_path, members, said):
    with pytest.raises(InputError, match=said) as error:
        load_faces(write_shard(tmp_path / "a.tar", members))
    assert "\n" not in str(error.value)


@pytest.mark.attack
def test_any_cut_is_an_error(tmp_path):
    path = write_shard(tmp_path / "a.tar", samples(2), tarfile.PAX_FORMAT)
    whole = path.read_bytes()
    end = whole.rstrip(b"\0")
    for place in range(1, len(end), 97):
        path.write_bytes(whole[:place])
        with pytest.raises(InputError, match=r"a\.tar"):
            read_tar(path)
        changed = bytearray(whole)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        try:
            photos = read_tar(path)
        except InputError:
            continue
        assert (photos.starts + photos.sizes <= len(whole)).all()


def test_braces():
    assert expand_braces("part{0..3}.tar") == ["part0.tar", "part1.tar", "part2.tar", "part3.tar"]
    assert expand_braces("{a,b}{08..10}") == ["a08", "a09", "a10", "b08", "b09", "b10"]
    assert expand_braces("no{braces}") == ["no{braces}"]
    for pattern in ("{0..999999999999}", "{0..9999}{0..9999}"):
        with pytest.raises(InputError, match="more than 100,000 files"):
            expand_braces(pattern)
    assert np.array(expand_braces("{3..1}")).tolist() == ["3", "2", "1"]
