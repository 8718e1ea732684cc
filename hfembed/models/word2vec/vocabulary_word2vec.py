"""The words of a word2vec model and their counts."""

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer, normalizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from .text_rules import TextRules
from .tokenization_word2vec import Word2VecTokenizer, split_text

COUNTS_FILE = "vocab_counts.safetensors"
TOKENIZER_FILE = "tokenizer.json"
_NFC = normalizers.NFC()
_AT_ONCE = 100_000  # words that are written together
_PIECE = 4 << 20  # bytes that are read together
# where tokenizer.json has its words, one per line; their own line breaks and quotes are escaped
_VOCABULARY = re.compile(rb'\n    "vocab": \{\n(.*?)\n    \}', re.DOTALL)


class UnknownWordError(KeyError, ValueError):
    """A word that is not in the vocabulary; the message suggests similar spellings."""

    def __init__(self, word: str, near: Sequence[str] = ()):
        super().__init__(word)
        hint = f"; did you mean {' or '.join(repr(other) for other in near)}?" if near else ""
        self.message = f"the word {word!r} is not in the vocabulary{hint}"

    def __str__(self) -> str:
        return self.message


class Vocabulary:
    """Words in the order of the embedding rows, with their counts.

    A word is found by its spelling, and where no word has exactly that spelling by the canonically equivalent one
    (NFC), so that words of other libraries that are not in NFC are found in text too.

    Args:
        words: The words, all different; word `i` has row `i`.
        counts: How often each was seen, int64 of shape (len(words),); `None` if unknown.
        rules: How text becomes these words.

    Raises:
        ValueError: A duplicate word, or counts that do not fit.
    """

    def __init__(self, words: Sequence[str], counts: np.ndarray | None = None, rules: TextRules | None = None):
        self.words = list(words)
        self.counts = None if counts is None else np.asarray(counts, dtype=np.int64)
        self.rules = rules or TextRules()
        if self.counts is None:
            return
        if self.counts.shape != (len(self.words),):
            raise ValueError(f"{len(self.words)} words need as many counts, not an array of shape {self.counts.shape}")
        if len(self.counts) and self.counts.min() < 0:
            raise ValueError(f"the word {self.words[self.counts.argmin()]!r} has the count {self.counts.min()}")

    def __repr__(self) -> str:
        first = ", ".join(self.words[:5]) + (", ..." if len(self) > 5 else "")
        return f"Vocabulary({len(self):,} words: {first})"

    @classmethod
    def from_counts(
        cls,
        counts: dict[str, int],
        min_count: int = 1,
        max_vocab_size: int | None = None,
        rules: TextRules | None = None,
    ) -> "Vocabulary":
        """Sort words by count, the most frequent first (equal ones by spelling), and drop the rare."""
        kept = sorted((item for item in counts.items() if item[1] >= min_count), key=lambda item: (-item[1], item[0]))
        kept = kept[:max_vocab_size]
        return cls([word for word, _ in kept], np.array([count for _, count in kept], dtype=np.int64), rules)

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __contains__(self, word: object) -> bool:
        return self.find(word) is not None

    def __getitem__(self, word: str) -> int:
        """The row of a word.

        Raises:
            UnknownWordError: It is not in the vocabulary.
            TypeError: Not a string.
        """
        if not isinstance(word, str):
            raise TypeError(f"a word is a str, not {type(word).__name__} ({str(word)[:40]})")
        row = self.find(word)
        if row is None:
            raise UnknownWordError(word, self.near_spellings(word))
        return row

    def find(self, word: object) -> int | None:
        """The row of a word, or `None`."""
        row = self.index.get(word)  # type: ignore[call-overload]
        if row is None and isinstance(word, str) and not word.isascii():
            composed = _NFC.normalize_str(word)
            row = self._composed.get(composed, self.index.get(composed))
            if row is None and self.rules.fold_yo:
                row = self.index.get(composed.replace("ё", "е").replace("Ё", "Е"))
        return row

    @cached_property
    def index(self) -> dict[str, int]:
        """Word -> row.

        Raises:
            ValueError: A word is in it twice.
        """
        index = dict(zip(self.words, range(len(self.words)), strict=True))
        if len(index) < len(self.words):
            twice = next(word for row, word in enumerate(self.words) if index[word] != row)
            raise ValueError(f"the word {twice!r} is in the vocabulary twice")
        return index

    @cached_property
    def _composed(self) -> dict[str, int]:
        """NFC -> row of the words that are not in NFC, unless another word has that spelling."""
        composed: dict[str, int] = {}
        for row, word in enumerate(self.words):
            if not word.isascii() and not unicodedata.is_normalized("NFC", word):
                spelling = _NFC.normalize_str(word)  # of an earlier Unicode than Python's
                if spelling not in self.index:
                    composed.setdefault(spelling, row)
        return composed

    def _check_different(self) -> None:
        """Refuse a word that is in it twice, without an index of all words.

        Raises:
            ValueError: There is such a word.
        """
        hashes = np.fromiter(map(hash, self.words), np.int64, len(self))
        hashes.sort()
        if (hashes[1:] == hashes[:-1]).any():
            self.index  # noqa: B018

    def near_spellings(self, word: str, number: int = 3) -> list[str]:
        """Up to `number` words spelled much like `word`, the same in another case first."""
        cases = [
            other for other in (word.lower(), word.capitalize(), word.upper(), word.replace(" ", "_")) if other in self
        ]
        # frequent words are the likely ones, and difflib is slow: look at 50,000 of about the same length
        alike = [other for other in self.words[:200_000] if abs(len(other) - len(word)) <= 2][:50_000]
        near = cases + difflib.get_close_matches(word, alike, n=number, cutoff=0.65)
        return list(dict.fromkeys(near))[:number]

    def known_counts(self) -> np.ndarray:
        """The counts, int64 of shape (len(self),).

        Raises:
            ValueError: They are unknown.
        """
        if self.counts is None:
            raise ValueError("this vocabulary has no word counts; take it from a corpus, or a file that has them")
        return self.counts

    def keep_probabilities(self, sample: float) -> np.ndarray:
        """Probability with which subsampling keeps an occurrence of each word, as word2vec.c and gensim compute it.

        Args:
            sample: Fraction of the corpus above which a word is subsampled; 0 keeps everything.

        Returns:
            float32 of shape (len(self),): min(1, sqrt(t / n) + t / n) with n the count and t = `sample` x all counts.
        """
        counts = self.known_counts().astype(np.float64)
        if sample <= 0:
            return np.ones(len(counts), dtype=np.float32)
        ratio = sample * counts.sum() / np.maximum(counts, 1)
        return np.minimum(1.0, np.sqrt(ratio) + ratio).astype(np.float32)

    def negative_sampling_weights(self, exponent: float = 0.75) -> np.ndarray:
        """Probability of each word as a noise word: count ** exponent, summing to 1; float64 of shape (len(self),)."""
        weights = self.known_counts().astype(np.float64) ** exponent
        return weights / weights.sum()

    def to_tokenizer(
        self, subwords: Sequence[int] | None = None, buckets: int = 0, hash_count: int | None = None
    ) -> PreTrainedTokenizerFast:
        """A WordLevel tokenizer whose ids are the rows; `[UNK]` and `[PAD]` come after the words.

        It is saved, pushed and loaded by `AutoTokenizer` without hfembed. `[PAD]` in a text is text. With subwords it
        is a `Word2VecTokenizer`, in whose place a reader without hfembed gets one that knows no n-grams; with an
        analyzer too, where such a reader must be given analyzed text.
        """
        ids = dict(zip(self._spellings(), range(len(self)), strict=True))
        return self._make_tokenizer(ids, subwords, buckets, hash_count)

    def _make_tokenizer(
        self, ids: dict[str, int], subwords: Sequence[int] | None, buckets: int, hash_count: int | None
    ) -> PreTrainedTokenizerFast:
        """The tokenizer of `to_tokenizer` for some of the words, by their ids."""
        unknown, padding = (self._unused(token) for token in ("[UNK]", "[PAD]"))
        ids = ids | {unknown: len(self), padding: len(self) + 1}
        tokenizer = Tokenizer(WordLevel(ids, unk_token=unknown))
        tokenizer.normalizer = self.rules.normalizer()
        tokenizer.pre_tokenizer = self.rules.pre_tokenizer()
        settings: dict[str, Any] = {
            "tokenizer_object": tokenizer,
            "unk_token": unknown,
            "pad_token": padding,
            "model_input_names": ["input_ids", "attention_mask"],
            "split_special_tokens": True,
        }
        if self.rules.analyzer is not None:
            settings["text_rules"] = {name: value for name, value in self.rules.fields().items() if name != "phrases"}
        if subwords is not None:
            settings["model_input_names"].append("ngram_ids")
            settings |= {"subwords": subwords, "buckets": buckets}
            settings |= {} if hash_count is None else {"hash_count": hash_count}
        plain = subwords is None and self.rules.analyzer is None
        return (PreTrainedTokenizerFast if plain else Word2VecTokenizer)(**settings)

    def _spellings(self) -> list[str]:
        """The words as the tokenizer meets them in normalized text."""
        spellings = list(self.words)
        for spelling, row in self._composed.items():
            spellings[row] = spelling
        return spellings

    def _unused(self, token: str) -> str:
        while token in self.words:
            token = f"[{token}]"
        return token

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerFast:
        return self.to_tokenizer()

    def encode(self, documents: Iterable[str | Sequence[str]]) -> list[np.ndarray]:
        """Rows of the known words of each document.

        Returns:
            One int64 array per document, of shape (known words,); unknown words are skipped.

        Raises:
            TypeError: One text instead of a list of texts, or items that are neither texts nor words.
        """
        documents = _list_of_documents(documents)
        texts = [self.rules.analyze(document) for document in documents if isinstance(document, str)]
        encoded = iter(self._tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        rows = []
        for document in documents:
            if isinstance(document, str):
                ids = np.array(next(encoded).ids, dtype=np.int64)
                rows.append(ids[ids < len(self)])
                continue
            found = [self.find(word) for word in document]
            rows.append(np.array([row for row in found if row is not None], dtype=np.int64))
        return rows

    def split(self, documents: Iterable[str | Sequence[str]]) -> list[Sequence[str]]:
        """The words of each document, known or not, as the rules split texts.

        Raises:
            TypeError: As `encode`.
        """
        documents = _list_of_documents(documents)
        backend, analyze = self._tokenizer.backend_tokenizer, self.rules.analyze
        return [split_text(backend, analyze(d)) if isinstance(d, str) else d for d in documents]

    def save(
        self,
        folder: str | Path,
        tensors: dict[str, np.ndarray] | None = None,
        subwords: Sequence[int] | None = None,
        buckets: int = 0,
        hash_count: int | None = None,
    ) -> None:
        """Write the tokenizer's files and `vocab_counts.safetensors` (counts; rules and fingerprint as metadata)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._check_different()
        # a tokenizer of millions of words takes gigabytes: it is saved without them, and they are put into its file
        self._make_tokenizer({}, subwords, buckets, hash_count).save_pretrained(folder)
        self._write_words(folder / TOKENIZER_FILE)
        metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in self.rules.fields().items()}
        metadata |= {"size": str(len(self)), "fingerprint": self.fingerprint}
        if self._composed:
            spelled = {str(row): self.words[row] for row in self._composed.values()}
            metadata["spellings"] = json.dumps(spelled, ensure_ascii=False)
        counts = {} if self.counts is None else {"counts": self.counts}
        save_file(counts | (tensors or {}), folder / COUNTS_FILE, metadata=metadata)

    def _write_words(self, tokenizer_file: Path) -> None:
        """Put all words into the file of a tokenizer without them, a piece at a time."""
        content = tokenizer_file.read_bytes()
        place = _VOCABULARY.search(content)
        assert place is not None
        spellings, quoted = self._spellings(), json.JSONEncoder(ensure_ascii=False).encode
        with tokenizer_file.open("wb") as file:
            file.write(content[: place.start(1)])
            for start in range(0, len(self), _AT_ONCE):
                some = enumerate(spellings[start : start + _AT_ONCE], start)
                lines = (f"      {quoted(word)}: {row},\n" for row, word in some)
                file.write("".join(lines).encode())
            file.write(content[place.start(1) :])

    @property
    def fingerprint(self) -> str:
        """A hash of words, counts and rules."""
        digest = hashlib.sha256(json.dumps(self.rules.fields()).encode())
        for start in range(0, len(self), _AT_ONCE):
            some = "\n".join(self.words[start : start + _AT_ONCE])
            digest.update(("\n" * (start > 0) + some).encode("utf-8", "surrogatepass"))
        if self.counts is not None:
            digest.update(np.ascontiguousarray(self.counts, dtype="<i8").tobytes())
        return digest.hexdigest()

    @classmethod
    def load(cls, folder: str | Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            ValueError: One line that names the damaged file, or files that do not belong together.
        """
        folder = Path(folder)
        return cls.from_files(folder / TOKENIZER_FILE, folder / COUNTS_FILE)

    @classmethod
    def from_files(cls, tokenizer_file: str | Path, counts_file: str | Path) -> "Vocabulary":
        """Read a vocabulary from its two files.

        Raises:
            ValueError: One line that names the damaged file, or files that do not belong together.
        """
        try:
            with safe_open(counts_file, framework="numpy") as file:
                metadata = file.metadata()
                counts = file.get_tensor("counts") if "counts" in file.keys() else None
            if counts is not None and (counts.ndim != 1 or counts.dtype != np.int64):
                raise ValueError(f"counts are {counts.dtype} of shape {counts.shape}")
            phrases = json.loads(metadata["phrases"])
            rules = TextRules(
                lowercase=json.loads(metadata["lowercase"]),
                word_pattern=json.loads(metadata["word_pattern"]),
                phrases=tuple(tuple((first, second) for first, second in pairs) for pairs in phrases),
                fold_yo=json.loads(metadata.get("fold_yo", "false")) is True,
                analyzer=json.loads(metadata.get("analyzer", "null")),
            )
            size = int(metadata["size"])
            spelled = {int(row): word for row, word in json.loads(metadata.get("spellings", "{}")).items()}
        except _DAMAGE as error:
            raise _damaged(counts_file, error) from None
        try:
            words = _read_words(Path(tokenizer_file), size)
            for row, word in spelled.items():
                words[row] = word
            if None in words:
                raise ValueError(f"row {words.index(None)} of {size} has no word")
        except _DAMAGE as error:
            raise _damaged(tokenizer_file, error) from None
        try:
            vocabulary = cls(words, counts, rules)
            fingerprint = vocabulary.fingerprint
        except _DAMAGE as error:
            raise _damaged(counts_file, error) from None
        if metadata.get("fingerprint", fingerprint) != fingerprint:
            raise ValueError(
                f"{tokenizer_file} and {Path(counts_file).name} do not belong together, or one of them is damaged: "
                "save the model again"
            )
        return vocabulary


def _read_words(tokenizer_file: Path, size: int) -> list[Any]:
    """The words of the first `size` ids of a tokenizer's file, `None` for ids without one."""
    content = tokenizer_file.read_bytes()
    places = list(_VOCABULARY.finditer(content))
    if len(places) == 1:  # as the tokenizers library and we write it: parsed a piece at a time
        begin, end = places[0].span(1)
        whole: Any = json.loads(content[:begin] + b"\n" + content[end:])
    else:
        begin = end = 0
        whole = json.loads(content)
    ids, number = whole["model"]["vocab"], 0
    words: list[Any] = [None] * min(size, len(content))
    while True:
        number += len(ids)
        for word, row in ids.items():
            if 0 <= row < size:
                words[row] = word
        if begin >= end:
            break
        stop = content.find(b"\n", min(begin + _PIECE, end), end)
        stop = end if stop < 0 else stop
        ids = json.loads(b"{" + content[begin:stop].rstrip().removesuffix(b",") + b"}")
        begin = stop
    if size > number:
        raise ValueError(f"{number} words, not {size}")
    return words


def _list_of_documents(documents: Iterable[str | Sequence[str]]) -> list[str | Sequence[str]]:
    if isinstance(documents, str | bytes):
        raise TypeError("documents is a list of texts; for a single text give [text]")
    documents = list(documents)
    for document in documents:
        if isinstance(document, bytes) or not isinstance(document, Iterable):
            raise TypeError(f"a document is a text or a list of words, not {type(document).__name__}")
    return documents


# what reading a damaged file may raise; OSError (missing, unreadable) speaks for itself
_DAMAGE = (
    SafetensorError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RuntimeError,
    MemoryError,
)  # fmt: skip


def _damaged(path: str | Path, error: BaseException) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"{path} is damaged ({reason}): save the model again, or fetch it again")
