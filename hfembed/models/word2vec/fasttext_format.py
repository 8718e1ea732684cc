"""fastText's `.bin` and `.ftz` files: words, their own rows and those of n-gram buckets, and output rows.

The layout is that of fastText's `FastText::saveModel` (versions 11 and 12, and the files without a version before it;
version 12 is written).
Nothing is allocated that the file cannot hold, and a damaged file is refused by name.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .subwords import LONGEST_NGRAM, MOST_BUCKETS
from .word2vec_format import BoundedStream

MAGIC = 793712314
_VERSIONS = (11, 12)
_CBOW, _SKIP_GRAM, _SUPERVISED = 1, 2, 3
_NEGATIVE_SAMPLING = 2
_CENTROIDS = 256
_LONGEST_WORD_BYTES, _PIECE = 4096, 8 << 20
_MOST_DECODED = 8 << 30  # bytes
_LARGEST_DIMENSION = 100_000
_WORD_BYTES = 10  # the shortest entry: an empty word's end, a count, a type


@dataclass(frozen=True)
class FastTextFile:
    """What a file holds.

    Attributes:
        words: In the order of the rows.
        counts: int64 (words,).
        vectors: The words' own rows, float32 (words, dimensions).
        ngram_vectors: float32 (rows, dimensions); `None` for a model without n-grams.
        ngram_positions: Of a pruned file the row of each bucket, int32 (buckets,), -1 for none.
        output: Output rows, float32 (words, dimensions), where they are of negative sampling and not quantized.
        config: Fields of `Word2VecConfig`.
    """

    words: list[str]
    counts: np.ndarray
    vectors: np.ndarray
    ngram_vectors: np.ndarray | None
    ngram_positions: np.ndarray | None
    output: np.ndarray | None
    config: dict[str, Any]


def read_fasttext(path: str | Path, with_output: bool = True) -> FastTextFile:
    """Read a file of fastText, also with .gz.

    Args:
        with_output: Read the output rows too.

    Raises:
        ValueError: One line that says what is wrong with the file, or that it is of a supervised model.
        FileNotFoundError: There is no such file.
    """
    with BoundedStream(Path(path)) as stream:
        return _Reader(stream).read(with_output)


def write_fasttext(path: str | Path, file: FastTextFile) -> None:
    """Write a `.bin` that fastText and gensim load, as after training by negative sampling.

    Args:
        file: `ngram_positions` are of every bucket. Without `output` the output rows are 0.

    Raises:
        ValueError: A word that the format cannot hold.
        OSError: It cannot be written.
    """
    config, (num_words, dimension) = file.config, file.vectors.shape
    smallest, largest = config["subwords"] or (0, 0)
    buckets = config["buckets"] if file.ngram_vectors is not None else 0
    kind = _SKIP_GRAM if config["architecture"] == "skip-gram" else _CBOW
    epochs, word_ngrams, update_rate = 5, 1, 100  # fastText's defaults
    with open(path, "wb") as stream:
        stream.write(struct.pack("<4i", MAGIC, _VERSIONS[-1], dimension, config["window"]))
        stream.write(struct.pack("<3i", epochs, config["min_count"], config["negative"]))
        stream.write(struct.pack("<3i", word_ngrams, _NEGATIVE_SAMPLING, kind))
        stream.write(struct.pack("<4id", buckets, smallest, largest, update_rate, config["sample"]))
        stream.write(
            struct.pack("<3i2q", num_words, num_words, 0, int(file.counts.sum()), -1)
        )  # no labels, not pruned
        for word, count in zip(file.words, file.counts.tolist(), strict=True):
            encoded = word.encode()
            if b"\0" in encoded or len(encoded) > _LONGEST_WORD_BYTES:
                raise ValueError(f"the word {word[:40]!r} has a NUL or over {_LONGEST_WORD_BYTES} bytes of UTF-8")
            stream.write(encoded + struct.pack("<xqb", count, 0))
        stream.write(struct.pack("<?2q", False, num_words + buckets, dimension))
        _write_rows(stream, file.vectors)
        if file.ngram_vectors is not None:
            _write_rows(stream, file.ngram_vectors, file.ngram_positions)
        stream.write(struct.pack("<?2q", False, num_words, dimension))
        _write_rows(stream, np.zeros_like(file.vectors) if file.output is None else file.output)


def _write_rows(stream: BinaryIO, matrix: np.ndarray, positions: np.ndarray | None = None) -> None:
    """Rows, or those at the positions, a piece at a time: of 2,000,000 buckets most may share one row."""
    step = max(_PIECE // (4 * matrix.shape[1]), 1)
    for start in range(0, len(matrix if positions is None else positions), step):
        rows = matrix[start : start + step] if positions is None else matrix[positions[start : start + step]]
        stream.write(np.ascontiguousarray(rows, dtype="<f4").data)


class _Reader:
    def __init__(self, stream: BoundedStream):
        self.stream = stream

    def fail(self, reason: str) -> ValueError:
        return ValueError(f"{self.stream.path} cannot be read as a fastText file: {reason}")

    def numbers(self, layout: str) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{layout}")
        return struct.unpack(f"<{layout}", self.bytes(size))

    def bytes(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            more = self.stream.read(size - len(content))
            if not more:
                raise self.fail("it ends too early")
            content += more
        return content

    def array(self, rows: int, columns: int, kind: str = "<f4") -> np.ndarray:
        """A matrix, after a look at whether the file can hold it."""
        size = np.dtype(kind).itemsize
        if rows < 0 or columns < 0 or rows * columns * size > self.stream.left:
            raise self.fail(f"it declares {rows} rows of {columns} numbers, more than it can hold")
        content = np.empty(rows * columns, dtype=kind)
        step = _PIECE // size
        for start in range(0, len(content), step):
            piece = content[start : start + step]
            piece[:] = np.frombuffer(self.bytes(piece.nbytes), dtype=kind)
        return content.reshape(rows, columns)

    def read(self, with_output: bool) -> FastTextFile:
        magic, version = self.numbers("2i")
        versioned = magic == MAGIC
        if versioned and version not in _VERSIONS:
            raise self.fail(f"version {version} is unknown; expected one of {_VERSIONS}")
        dimension, window = self.numbers("2i") if versioned else (magic, version)
        _, min_count, negative, _, loss, kind, buckets, smallest, largest, _ = self.numbers("10i")
        (sample,) = self.numbers("d")
        plausible = 0 < dimension <= _LARGEST_DIMENSION and window >= 0 and kind in (_CBOW, _SKIP_GRAM, _SUPERVISED)
        if not (plausible and negative >= 0 and buckets >= 0 and 0 <= smallest and 0 <= largest):
            raise self.fail("its header is none of fastText's")
        if buckets > MOST_BUCKETS or largest > LONGEST_NGRAM:
            raise self.fail(f"it declares {buckets} buckets of n-grams of up to {largest} characters")
        if kind == _SUPERVISED:
            raise self.fail("it is a supervised model (a text classifier), not word vectors")
        words, counts, pruned = self.read_dictionary(versioned)
        quantized = bool(self.numbers("?")[0]) if versioned else False
        if pruned is not None and not quantized:
            raise self.fail("it is pruned but not quantized, as no fastText writes it")
        num_ngrams = buckets if pruned is None else len(pruned)
        if quantized:
            rows = self.read_quantized(len(words) + num_ngrams, dimension)
            vectors, ngram_vectors = rows[: len(words)].copy(), rows[len(words) :].copy()
        else:
            shape = self.numbers("2q")
            # gensim leaves out the rows of the buckets where n-grams are not used
            if shape not in ((len(words) + num_ngrams, dimension), (len(words), dimension)):
                raise self.fail(f"{len(words)} words and {num_ngrams} buckets do not fit a matrix of shape {shape}")
            vectors = self.array(len(words), dimension)
            ngram_vectors = self.array(shape[0] - len(words), dimension)
        for name, matrix in (("word", vectors), ("n-gram", ngram_vectors)):
            if not np.isfinite(matrix).all():
                raise self.fail(f"the row of a {name} has a number that is not finite")
        positions = None
        if pruned is not None:
            positions = np.full(buckets, -1, dtype=np.int32)
            if len(pruned) and not (
                0 <= pruned[:, 0].min() and pruned[:, 0].max() < buckets
                and 0 <= pruned[:, 1].min() and pruned[:, 1].max() < len(pruned)
            ):  # fmt: skip
                raise self.fail("its table of pruned n-grams points outside")
            positions[pruned[:, 0]] = pruned[:, 1]
        has_ngrams = largest > 0 and buckets > 0 and len(ngram_vectors) > 0
        config = {
            "architecture": "skip-gram" if kind == _SKIP_GRAM else "cbow",
            "window": max(window, 1),
            "negative": negative,
            "sample": sample,
            "ns_exponent": 0.5,  # fastText draws noise words by the square root of their counts
            "min_count": max(min_count, 1),
        }
        if has_ngrams:
            config |= {"subwords": [max(smallest, 1), largest], "buckets": buckets}
        return FastTextFile(
            words,
            counts,
            vectors,
            ngram_vectors if has_ngrams else None,
            positions if has_ngrams else None,
            self.read_output(versioned, vectors.shape) if with_output and loss == _NEGATIVE_SAMPLING else None,
            config,
        )

    def read_dictionary(self, versioned: bool) -> tuple[list[str], np.ndarray, np.ndarray | None]:
        """Words, counts, and the (bucket, row) pairs of a pruned file."""
        size, num_words, num_labels, _ = self.numbers("3iq")
        num_pruned = self.numbers("q")[0] if versioned else -1
        if size < 0 or num_words < 0 or num_labels < 0 or size != num_words + num_labels:
            raise self.fail(f"it declares {size} entries, {num_words} words and {num_labels} labels")
        if size * _WORD_BYTES > self.stream.left:
            raise self.fail(f"it declares {size} words, more than it can hold")
        words: list[str] = []
        counts: list[int] = []
        buffer, position = b"", 0
        for number in range(size):
            while (end := buffer.find(b"\0", position)) < 0 or end + _WORD_BYTES > len(buffer):
                if len(buffer) - position > _LONGEST_WORD_BYTES + _WORD_BYTES:
                    raise self.fail(f"word {number + 1} does not end")
                more = self.stream.read(1 << 16)
                if not more:
                    raise self.fail(f"it ends after {number} of {size} words")
                buffer, position = buffer[position:] + more, 0
            if end - position > _LONGEST_WORD_BYTES:
                raise self.fail(f"word {number + 1} has {end - position} bytes")
            count, kind = struct.unpack_from("<qb", buffer, end + 1)
            if count < 0 or kind not in (0, 1):
                raise self.fail(f"word {number + 1} has the count {count} and the type {kind}")
            if kind == 0:  # not a label
                words.append(buffer[position:end].decode("utf-8", "backslashreplace"))
                counts.append(count)
            position = end + _WORD_BYTES
        self.stream.unread(buffer[position:])
        if len(words) != num_words:
            raise self.fail(f"{len(words)} of its entries are words, not {num_words}")
        if len(set(words)) < len(words):
            raise self.fail("a word is in it twice")
        return words, np.array(counts, dtype=np.int64), None if num_pruned < 0 else self.array(num_pruned, 2, "<i4")

    def read_quantized(self, num_rows: int, dimension: int) -> np.ndarray:
        """Rows of a product-quantized matrix, decoded to float32 (num_rows, dimension)."""
        with_norms, rows, columns, code_size = self.numbers("?2qi")
        if (rows, columns) != (num_rows, dimension):
            raise self.fail(f"a quantized matrix of shape {(rows, columns)} in place of {(num_rows, dimension)}")
        codes = self.array(1, code_size, "u1")[0]
        decoded = self.read_quantizer(codes, num_rows, dimension)
        if with_norms:
            norm_codes = self.array(1, num_rows, "u1")[0]
            decoded *= self.read_quantizer(norm_codes, num_rows, 1)
        return decoded

    def read_quantizer(self, codes: np.ndarray, num_rows: int, dimension: int) -> np.ndarray:
        """Decode product-quantized rows (num_rows, dimension): the centroids come next in the file, part by part."""
        size, parts, part_size, last_size = self.numbers("4i")
        if size != dimension or parts < 1 or part_size < 1 or (parts - 1) * part_size + last_size != dimension:
            raise self.fail(f"{parts} parts of {part_size} and {last_size} numbers do not fit {dimension} dimensions")
        if not 0 < last_size <= part_size or len(codes) != num_rows * parts:
            raise self.fail(f"{len(codes)} codes do not fit {num_rows} rows in {parts} parts")
        if num_rows * dimension * 4 > _MOST_DECODED:
            raise self.fail(f"{num_rows} rows of {dimension} dimensions would take too much memory")
        centroids = self.array(1, dimension * _CENTROIDS)[0]
        codes = codes.reshape(num_rows, parts)
        decoded = np.empty((num_rows, dimension), dtype=np.float32)
        for part in range(parts):
            start = part * part_size
            end = min(start + part_size, dimension)
            table = centroids[start * _CENTROIDS : end * _CENTROIDS].reshape(_CENTROIDS, end - start)
            decoded[:, start:end] = table[codes[:, part]]
        return decoded

    def read_output(self, versioned: bool, expected: Sequence[int]) -> np.ndarray | None:
        if versioned and self.numbers("?")[0]:
            return None
        shape = self.numbers("2q")
        if shape != tuple(expected):
            return None
        output = self.array(*shape)
        if not np.isfinite(output).all():
            raise self.fail("an output row has a number that is not finite")
        if self.stream.read(1):
            raise self.fail("extra data after its matrices")
        return output


__all__ = ["MAGIC", "FastTextFile", "read_fasttext", "write_fasttext"]
