"""Mutated images, archives of people, landmarks."""

import io
import json
import tarfile
import zipfile

import datasets
import numpy as np
import pytest
from PIL import Image

from hfembed.cli.swap import read_points
from hfembed.faces.data.faces import load_faces
from hfembed.faces.data.landmarks import read_landmarks
from hfembed.faces.data.person_folders import _read_archive
from hfembed.photos import open_photo
from tests.faces.data.record_files import write_records
from tests.fuzz.fuzzing import fuzz, mutate_bytes, mutate_json_text, put


def encode(format, size=(24, 20), **options):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "HEIF"])
def test_images(format):
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    content = encode(format)

    def try_case(rng):
        photo = open_photo(mutate_bytes(content, rng))
        assert photo.mode == "RGB" and photo.width * photo.height < 60_000_000

    fuzz(format, 400, try_case)


def archive(kind):
    stream = io.BytesIO()
    photos = {f"{person}/{number}.jpg": encode("JPEG", quality=20) for person in "ab" for number in range(2)}
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in photos.items():
                opened.writestr(name, content)
    else:
        with tarfile.open(fileobj=stream, mode="w:gz" if kind == "tgz" else "w") as opened:
            for name, content in photos.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                opened.addfile(member, io.BytesIO(content))
    return stream.getvalue(), photos


@pytest.mark.parametrize("kind", ["zip", "tgz", "tar"])
def test_archives_are_whole_or_refused(tmp_path, kind):
    content, photos = archive(kind)

    def try_case(rng):
        path = put(tmp_path / f"a.{kind}", mutate_bytes(content, rng))
        read = {row["path"]: row["image"]["bytes"] for row in _read_archive(str(path), (0, 0))}
        # a plain .tar has a checksum for its headers only
        assert read == photos or kind == "tar", "read as another archive, without an error"

    assert fuzz(f".{kind}", 500, try_case)["refused"]


@pytest.mark.parametrize("kind", ["rec", "tar"])
def test_photos_in_larger_files(tmp_path, kind):
    """Read in place, by offsets: what is not refused lies inside of the file."""
    photo = encode("JPEG", quality=20)
    if kind == "rec":
        content = (write_records(tmp_path / "set", [[photo, photo], [photo]], index=False) / "train.rec").read_bytes()
    else:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as opened:
            for name, data in [("1.jpg", photo), ("1.cls", b"7"), ("2.jpg", photo), ("2.json", b'{"identity": "a"}')]:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                opened.addfile(member, io.BytesIO(data))
        content = stream.getvalue()

    def try_case(rng):
        changed = mutate_bytes(content, rng)
        faces = load_faces(put(tmp_path / kind / f"a.{kind}", changed))
        images = faces.cast_column("image", datasets.Image(decode=False))["image"]
        assert all(image["bytes"] in changed for image in images)

    (tmp_path / kind).mkdir()
    fuzz(f".{kind}", 150, try_case)


def test_landmarks(tmp_path):
    points = [[float(x), float(x + 1)] for x in range(5)]
    content = {"a/0.jpg": points, "a/1.jpg": None, "b/0.jpg": points}

    def try_case(rng):
        for found in read_landmarks(put(tmp_path / "a.json", mutate_json_text(content, rng))).values():
            assert found is None or (found.shape == (5, 2) and np.isfinite(found).all())

    assert fuzz("landmarks", 500, try_case)["refused"]


def test_points_of_a_swap(tmp_path):
    content = {"a.jpg": [[[float(x), 1.0] for x in range(5)]]}

    def try_case(rng):
        path = put(tmp_path / "a.json", mutate_json_text(content, rng))
        assert np.isfinite(np.array(read_points(str(path), "a.jpg"), dtype=np.float64)).all()

    assert json.dumps(content) and fuzz("points", 500, try_case)["refused"]
