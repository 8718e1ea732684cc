"""Reads photos laid out as a folder per person: from the folder itself, a tar or a zip, without unpacking."""

import hashlib
import os
import re
import tarfile
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import datasets
import torch
from datasets.exceptions import DatasetGenerationError

from hfembed.errors import InputError

ARCHIVE_SUFFIXES = (".tgz", ".tar.gz", ".tar", ".tar.xz", ".tar.bz2", ".zip")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")

_PHOTOS = datasets.Features({"image": datasets.Image(), "file": datasets.Value("string")})


def read_person_folders(source: str | Path) -> datasets.Dataset:
    """Read `<anything>/<Person>/<photo>` from a folder or an archive.

    An archive is read once, front to back, into the Arrow cache of `datasets` (the encoded bytes as they are, nothing
    is decoded); a folder's photos stay where they are. A changed archive or folder has another fingerprint.

    Args:
        source: A folder, or a .tgz, .tar.gz, .tar or .zip. What lies above the person folders is free.

    Returns:
        Columns `image` and `file` ("Person/photo.jpg").

    Raises:
        InputError: Unreadable archive, no photos, photos outside of person folders, one person under two names.
    """
    source = Path(source)
    if source.is_dir():
        paths = sorted(_photo_paths(source))
        files = _person_and_photo(paths, source)
        places = [str(source / path) for path in paths]
        photos = datasets.Dataset.from_dict({"image": places, "file": files}, features=_PHOTOS)
        stats = [os.stat(place) for place in places]
        state = repr([(file, stat.st_size, stat.st_mtime_ns) for file, stat in zip(files, stats, strict=True)])
        fingerprint = hashlib.sha256(f"{source.resolve()}{state}".encode()).hexdigest()[:16]
        photos = datasets.Dataset(photos.data, info=photos.info, fingerprint=fingerprint)
    else:
        stat = source.stat()
        try:
            photos = datasets.Dataset.from_generator(
                _read_archive,
                features=datasets.Features({"image": datasets.Image(), "path": datasets.Value("string")}),
                gen_kwargs={"archive": str(source.resolve()), "version": (stat.st_size, stat.st_mtime_ns)},
            )
        except DatasetGenerationError as error:
            reason = error.__cause__ or error
            if isinstance(reason, tarfile.TarError | zipfile.BadZipFile | EOFError | zlib.error):
                raise InputError(f'"{source}" is not a whole archive ({reason}): fetch it again') from error
            raise
        files = _person_and_photo(photos["path"][:], source)
        photos = photos.remove_columns("path").add_column("file", files)
    return photos


def check_person_names(people: Iterable[str], source: str | Path) -> None:
    """Refuse one person under two spellings (case, Unicode form, blanks for underscores).

    Raises:
        InputError: Names the two spellings.
    """
    spellings: dict[str, str] = {}
    for person in sorted(set(people)):
        plain = re.sub(r"[\s_]+", "_", unicodedata.normalize("NFKC", person)).casefold()
        other = spellings.setdefault(plain, person)
        if other != person:
            raise InputError(f'{source}: "{other}" and "{person}" look like one person: join them, or rename one')


def download(url: str, sha256: str) -> Path:
    """Fetch a file once; what does not have the right checksum is never kept.

    Args:
        url: Where it is.
        sha256: Its SHA-256, 64 hexadecimal digits.

    Returns:
        Its place in the cache of `datasets`.

    Raises:
        InputError: It cannot be fetched, or is not the file that was meant.
    """
    folder = Path(datasets.config.DOWNLOADED_DATASETS_PATH)
    path = folder / f"{sha256}-{PurePosixPath(url).name}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256.lower())
        except RuntimeError as error:
            raise InputError(f"{url}: wrong checksum, not the file that was meant ({error})") from error
        except OSError as error:
            raise InputError(f"{url}: cannot be fetched ({error})") from error
    return path


def _photo_paths(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = (Path(parent) / name).relative_to(folder).as_posix()
            if _is_photo(path):
                yield path


def _is_photo(path: str) -> bool:
    parts = PurePosixPath(path).parts
    # hidden files, among them the "._x.jpg" that one system's archiver adds beside every x.jpg
    hidden = any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in parts)
    return path.lower().endswith(IMAGE_SUFFIXES) and not hidden


def _read_archive(archive: str, version: tuple[int, int]) -> Iterator[dict[str, object]]:
    """`version` is not used here: it makes `datasets` read a changed archive anew."""
    if archive.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                if _is_photo(name):
                    yield {"image": {"path": name, "bytes": opened.read(name)}, "path": name}
        return
    with tarfile.open(archive, "r|*") as opened:
        for member in opened:
            if member.isfile() and _is_photo(member.name):
                encoded = opened.extractfile(member).read()
                yield {"image": {"path": member.name, "bytes": encoded}, "path": member.name}


def _person_and_photo(paths: Sequence[str], source: Path) -> list[str]:
    """From "top/Person/photo.jpg" to "Person/photo.jpg", after checking that the layout is what it seems."""
    if not paths:
        raise InputError(f'"{source}" holds no photos: expected a folder per person with image files in it')
    split = [PurePosixPath(path).parts for path in paths]
    depths = {len(parts): path for parts, path in zip(split, paths, strict=True)}
    if min(depths) < 2:
        raise InputError(f'{source}: "{depths[min(depths)]}" lies in no person\'s folder')
    if len(depths) > 1:
        raise InputError(
            f'{source}: "{depths[min(depths)]}" and "{depths[max(depths)]}" lie at different depths: '
            "expected <Person>/<photo> for all of them"
        )
    parents = defaultdict(set)
    for parts in split:
        parents[parts[-2]].add("/".join(parts[:-1]))
    for person, places in parents.items():
        if len(places) > 1:
            first, second = sorted(places)[:2]
            raise InputError(f'{source}: "{person}" is there twice, "{first}" and "{second}": join or rename them')
    check_person_names(parents, source)
    return ["/".join(parts[-2:]) for parts in split]
