"""navec's `.tar` (github.com/natasha/navec) -> a checkpoint folder, product-quantized as the file is."""

import gzip
import json
import tarfile
from pathlib import Path
from typing import IO

import numpy as np

from hfembed.atomic import atomic_folder
from hfembed.convert.foreign_checkpoint import reading
from hfembed.convert.vector_files import refuse_other_kinds
from hfembed.models.word2vec.configuration_word2vec import MOST_CENTROIDS
from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import TextRules, Vocabulary

_PROTOCOL = 1
_LONGEST_META, _LARGEST_VOCABULARY = 1 << 16, 256 << 20


def convert_navec(source: str | Path, folder: str | Path) -> Word2VecModel:
    """Make a checkpoint folder from a file of navec; its words are lowercase.

    Raises:
        InputError: The file is damaged or of another format.
        OSError: It does not exist, or the folder cannot be written.
    """
    source = Path(source)
    refuse_other_kinds(source, "a navec .tar")
    with reading(source, "navec .tar"):
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
        rules = TextRules(lowercase=True, word_pattern=r"[\w-]+")
        model = Word2VecModel.from_quantized(Vocabulary(words, counts, rules), codes, centroids)
    with atomic_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
    return model


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    member = archive.getmember(name)
    file = archive.extractfile(member) if member.isreg() else None
    if file is None or member.issparse():  # a sparse one is as large as it says, not as the file is
        raise ValueError(f"its {name} is not a file")
    return file


def _read_words(file: IO[bytes]) -> tuple[list[str], np.ndarray]:
    with gzip.GzipFile(fileobj=file) as stream:
        content = stream.read(_LARGEST_VOCABULARY + 1)
    if len(content) > _LARGEST_VOCABULARY:
        raise ValueError("its vocab.bin decompresses to more than 256 MB")
    (size,) = np.frombuffer(content[:4], "<u4")
    if 4 + 5 * int(size) > len(content) + 1:
        raise ValueError(f"its vocab.bin declares {size} words, more than it can hold")
    counts = np.frombuffer(content, "<u4", size, 4).astype(np.int64)
    text = content[4 + 4 * int(size) :]
    if (found := text.count(b"\n") + 1) != size:  # before they are taken apart
        raise ValueError(f"its vocab.bin has {found} words and {size} counts")
    words = text.decode("utf-8").split("\n")
    if not all(words) or len(set(words)) < len(words):
        raise ValueError("a word of its vocab.bin is empty, or in it twice")
    return words, counts


def _read_quantized(file: IO[bytes], size: int) -> tuple[np.ndarray, np.ndarray]:
    rows, dimension, parts, centroids = (int(n) for n in np.frombuffer(file.read(16), "<u4", 4))
    if not (parts and dimension and dimension % parts == 0 and 1 <= centroids <= MOST_CENTROIDS):
        raise ValueError(f"its pq.bin declares {parts} parts and {centroids} centroids of {dimension} dimensions")
    if size != 16 + rows * parts + dimension * centroids * 4:
        raise ValueError(f"its pq.bin of {size} bytes does not fit {rows} vectors of {dimension} dimensions")
    codes = np.frombuffer(file.read(rows * parts), np.uint8).reshape(rows, parts).copy()
    table = np.frombuffer(file.read(dimension * centroids * 4), "<f4").reshape(parts, centroids, -1).copy()
    return codes, table
