"""Which row of a vocabulary a word of a test means."""

import re
from collections.abc import Sequence
from pathlib import Path

from hfembed.errors import InputError

_TAGS = "ADJ|ADP|ADV|AUX|CCONJ|DET|INTJ|NOUN|NUM|PART|PRON|PROPN|SCONJ|VERB"
_TAGGED = re.compile(rf"(.+)_(?:{_TAGS})\Z")


class KnownWords:
    """The words of a vocabulary by their spelling.

    Of words that differ only in case the first, the most frequent, is meant. In a vocabulary of tagged lemmas a word
    without a tag is looked up as a noun, and in one without tags a tagged word without its tag, as naeval does it.

    Args:
        words: The vocabulary, the most frequent word first.
        restrict_vocab: Use only the first words.
        fold_case: Ignore case.
    """

    def __init__(self, words: Sequence[str], restrict_vocab: int | None = None, fold_case: bool = True):
        self.fold_case = fold_case
        self.rows: dict[str, int] = {}
        for row, word in enumerate(words[:restrict_vocab]):
            self.rows.setdefault(self.fold(word), row)
        first = words[:100]
        self.tagged = sum(_TAGGED.fullmatch(word) is not None for word in first) > len(first) / 2

    def fold(self, word: str) -> str:
        """The word as it is compared."""
        return word.upper() if self.fold_case else word

    def spell(self, word: str) -> str:
        """The word as the vocabulary has it: with a tag or without."""
        tagged = _TAGGED.fullmatch(word)
        if self.tagged == (tagged is not None) or self.fold(word) in self.rows:
            return word
        return f"{word}_NOUN" if tagged is None else tagged[1]

    def find(self, word: str) -> int | None:
        """The word's row; None if it is unknown."""
        return self.rows.get(self.fold(self.spell(word)))


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file.

    Raises:
        InputError: It is not UTF-8.
        OSError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
