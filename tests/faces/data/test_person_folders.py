"""Archives and folders of people: whole or refused, in bounded memory; the same folder rule as everywhere."""

import gzip
import io
import os
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfembed.errors import InputError
from hfembed.faces.data import person_folders
from hfembed.faces.data.faces import load_faces
from hfembed.faces.data.person_folders import _DAMAGE, _read_archive, read_person_folders
from tests.faces.data.conftest import encode, write_folder, write_tar, write_zip


def flip(path, place, bit=1):
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(bytes(content))


def test_a_flipped_bit_in_a_tar_header(tmp_path, photos):
    path = write_tar(tmp_path / "people.tar", photos)
    assert len(read_person_folders(path)) == 6
    with tarfile.open(path) as opened:
        third = opened.getmembers()[2].offset
    flip(path, third + 5)
    with pytest.raises(InputError, match=f"people.tar.*damaged header at byte {third:,}"):
        read_person_folders(path)


@pytest.mark.parametrize("keep", [-1024, -10 * 1024, -4])
def test_a_tar_that_is_cut(tmp_path, photos, keep):
    path = write_tar(tmp_path / "people.tar", photos)
    with tarfile.open(path) as opened:
        end = opened.getmembers()[-1]
    # at the end of the last photo, in the middle of the archive, and in the last photo
    size = {-1024: end.offset_data + -(-end.size // 512) * 512, -10 * 1024: end.offset, -4: end.offset_data + 9}[keep]
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match="people.tar.*download it again"):
        read_person_folders(path)


def test_checksums_of_gzip_and_zip(tmp_path, photos):
    path = write_tar(tmp_path / "people.tgz", photos)
    flip(path, len(path.read_bytes()) - 6)
    with pytest.raises(InputError, match="people.tgz.*CRC"):
        read_person_folders(path)
    path = write_zip(tmp_path / "people.zip", photos | {"notes/about.txt": b"hello, this is a note"})
    flip(path, path.read_bytes().index(b"this is a note"))
    with pytest.raises(InputError, match="people.zip.*CRC"):
        read_person_folders(path)


def test_no_flipped_bit_in_the_list_of_a_zip_loses_a_photo_silently(tmp_path, caplog):
    """Exhaustive: a damaged length makes zipfile skip entries, a damaged UTF-8 name cannot be decoded."""
    names = ("Ann/1.jpg", "Bo/é.jpg", "Bo/2.jpg")
    content = write_zip(tmp_path / "whole.zip", {name: b"photo" for name in names}).read_bytes()
    path = tmp_path / "people.zip"
    for place in range(content.index(b"PK\1\2"), len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            caplog.clear()
            try:
                read = list(_read_archive(str(path), (0, 0)))
            except (*_DAMAGE, RuntimeError, InputError):
                continue
            assert len(read) == 3 or "skipped" in caplog.text, (place, bit)
            assert all(row["image"]["bytes"] == b"photo" for row in read), (place, bit)


def test_data_after_the_end(tmp_path, photos):
    path = write_tar(tmp_path / "people.tar", photos)
    path.write_bytes(path.read_bytes() + write_tar(tmp_path / "more.tar", {"Dee/1.jpg": encode(3)}).read_bytes())
    with pytest.raises(InputError, match="after the end-of-archive"):
        read_person_folders(path)


@pytest.mark.attack
def test_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(person_folders, "MIN_UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "bomb.tgz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("a/Ann/1.jpg")
        member.size = 4 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(InputError, match="bomb.tgz.*unpacks to more than"):
        read_person_folders(path)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/Ann/1.jpg", bytes(4 << 20))
    with pytest.raises(InputError, match="bomb.zip.*unpacks to more than"):
        read_person_folders(tmp_path / "bomb.zip")
    monkeypatch.setattr(person_folders, "MAX_FILE_BYTES", 1000)
    path = write_tar(tmp_path / "large.tar", {"Ann/1.jpg": bytes(2000)})
    with pytest.raises(InputError, match=r"Ann/1.jpg has 2,000 bytes"):
        read_person_folders(path)
    monkeypatch.setattr(person_folders, "MAX_MEMBERS", 2)
    path = write_tar(tmp_path / "many.tar", {f"Ann/{n}.jpg": b"x" for n in range(3)})
    with pytest.raises(InputError, match="more than 2 members"):
        read_person_folders(path)


@pytest.mark.attack
def test_a_long_name_is_not_read_into_memory(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
    path = tmp_path / "long.tgz"
    with gzip.open(path, "wb") as file:
        file.write(header.tobuf() + bytes(header.size))
    with pytest.raises(InputError, match="extended header of 67,108,864 bytes"):
        read_person_folders(path)


def test_a_person_who_is_a_link_and_names_that_are_not_utf8(tmp_path, photos):
    folder = write_folder(tmp_path / "people", photos)
    elsewhere = write_folder(tmp_path / "elsewhere", {"1.jpg": encode(9)})
    (folder / "Dee").symlink_to(elsewhere)
    with open(os.fsencode(folder) + b"/Cy/caf\xe9.jpg", "wb") as file:
        file.write(encode(8))
    faces = load_faces(folder)
    assert "Dee/1.jpg" in faces["file"][:] and r"Cy/caf\xe9.jpg" in faces["file"][:]
    assert all(row["image"].size == (40, 40) for row in faces)
    assert "Dee" not in load_faces(folder, follow_links=False).features["label"].names


def test_a_damaged_webdataset(tmp_path):
    content = {f"{n}.{kind}": data for n in range(4) for kind, data in (("jpg", encode(n)), ("cls", b"1"))}
    path = write_tar(tmp_path / "shard.tar", content, top="")
    assert len(load_faces(path)) == 4
    with tarfile.open(path) as opened:
        flip(path, opened.getmembers()[4].offset + 150)
    with pytest.raises(InputError, match="shard.tar.*damaged header"):
        load_faces(path)


@pytest.mark.parametrize(
    "stray", ["out.parquet", "Ann/old.parquet", "backup.tar", ".cache/x.parquet", "broken.parquet"]
)
def test_a_stray_table_or_archive_leaves_a_folder_of_people_as_it_is(tmp_path, photos, stray):
    folder = write_folder(tmp_path / "people", photos)
    (folder / stray).parent.mkdir(exist_ok=True)
    if stray.endswith(".tar"):
        write_tar(folder / stray, photos)
    elif stray == "broken.parquet":
        (folder / stray).write_text("x")
    else:
        pq.write_table(pa.table({"file": ["a"], "embedding": [[0.1]]}), folder / stray)
    assert len(load_faces(folder)) == len(photos)
