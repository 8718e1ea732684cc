"""The file formats that word vectors are exchanged in: word2vec text and binary, GloVe text; plain or compressed.

Read as a stream: memory is the matrix, and a damaged file is refused at its first wrong row, never read wrongly.
"""

import bz2
import gzip
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
# vectors shrink to a third; what shrinks to less than 1 % is no file of vectors
_MAX_COMPRESSION, _ALWAYS_UNPACKED = 100, 64 << 20
_BUFFER_BYTES = 8 << 20
_LONGEST_WORD_BYTES = 10_000
_NUMBER_BYTES = 40
_FIRST_LINE_BYTES = 1 << 20
_MOST_EMPTY_LINES = 1000


def read_word2vec_format(
    path: str | Path,
    binary: bool | None = None,
    limit: int | None = None,
    dtype: type = np.float32,
    counts_file: str | Path | None = None,
    unicode_errors: str = "strict",
) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """Read word vectors in word2vec's text or binary format or in GloVe's (text without a header).

    Args:
        path: The file; .gz, .xz and .bz2 are decompressed while reading.
        binary: Which format it is. Default: detected from the first row.
        dtype: Type of the matrix, np.float32 or np.float16.
        counts_file: What word2vec's `-save-vocab` and gensim's `fvocab` write: one word and its count per line.
        unicode_errors: What to do with a word that is not UTF-8, as in `bytes.decode`: word2vec.c cuts long words
            within a character.

    Returns:
        The words; their vectors, of shape (words, dimensions); the counts, int64 of shape (words,), or `None`.

    Raises:
        ValueError: One line that says what is wrong with the file.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    reader = _Reader(path, dtype, limit, unicode_errors)
    with BoundedStream(path) as stream:
        words, vectors = reader.read(stream, binary)
    counts = None if counts_file is None else _read_counts(Path(counts_file), words)
    return words, vectors, counts


class BoundedStream:
    """A file, decompressed while reading, but not without end: a small archive may hold terabytes."""

    def __init__(self, path: Path):
        self.path = path
        self.file: BinaryIO = _OPENERS.get(path.suffix, open)(path, "rb")
        size = path.stat().st_size
        self.most = size * _MAX_COMPRESSION + _ALWAYS_UNPACKED if path.suffix in _OPENERS else size
        self.left = self.most
        self.pending = b""

    def __enter__(self) -> "BoundedStream":
        return self

    def __exit__(self, *details: object) -> None:
        self.file.close()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, none at the end."""
        if self.pending:
            content, self.pending = self.pending[:size], self.pending[size:]
            self.left -= len(content)
            return content
        return self._take(self.file.read, size)

    def unread(self, content: bytes) -> None:
        """Give back what was read too much."""
        self.pending = content + self.pending
        self.left += len(content)

    def readline(self, size: int) -> bytes:
        """Up to `size` bytes of a line."""
        return self._take(self.file.readline, size)

    def _take(self, method: Callable[[int], bytes], size: int) -> bytes:
        try:
            content = method(size)
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise ValueError(f"{self.path} is damaged: {error}") from None
        except OSError as error:
            if error.errno is not None:
                raise
            raise ValueError(f"{self.path} is damaged: {error}") from None  # of bz2
        self.left -= len(content)
        if self.left < 0:
            raise ValueError(
                f"{self.path} decompresses to more than {self.most >> 20} MB, too much for a file of word vectors: "
                "if it is one, decompress it first"
            )
        return content


def write_word2vec_format(
    path: str | Path,
    words: list[str],
    vectors: np.ndarray,
    counts: np.ndarray | None = None,
    binary: bool = False,
    header: bool = True,
    counts_file: str | Path | None = None,
) -> None:
    """Write word vectors as gensim's `save_word2vec_format` does, row by row in the given order.

    Args:
        path: The file to write; a name ending in .gz, .xz or .bz2 is compressed.
        vectors: float of shape (words, dimensions), written as float32.
        counts: int64 of shape (words,); needed for `counts_file`.
        binary: Binary or text. Text keeps every bit: each number is its shortest exact form.
        header: Whether text starts with the numbers of words and dimensions; GloVe's does not.
        counts_file: Also write one word and its count per line.

    Raises:
        ValueError: Words that the format cannot hold, or no counts for `counts_file`.
    """
    path = Path(path)
    if binary and not header:
        raise ValueError("the binary format always has a header")
    # a space ends the word in the file, and a leading line break would be skipped by readers
    broken = next((word for word in words if not word or re.search(r"[ \n\r]", word)), None)
    if broken is not None:
        raise ValueError(
            f"the word {broken!r} cannot be written: in this format words must not be empty or contain spaces"
        )
    with open_to_write(path) as file:
        if header:
            file.write(f"{len(words)} {vectors.shape[1]}\n".encode())
        write_rows(file, words, vectors, binary)
    if counts_file is not None:
        if counts is None:
            raise ValueError("counts cannot be written: they are unknown")
        with open(counts_file, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{word} {count}\n" for word, count in zip(words, counts.tolist(), strict=True))


def read_text_rows(stream: BoundedStream, size: int, dimension: int) -> tuple[list[str], np.ndarray]:
    """Read rows of text below a header: words, and their vectors float32 (size, dimension).

    Raises:
        ValueError: One line that says what is wrong with the file.
    """
    return _Reader(stream.path, np.float32, None, "strict").read_text(stream, size, dimension, b"")


def open_to_write(path: Path) -> BinaryIO:
    """Open a file that its suffix compresses."""
    return _OPENERS.get(path.suffix, open)(path, "wb")


def write_rows(file: BinaryIO, words: list[str], vectors: np.ndarray, binary: bool = False) -> None:
    """Write words with their vectors, float (words, dimensions)."""
    for start in range(0, len(words), 4096):
        rows = np.ascontiguousarray(vectors[start : start + 4096], dtype="<f4")
        parts = []
        for word, row in zip(words[start : start + 4096], rows, strict=True):
            values = row.tobytes() if binary else (" ".join(map(str, row)) + "\n").encode()
            parts.append(word.encode() + b" " + values)
        file.write(b"".join(parts))


class _Reader:
    """One file being read; keeps what the error messages need."""

    def __init__(self, path: Path, dtype: type = np.float32, limit: int | None = None, unicode_errors: str = "strict"):
        self.path = path
        self.dtype = dtype
        self.limit = limit
        self.unicode_errors = unicode_errors
        self.words: list[str] = []
        self.seen: set[str] = set()

    def fail(self, reason: str) -> ValueError:
        return ValueError(f"{self.path} cannot be read as word vectors: {reason}")

    def read(self, stream: BoundedStream, binary: bool | None) -> tuple[list[str], np.ndarray]:
        first = stream.readline(_FIRST_LINE_BYTES).removeprefix(b"\xef\xbb\xbf")
        if not first.strip():
            raise self.fail("it is empty")
        if len(first) >= _FIRST_LINE_BYTES:
            raise self.fail(f"its first line does not end within {_FIRST_LINE_BYTES >> 20} MB")
        header = re.fullmatch(rb"\s*(\d{1,18})\s+(\d{1,18})\s*", first)
        if header is None:
            if binary:
                raise self.fail("it does not start with the numbers of words and dimensions")
            return self.read_glove(stream, first)
        size, dimension = (int(number) for number in header.groups())
        if size == 0 or dimension == 0:
            raise self.fail(f"the header declares {size} words of {dimension} dimensions")
        start = stream.read(_LONGEST_WORD_BYTES + _NUMBER_BYTES * min(dimension, 100_000))
        if binary is None:
            binary = not self.looks_like_text(start, dimension)
        # the smallest row: a one-byte word, a space, and four bytes per number or two characters
        least = size * ((2 + 4 * dimension) if binary else (2 + 2 * dimension))
        if least > stream.most:
            raise self.fail(f"the header declares {size} words of {dimension} dimensions, more than the file can hold")
        if binary:
            return self.read_binary(stream, size, dimension, start)
        return self.read_text(stream, size, dimension, start)

    def looks_like_text(self, start: bytes, dimension: int) -> bool:
        """Whether the first row is text; its word may contain spaces, and one of its numbers may be damaged."""
        line = start.partition(b"\n")[0].rstrip(b"\r")
        numbers = sum(_is_number(field) for field in line.split(b" ")[1:])
        return not re.search(rb"[\x00-\x08\x0e-\x1f]", line) and numbers >= max(1, dimension // 2)

    def add_word(self, raw: bytes) -> None:
        row = len(self.words) + 1
        try:
            word = raw.decode("utf-8", errors=self.unicode_errors)
        except UnicodeDecodeError:
            raise self.fail(
                f"word {row} is not UTF-8 ({raw[:40]!r}): the header is wrong, or unicode_errors='replace' is needed"
            ) from None
        if not word:
            raise self.fail(f"word {row} is empty")
        if word in self.seen:
            raise self.fail(f"the word {word!r} is in it twice (word {self.words.index(word) + 1} and {row})")
        self.seen.add(word)
        self.words.append(word)

    def check_finite(self, vectors: np.ndarray, first_row: int) -> None:
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            row = first_row + int(np.argmin(finite))
            raise self.fail(f"the vector of {self.words[row]!r} (word {row + 1}) has a number that is not finite")

    def allocate(self, rows: int, dimension: int) -> np.ndarray:
        try:
            return np.empty((rows, dimension), dtype=self.dtype)
        except (MemoryError, ValueError):
            raise self.fail(f"{rows} words of {dimension} dimensions do not fit into memory; set a limit") from None

    def read_binary(
        self, stream: BoundedStream, size: int, dimension: int, buffer: bytes
    ) -> tuple[list[str], np.ndarray]:
        wanted = size if self.limit is None else min(size, self.limit)
        matrix = self.allocate(wanted, dimension)
        row_bytes = 4 * dimension
        position = checked = 0
        while len(self.words) < wanted:
            space = buffer.find(b" ", position)
            if space < 0 or space + 1 + row_bytes > len(buffer):
                self.check_finite(matrix[checked : len(self.words)], checked)
                checked = len(self.words)
                if space - position > _LONGEST_WORD_BYTES or (
                    space < 0 and len(buffer) - position > _LONGEST_WORD_BYTES
                ):
                    raise self.fail(
                        f"word {len(self.words) + 1} does not end: the header is wrong, or it is not binary"
                    )
                more = stream.read(max(_BUFFER_BYTES, row_bytes))
                if not more:
                    raise self.fail(f"it ends after {len(self.words)} of the {size} words that the header declares")
                buffer, position = buffer[position:] + more, 0
                continue
            matrix[len(self.words)] = np.frombuffer(buffer, "<f4", dimension, space + 1)
            self.add_word(buffer[position:space].lstrip(b"\n"))
            position = space + 1 + row_bytes
        self.check_finite(matrix[checked:], checked)
        if wanted == size and (buffer[position:] + stream.read(16)).strip():
            raise self.fail(f"extra data after the {size} words that the header declares")
        return self.words, matrix

    def read_glove(self, stream: BoundedStream, first: bytes) -> tuple[list[str], np.ndarray]:
        """Infer the dimension from the first lines: words may contain spaces, and a line may be damaged."""
        start = first + stream.read(_FIRST_LINE_BYTES)
        whole = start.splitlines() if len(start) < len(first) + _FIRST_LINE_BYTES else start.split(b"\n")[:-1]
        lines = [line.rstrip(b" \r\t").split(b" ") for line in whole[:100] if line.strip()]
        number = Counter(len(fields) - 1 for fields in lines)
        dimension = max(number, key=lambda count: (number[count], -count))
        if len(lines) == 1:
            dimension = next((n for n, field in enumerate(lines[0][:0:-1]) if not _is_number(field)), dimension)
        if dimension < 2 or not any(_is_number(field) for field in lines[0][-dimension:]):
            raise self.fail("its first line is neither a header (words, dimensions) nor a word with its vector")
        return self.read_text(stream, None, dimension, start)

    def read_text(
        self, stream: BoundedStream, size: int | None, dimension: int, start: bytes
    ) -> tuple[list[str], np.ndarray]:
        """`size` is None for GloVe's files, whose words may contain spaces."""
        wanted = self.limit if size is None else min(size, self.limit or size)
        matrix = self.allocate(
            wanted if wanted is not None and size is not None else min(wanted or 4096, 4096), dimension
        )
        checked = num_empty = 0
        for line in self.lines(stream, start, _LONGEST_WORD_BYTES + _NUMBER_BYTES * dimension):
            line = line.rstrip(b" \r\t")
            num_empty += not line
            if num_empty > _MOST_EMPTY_LINES:
                raise self.fail(f"it has more than {_MOST_EMPTY_LINES} empty lines")
            if len(self.words) == wanted:
                if wanted == size and line:
                    raise self.fail(f"extra data after the {size} words that the header declares")
                if line or wanted != size:
                    break
                continue
            row = len(self.words)
            if not line and size is None:
                continue
            if row == len(matrix):
                self.check_finite(matrix[checked:], checked)
                checked = row
                # realloc: the system moves pages, so that two copies never lie side by side
                matrix.resize((row * 2 if row < 100_000 else row + row // 4, dimension), refcheck=False)
            word, values = self.split_line(line, dimension, glove=size is None)
            try:
                if b"_" in line and any(b"_" in value for value in values):
                    raise ValueError  # Python reads 1_0 as 10
                with np.errstate(over="ignore"):  # refused below, by name
                    matrix[row] = np.array(values, dtype=np.float64).astype(np.float32)
            except ValueError:
                raise self.fail(f"line {self.line_number(size is None)} has a damaged number") from None
            self.add_word(word)
        if size is None:
            matrix.resize((len(self.words), dimension), refcheck=False)
        elif wanted is not None and len(self.words) < wanted:
            raise self.fail(f"it ends after {len(self.words)} of the {size} words that the header declares")
        self.check_finite(matrix[checked:], checked)
        return self.words, matrix

    def line_number(self, glove: bool) -> int:
        return len(self.words) + (1 if glove else 2)

    def split_line(self, line: bytes, dimension: int, glove: bool) -> tuple[bytes, list[bytes]]:
        fields = line.split(b" ")
        word = fields[:-dimension]
        if len(word) != 1 and not (glove and word and all(word) and not any(map(_is_number, word[1:]))):
            number = self.line_number(glove)
            raise self.fail(f"line {number} has {len(fields) - 1} numbers in place of {dimension}")
        return b" ".join(word), fields[-dimension:]

    def lines(self, stream: BoundedStream, start: bytes, longest: int) -> Iterator[bytes]:
        """Lines without their breaks, from what was read already and the rest."""
        rest = start
        while True:
            *lines, rest = rest.split(b"\n")
            yield from lines
            if len(rest) > longest:
                raise self.fail(f"it has a line of more than {longest:,} bytes after word {len(self.words)}")
            more = stream.read(_BUFFER_BYTES)
            if not more:
                break
            rest += more
        if rest:
            yield rest


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _read_counts(path: Path, words: list[str]) -> np.ndarray:
    counts = {}
    with BoundedStream(path) as file:
        number = 0
        while line := file.readline(_LONGEST_WORD_BYTES + _NUMBER_BYTES):
            number += 1
            word, _, count = line.removeprefix(b"\xef\xbb\xbf").rstrip().rpartition(b" ")
            try:
                counts[word.decode("utf-8")] = int(count)
            except ValueError:
                raise ValueError(f"{path} line {number} is not a word and its count") from None
    missing = next((word for word in words if word not in counts), None)
    if missing is not None:
        raise ValueError(f"{path} has no count for the word {missing!r}")
    try:
        return np.array([counts[word] for word in words], dtype=np.int64)
    except OverflowError:
        raise ValueError(f"{path} has a count beyond 64 bits") from None
