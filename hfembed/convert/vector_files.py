"""What a file of word vectors is by its first bytes, to say which command reads it."""

import gzip
import re
import struct
import tarfile
import zlib
from pathlib import Path

from hfembed.errors import InputError
from hfembed.models.word2vec.fasttext_format import MAGIC

_READERS = {
    "a fastText .bin": "use hfembed convert fasttext",
    "a floret table": "use hfembed convert floret",
    "a navec .tar": "use hfembed convert navec",
    "a pickle file": "pickle files are not loaded; with gensim save it by save_word2vec_format or save_facebook_model",
    "a zip archive (as of torch.save or numpy.savez)": "export the vectors in word2vec's format",
    "an HTML page": "the download failed: fetch it again",
    "a tar archive": "unpack it first",
    "a file of safetensors": "if it is a checkpoint of hfembed or sentence-transformers, give its folder",
}
_GENSIM_SUFFIXES = (".kv", ".model", ".pkl")  # its pickle files, whatever they begin with


def refuse_other_kinds(path: Path, expected: str) -> None:
    """Refuse a file that is recognized as something else than expected.

    Raises:
        InputError: It says what the file is and what reads it.
    """
    kind = describe_vector_file(path)
    if kind is not None and kind != expected:
        raise InputError(f"{path} is {kind}: {_READERS[kind]}")


def describe_vector_file(path: Path) -> str | None:
    """What a file is, one of a few kinds, or `None` for another (the text formats among them)."""
    start = _first_bytes(path)
    if len(start) >= 4 and struct.unpack("<i", start[:4])[0] == MAGIC:
        return "a fastText .bin"
    if re.match(rb"(\d+ ){6}\S+ \S+\r?\n", start):
        return "a floret table"
    if start[257:262] == b"ustar" or path.suffix == ".tar":
        return "a navec .tar" if _is_navec(path) else "a tar archive"
    if path.suffix in _GENSIM_SUFFIXES or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        return "a pickle file"
    if start[:4] == b"PK\x03\x04":
        return "a zip archive (as of torch.save or numpy.savez)"
    if start.lstrip()[:9].lower() in (b"<!doctype", b"<html") or start.lstrip()[:5].lower() == b"<html":
        return "an HTML page"
    if start[8:9] == b"{" and path.suffix == ".safetensors":
        return "a file of safetensors"
    return None


def _first_bytes(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(512)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return b""


def _is_navec(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:") as archive:
            names = [member.name for member, _ in zip(archive, range(8), strict=False)]
    except (tarfile.TarError, OSError, ValueError):
        return False
    return {"meta.json", "pq.bin", "vocab.bin"} <= set(names)
