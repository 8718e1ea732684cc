"""Photos laid out as one folder per person: in a folder, a tar or a zip, without unpacking."""

import bz2
import gzip
import hashlib
import itertools
import logging
import lzma
import os
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import datasets
import torch
from datasets.exceptions import DatasetGenerationError

from hfembed.errors import InputError
from hfembed.hub.dataset import PhotoFeature
from hfembed.models.image_opening import MAX_FILE_BYTES
from hfembed.photos import PHOTO_SUFFIXES, PhotoListing, find_photos, is_hidden, utf8_name

logger = logging.getLogger(__name__)

ARCHIVE_SUFFIXES = (".tgz", ".tar.gz", ".tar", ".tar.xz", ".tar.bz2", ".zip")
MAX_MEMBERS = 20_000_000
# photos hardly compress: what unpacks to more than this many times its size, and more than this, is a bomb
MAX_EXPANSION = 100
MIN_UNPACKED_BYTES = 1 << 30

_PHOTOS = datasets.Features({"image": PhotoFeature(), "file": datasets.Value("string")})
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, OSError),
    *(UnicodeDecodeError, struct.error),
)


def read_person_folders(source: str | Path, *, follow_links: bool = True) -> datasets.Dataset:
    """Read `<anything>/<Person>/<photo>` from a folder or an archive.

    An archive is read once, from start to end, into the Arrow cache of `datasets`: the encoded bytes, nothing is
    decoded. A folder's photos stay where they are. A changed archive or folder has another fingerprint.

    Returns:
        Columns `image` and `file` ("Person/photo.jpg").

    Raises:
        InputError: A damaged archive or one that unpacks to too much, no photos, photos outside of person folders,
            one person under two names.
    """
    source = Path(source)
    if source.is_dir():
        listing = find_photos(source, follow_links=follow_links)
        files = _person_and_photo(listing.names, source)
        # Arrow holds UTF-8 alone: a photo whose path is not UTF-8 is stored by its bytes
        images = [
            str(path) if utf8_name(path) == path.as_posix() else {"bytes": path.read_bytes(), "path": None}
            for path in listing.photos
        ]
        photos = datasets.Dataset.from_dict({"image": images, "file": files}, features=_PHOTOS)
        stats = [os.stat(path) for path in listing.photos]
        state = repr([(file, found.st_size, found.st_mtime_ns) for file, found in zip(files, stats, strict=True)])
        fingerprint = hashlib.sha256(f"{utf8_name(source.resolve())}{state}".encode()).hexdigest()[:16]
        return datasets.Dataset(photos.data, info=photos.info, fingerprint=fingerprint)
    found = source.stat()
    try:
        photos = datasets.Dataset.from_generator(
            _read_archive,
            features=datasets.Features({"image": datasets.Image(), "path": datasets.Value("string")}),
            gen_kwargs={"archive": str(source.resolve()), "version": (found.st_size, found.st_mtime_ns)},
        )
    except DatasetGenerationError as error:
        reason = error.__cause__ or error
        if isinstance(reason, InputError):
            raise InputError(str(reason)) from error
        if isinstance(reason, (*_DAMAGE, RuntimeError)):
            raise InputError(f'"{source}" is damaged or not an archive ({reason}); download it again') from error
        raise
    files = _person_and_photo(photos["path"][:], source)
    # features that come from the cache of `datasets` are its own
    return photos.remove_columns("path").cast_column("image", PhotoFeature()).add_column("file", files)


def check_tar(archive: str | Path) -> None:
    """Read a tar to its end, so that a damaged one is refused; readers of other packages take damage for the end.

    Raises:
        InputError: It is damaged, or unpacks to too much.
    """
    try:
        for _ in _tar_photos(str(archive), PhotoListing(Path(archive))):
            pass
    except _DAMAGE as error:
        raise InputError(f'"{archive}" is damaged or not an archive ({error}); download it again') from error


def check_person_names(people: Iterable[str], source: str | Path) -> None:
    """Refuse two spellings of one name (case, Unicode form, spaces for underscores).

    Raises:
        InputError: Names the two spellings.
    """
    names = set(people)
    if all(name.isascii() and name.isdecimal() for name in names):
        return
    spellings: dict[str, str] = {}
    for person in sorted(names):
        plain = re.sub(r"[\s_]+", "_", unicodedata.normalize("NFKC", person)).casefold()
        other = spellings.setdefault(plain, person)
        if other != person:
            raise InputError(f'{source}: "{other}" and "{person}" look like the same person; merge them or rename one')


def download(url: str, sha256: str) -> Path:
    """Fetch a file once; what does not have the right checksum is never kept.

    Args:
        sha256: Its SHA-256, 64 hexadecimal digits.

    Raises:
        InputError: The download fails, or the checksum differs.
    """
    folder = Path(datasets.config.DOWNLOADED_DATASETS_PATH)
    path = folder / f"{sha256}-{PurePosixPath(url).name}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256.lower())
        except RuntimeError as error:
            raise InputError(f"{url}: checksum mismatch ({error})") from error
        except OSError as error:
            raise InputError(f"{url}: download failed ({error})") from error
    return path


def _read_archive(archive: str, version: tuple[int, int]) -> Iterator[dict[str, object]]:
    """Yield the photos, and read all else to its end too, so that every checksum is compared.

    `version` is not used here: it makes `datasets` read a changed archive anew.
    """
    listing = PhotoListing(Path(archive))
    photos = _zip_photos if archive.lower().endswith(".zip") else _tar_photos
    for name, encoded in photos(archive, listing):
        name = utf8_name(name)
        yield {"image": {"path": name, "bytes": encoded}, "path": name}
    if listing.skipped:
        logger.warning("%s", listing.summary())


def _zip_photos(archive: str, listing: PhotoListing) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        # zipfile skips entries whose lengths are damaged, and says nothing
        counted = zipfile._EndRecData(opened.fp)[zipfile._ECD_ENTRIES_TOTAL]  # type: ignore[attr-defined]
        if len(members) != counted:
            raise zipfile.BadZipFile(f"it lists {len(members)} of {counted} files")
        limit = _unpacked_limit(archive)
        if sum(member.file_size for member in members) > limit or len(members) > MAX_MEMBERS:
            raise _too_large(archive, limit)
        for member in members:
            is_file = not member.is_dir() and not stat.S_ISLNK(member.external_attr >> 16)
            with opened.open(member) as file:
                if _is_wanted(member.filename, is_file, member.file_size, archive, listing):
                    yield member.filename, file.read()
                else:
                    while file.read(1 << 20):
                        pass


def _tar_photos(archive: str, listing: PhotoListing) -> Iterator[tuple[str, bytes]]:
    with _decompressed(archive) as file:
        stream = _BoundedStream(file, archive)
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:", tarinfo=CheckedTarInfo) as opened:
            for number in itertools.count(1):
                member = opened.next()
                opened.members = []  # type: ignore[attr-defined]  # tarfile keeps them all otherwise
                if member is None:
                    break
                if number > MAX_MEMBERS:
                    raise InputError(f'"{archive}" has more than {MAX_MEMBERS:,} members')
                is_file = member.isfile() and not member.issparse()
                if _is_wanted(member.name, is_file, member.size, archive, listing, is_folder=member.isdir()):
                    encoded = cast(IO[bytes], opened.extractfile(member)).read()
                    if len(encoded) != member.size:
                        raise tarfile.ReadError(f"{utf8_name(member.name)} is cut short")
                    yield member.name, encoded
            while rest := stream.read(1 << 20):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("data after the end-of-archive marker")


def _is_wanted(
    name: str, is_file: bool, size: int, archive: str, listing: PhotoListing, is_folder: bool = False
) -> bool:
    if any(is_hidden(part) for part in PurePosixPath(name).parts) or is_folder or name.endswith("/"):
        return False
    if not name.lower().endswith(PHOTO_SUFFIXES):
        listing.skipped.setdefault("files without the suffix of a photo", []).append(utf8_name(name))
        return False
    if not is_file:
        listing.skipped.setdefault("links and special files", []).append(utf8_name(name))
        return False
    if size > MAX_FILE_BYTES:
        raise InputError(f'"{archive}": {utf8_name(name)} has {size:,} bytes, more than {MAX_FILE_BYTES:,}')
    return True


class CheckedTarInfo(tarfile.TarInfo):
    """A tar header whose damage is an error: tarfile itself takes a damaged header for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: Any) -> "CheckedTarInfo":
        """Read the next header."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged header at byte {tarfile_.offset:,}: {error}") from error

    def _proc_member(self, tarfile_: Any) -> Any:
        # long names and extended attributes: read into memory whole by tarfile
        if self.type in b"xgXLK" and self.size > 1 << 20:
            raise tarfile.ReadError(f"an extended header of {self.size:,} bytes")
        return super()._proc_member(tarfile_)  # type: ignore[misc]


class _BoundedStream:
    """A decompressed file that is read from start to end, up to a limit, in little memory."""

    def __init__(self, file: IO[bytes], archive: str) -> None:
        self.file = file
        self.archive = archive
        self.limit = _unpacked_limit(archive)
        self.position = 0

    def read(self, size: int) -> bytes:
        block = self.file.read(size)
        self.position += len(block)
        if self.position > self.limit:
            raise _too_large(self.archive, self.limit)
        return block

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> None:
        if position < self.position:
            raise tarfile.ReadError(f"a member at byte {position:,}, which was passed")
        while self.position < position and self.read(min(position - self.position, 1 << 20)):
            pass


def _decompressed(archive: str) -> IO[bytes]:
    with open(archive, "rb") as file:
        start = file.read(6)
    for magic, opener in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open)):
        if start.startswith(magic):
            return opener(archive, "rb")  # type: ignore[return-value]
    return open(archive, "rb")


def _unpacked_limit(archive: str) -> int:
    return max(MAX_EXPANSION * os.path.getsize(archive), MIN_UNPACKED_BYTES)


def _too_large(archive: str, limit: int) -> InputError:
    return InputError(f'"{archive}" unpacks to more than {limit:,} bytes')


def _person_and_photo(paths: Sequence[str], source: Path) -> list[str]:
    """From "top/Person/photo.jpg" to "Person/photo.jpg", after checking that the layout is what it seems."""
    if not paths:
        raise InputError(f'"{source}" contains no photos; expected one folder per person with image files in it')
    split = [PurePosixPath(path).parts for path in paths]
    depths = {len(parts): path for parts, path in zip(split, paths, strict=True)}
    if min(depths) < 2:
        raise InputError(f'{source}: "{depths[min(depths)]}" is not inside a person folder; expected <Person>/<photo>')
    if len(depths) > 1:
        raise InputError(
            f'{source}: "{depths[min(depths)]}" and "{depths[max(depths)]}" are at different depths; '
            "expected <Person>/<photo> for all of them"
        )
    parents = defaultdict(set)
    for parts in split:
        parents[parts[-2]].add("/".join(parts[:-1]))
    for person, places in parents.items():
        if len(places) > 1:
            first, second = sorted(places)[:2]
            raise InputError(f'{source}: duplicate person "{person}" in "{first}" and "{second}"; merge or rename')
    check_person_names(parents, source)
    return ["/".join(parts[-2:]) for parts in split]
