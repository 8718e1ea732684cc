import io
import tarfile
import zipfile

import datasets
import numpy as np
import PIL.Image
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Every test reads its sources anew, and leaves the user's cache alone."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "cache" / "downloads")
    datasets.disable_progress_bars()


def encode(color: int, size: tuple[int, int] = (40, 40), kind: str = "JPEG") -> bytes:
    """A picture that differs by `color`, smooth so that JPEG keeps it."""
    x = np.linspace(0, 100, size[0])[None, :, None] + np.linspace(0, 50, size[1])[:, None, None]
    pixels = (x + np.array([color, 2 * color, 3 * color]) % 100).astype(np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


PEOPLE = {"Ann_Lee": 3, "Bob_Ray": 2, "Cy": 1}


def person_photos(people: dict[str, int] = PEOPLE) -> dict[str, bytes]:
    """ "Person/Person_0001.jpg" -> the encoded picture, in an order that is not sorted."""
    files = [f"{person}/{person}_{n + 1:04d}.jpg" for person, count in people.items() for n in range(count)]
    return {file: encode(7 * number) for number, file in reversed(list(enumerate(files)))}


@pytest.fixture
def photos() -> dict[str, bytes]:
    return person_photos()


def write_folder(folder, photos):
    for file, encoded in photos.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(encoded)
    return folder


def write_tar(path, photos, top="lfw/"):
    with tarfile.open(path, "w:gz" if str(path).endswith("gz") else "w") as archive:
        for file, encoded in photos.items():
            member = tarfile.TarInfo(top + file)
            member.size = len(encoded)
            archive.addfile(member, io.BytesIO(encoded))
    return path


def write_zip(path, photos, top="anything/"):
    with zipfile.ZipFile(path, "w") as archive:
        for file, encoded in photos.items():
            archive.writestr(top + file, encoded)
    return path
