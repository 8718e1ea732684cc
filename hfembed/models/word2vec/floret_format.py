"""floret's text format: the one table that words and n-grams are hashed into, without the words themselves.

The first line is the settings: rows, dimensions, least and greatest length of n-grams, number of hashes, their seed
and the two boundaries. Each row begins with its number.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from .subwords import FLORET_SEED, LONGEST_NGRAM, MOST_BUCKETS, MOST_HASHES
from .word2vec_format import BoundedStream, open_to_write, read_text_rows, write_rows

_HEADER = re.compile(rb"(\d{1,9}) (\d{1,6}) (\d{1,3}) (\d{1,3}) (\d) (\d{1,10}) (\S{1,20}) (\S{1,20})\s*")
_FIRST_LINE_BYTES = 1000


def read_floret(path: str | Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a file of floret, also with .gz, .xz or .bz2.

    Returns:
        The table, float32 of shape (buckets, dimensions), and fields of `Word2VecConfig`.

    Raises:
        ValueError: One line that says what is wrong with the file.
        FileNotFoundError: There is no such file.
    """
    with BoundedStream(Path(path)) as stream:
        header = _HEADER.fullmatch(stream.readline(_FIRST_LINE_BYTES))
        if header is None:
            raise _fail(path, "it does not start with the settings of floret")
        buckets, dimension, smallest, largest, hash_count, seed = (int(number) for number in header.groups()[:6])
        if not (1 <= smallest <= largest <= LONGEST_NGRAM and 1 <= hash_count <= MOST_HASHES and dimension):
            raise _fail(path, f"impossible settings {header.group().decode().strip()!r}")
        if seed != FLORET_SEED or header.groups()[6:] != (b"<", b">"):
            raise _fail(path, f"only the seed {FLORET_SEED} and the boundaries < and > are read")
        if not 1 <= buckets <= MOST_BUCKETS or buckets * (2 + 2 * dimension) > stream.most:
            raise _fail(path, f"it declares {buckets} rows of {dimension} numbers, more than it can hold")
        numbers, table = read_text_rows(stream, buckets, dimension)
    for row, number in enumerate(numbers):
        if number != str(row):
            raise _fail(path, f"row {row} has the number {number!r}")
    return table, {"subwords": [smallest, largest], "buckets": buckets, "hash_count": hash_count}


def _fail(path: str | Path, reason: str) -> ValueError:
    return ValueError(f"{path} cannot be read as a floret table: {reason}")


def write_floret(path: str | Path, table: np.ndarray, config: dict[str, Any]) -> None:
    """Write a table for floret's readers, such as spaCy; every bit of the numbers is kept.

    Raises:
        OSError: It cannot be written.
    """
    smallest, largest = config["subwords"]
    settings = (*table.shape, smallest, largest, config["hash_count"], FLORET_SEED, "<", ">")
    with open_to_write(Path(path)) as file:
        file.write((" ".join(map(str, settings)) + "\n").encode())
        write_rows(file, list(map(str, range(len(table)))), table)


__all__ = ["read_floret", "write_floret"]
