"""navec's `.tar` (github.com/natasha/navec) -> a checkpoint folder, product-quantized as the file is."""

import gzip
import json
import tarfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from hfembed.atomic import atomic_folder
from hfembed.convert.vector_files import refuse_other_kinds
from hfembed.errors import InputError, input_errors
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary

_PROTOCOL = 1
_LONGEST_META, _LARGEST_VOCABULARY = 1 << 16, 1 << 30


def convert_navec(source: str | Path, folder: str | Path) -> Word2VecModel:
    """Make a checkpoint folder from a file of navec; its words are lowercase.

    Raises:
        InputError: The file is damaged or of another format.
        OSError: It does not exist, or the folder cannot be written.
    """
    source = Path(source)
    refuse_other_kinds(source, "a navec .tar")
    try:
        with tarfile.open(source, "r:") as archive:
            meta = json.loads(_member(archive, "meta.json").read(_LONGEST_META))
            if not isinstance(meta, dict) or meta.get("protocol") != _PROTOCOL:
                raise ValueError(f"its meta.json is not of protocol {_PROTOCOL}")
            words, counts = _read_words(_member(archive, "vocab.bin"))
            codes, centroids = _read_quantized(_member(archive, "pq.bin"), archive.getmember("pq.bin").size)
        if len(words) != len(codes):
            raise ValueError(f"{len(words)} words do not fit {len(codes)} vectors")
        if not np.isfinite(centroids).all():
            raise ValueError("a number of it is not finite")
    except (tarfile.TarError, ValueError, KeyError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{source} cannot be read as a navec .tar: {error}") from None
    with input_errors():
        rules = TextRules(lowercase=True, word_pattern=r"[\w-]+")
        model = Word2VecModel.from_quantized(Vocabulary(words, counts, rules), codes, centroids)
    with atomic_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
    return model


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"its {name} is not a file")
    return file


def _read_words(file: IO[bytes]) -> tuple[list[str], np.ndarray]:
    with gzip.GzipFile(fileobj=file) as stream:
        content = stream.read(_LARGEST_VOCABULARY + 1)
    if len(content) > _LARGEST_VOCABULARY:
        raise ValueError("its vocab.bin decompresses to more than 1 GB")
    (size,) = np.frombuffer(content[:4], "<u4")
    if 4 + 5 * int(size) > len(content) + 1:
        raise ValueError(f"its vocab.bin declares {size} words, more than it can hold")
    counts = np.frombuffer(content, "<u4", size, 4).astype(np.int64)
    words = content[4 + 4 * int(size) :].decode("utf-8").split("\n")
    if len(words) != size:
        raise ValueError(f"its vocab.bin has {len(words)} words and {size} counts")
    return words, counts


def _read_quantized(file: IO[bytes], size: int) -> tuple[np.ndarray, np.ndarray]:
    rows, dimension, parts, centroids = (int(n) for n in np.frombuffer(file.read(16), "<u4", 4))
    if not (parts and dimension and dimension % parts == 0 and 1 <= centroids <= 256):
        raise ValueError(f"its pq.bin declares {parts} parts and {centroids} centroids of {dimension} dimensions")
    if size != 16 + rows * parts + dimension * centroids * 4:
        raise ValueError(f"its pq.bin of {size} bytes does not fit {rows} vectors of {dimension} dimensions")
    codes = np.frombuffer(file.read(rows * parts), np.uint8).reshape(rows, parts).copy()
    table = np.frombuffer(file.read(dimension * centroids * 4), "<f4").reshape(parts, centroids, -1).copy()
    return codes, table
