"""The words of a word2vec model, their counts, and the rules that make words out of text."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

COUNTS_FILE = "vocab_counts.safetensors"
TOKENIZER_FILE = "tokenizer.json"


class UnknownWordError(KeyError, ValueError):
    """A word that the vocabulary does not have; the message names near spellings."""

    def __init__(self, word: str, near: Sequence[str] = ()):
        super().__init__(word)
        hint = f"; did you mean {' or '.join(repr(other) for other in near)}?" if near else ""
        self.message = f"the word {word!r} is not in the vocabulary{hint}"

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class TextRules:
    """How text becomes words: NFC, then case folding, then words, then phrases.

    Args:
        lowercase: Fold the case, character by character.
        word_pattern: A regular expression whose matches are the words; without it words are what blanks separate.
            It must mean the same to Python's `re` and to Oniguruma (letters, classes, quantifiers do).
        phrases: Pairs of neighbours to join with `_`, a tuple of pairs for each pass (Mikolov et al. 2013b,
            section 4). A later pass may join what an earlier one made: `new_york` + `times`.
    """

    lowercase: bool = False
    word_pattern: str | None = None
    phrases: tuple[tuple[tuple[str, str], ...], ...] = ()

    def __post_init__(self) -> None:
        if self.word_pattern is not None:
            try:
                empty = re.compile(self.word_pattern).match("") is not None
            except re.error as error:
                raise ValueError(f"word_pattern {self.word_pattern!r} is not a regular expression: {error}") from None
            if empty:
                raise ValueError(f"word_pattern {self.word_pattern!r} matches the empty word; use '+' in place of '*'")

    def normalizer(self) -> normalizers.Normalizer:
        """The rules before words are cut out, as a `tokenizers` normalizer."""
        steps: list[normalizers.Normalizer] = [normalizers.NFC()]
        if self.lowercase:
            steps.append(normalizers.Lowercase())
        if any(self.phrases):
            if self.word_pattern is not None:
                # what is no word becomes blank, so that pairs are neighbours; \G walks from match to match
                steps.append(normalizers.Replace(Regex(rf"\G(?:{self.word_pattern}|\n)*+\K[^\n]"), " "))
            steps.append(normalizers.Replace(Regex(r"[^\S\n]+"), " "))
            steps += [normalizers.Replace(Regex(_phrase_pattern(pairs)), "_") for pairs in self.phrases if pairs]
        return normalizers.Sequence(steps)

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """The `tokenizers` pre-tokenizer that cuts text into words."""
        if self.word_pattern is None or any(self.phrases):
            return pre_tokenizers.WhitespaceSplit()
        return pre_tokenizers.Split(Regex(self.word_pattern), behavior="removed", invert=True)


class Vocabulary:
    """Words in the order of the embedding rows, with their counts.

    Args:
        words: The words, all different; word `i` has row `i`.
        counts: How often each was seen, int64 of shape (len(words),); `None` where that is not known.
        rules: How text becomes these words.

    Raises:
        ValueError: A word twice, or counts that do not fit.
    """

    def __init__(self, words: Sequence[str], counts: np.ndarray | None = None, rules: TextRules | None = None):
        self.words = list(words)
        self.counts = None if counts is None else np.asarray(counts, dtype=np.int64)
        self.rules = rules or TextRules()
        if self.counts is not None and self.counts.shape != (len(self.words),):
            raise ValueError(f"{len(self.words)} words need as many counts, not an array of shape {self.counts.shape}")

    @classmethod
    def from_counts(
        cls,
        counts: dict[str, int],
        min_count: int = 1,
        max_vocab_size: int | None = None,
        rules: TextRules | None = None,
    ) -> "Vocabulary":
        """Sort words by count, the most frequent first (equal ones by spelling), and drop the rare.

        Args:
            counts: word -> how often it was seen.
            min_count: Words seen less often are dropped.
            max_vocab_size: Keep at most this many.
            rules: How the text became words.
        """
        kept = sorted((item for item in counts.items() if item[1] >= min_count), key=lambda item: (-item[1], item[0]))
        kept = kept[:max_vocab_size]
        return cls([word for word, _ in kept], np.array([count for _, count in kept], dtype=np.int64), rules)

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    def __getitem__(self, word: str) -> int:
        """The row of a word.

        Raises:
            UnknownWordError: The vocabulary does not have it.
        """
        try:
            return self.index[word]
        except KeyError:
            raise UnknownWordError(word, self.near_spellings(word)) from None

    @cached_property
    def index(self) -> dict[str, int]:
        """Word -> row."""
        index = dict(zip(self.words, range(len(self.words)), strict=True))
        if len(index) < len(self.words):
            twice = next(word for row, word in enumerate(self.words) if index[word] != row)
            raise ValueError(f"the word {twice!r} is in the vocabulary twice")
        return index

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
            ValueError: They are not known.
        """
        if self.counts is None:
            raise ValueError("this vocabulary has no word counts; take it from a corpus, or a file that has them")
        return self.counts

    def keep_probabilities(self, sample: float) -> np.ndarray:
        """Probability with which subsampling keeps an occurrence of each word, as word2vec.c and gensim compute it.

        Args:
            sample: Share of the corpus above which a word is thinned out; 0 keeps everything.

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

    def to_tokenizer(self) -> PreTrainedTokenizerFast:
        """A WordLevel tokenizer whose ids are the rows; `[UNK]` and `[PAD]` come after the words.

        It needs nothing of hfembed to be saved, pushed and loaded by `AutoTokenizer`.
        """
        unknown, padding = (self._unused(token) for token in ("[UNK]", "[PAD]"))
        ids = {**self.index, unknown: len(self), padding: len(self) + 1}
        tokenizer = Tokenizer(WordLevel(ids, unk_token=unknown))
        tokenizer.normalizer = self.rules.normalizer()
        tokenizer.pre_tokenizer = self.rules.pre_tokenizer()
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            unk_token=unknown,
            pad_token=padding,
            model_input_names=["input_ids", "attention_mask"],
        )

    def _unused(self, token: str) -> str:
        while token in self:
            token = f"[{token}]"
        return token

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerFast:
        return self.to_tokenizer()

    def encode(self, documents: Iterable[str | Sequence[str]]) -> list[np.ndarray]:
        """Rows of the known words of each document.

        Args:
            documents: Texts (made into words by the rules) or lists of words (taken as they are).

        Returns:
            An int64 array a document, of shape (known words,); unknown words are skipped.
        """
        documents = list(documents)
        texts = [document for document in documents if isinstance(document, str)]
        encoded = iter(self._tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        rows = []
        for document in documents:
            if isinstance(document, str):
                ids = np.array(next(encoded).ids, dtype=np.int64)
                rows.append(ids[ids < len(self)])
            else:
                known = [self.index[word] for word in document if word in self.index]
                rows.append(np.array(known, dtype=np.int64))
        return rows

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files and `vocab_counts.safetensors` (counts, and the rules as metadata)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save_pretrained(folder)
        tensors = {} if self.counts is None else {"counts": self.counts}
        rules = {
            "lowercase": json.dumps(self.rules.lowercase),
            "word_pattern": json.dumps(self.rules.word_pattern),
            "phrases": json.dumps(self.rules.phrases, ensure_ascii=False),
        }
        save_file(tensors, folder / COUNTS_FILE, metadata={"size": str(len(self)), **rules})

    @classmethod
    def load(cls, folder: str | Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            ValueError: Files that do not belong together.
        """
        folder = Path(folder)
        return cls.from_files(folder / TOKENIZER_FILE, folder / COUNTS_FILE)

    @classmethod
    def from_files(cls, tokenizer_file: str | Path, counts_file: str | Path) -> "Vocabulary":
        """Read a vocabulary from its two files.

        Raises:
            ValueError: Files that do not belong together.
        """
        with safe_open(counts_file, framework="numpy") as file:
            metadata = file.metadata()
            counts = file.get_tensor("counts") if "counts" in file.keys() else None
        rules = TextRules(
            lowercase=json.loads(metadata["lowercase"]),
            word_pattern=json.loads(metadata["word_pattern"]),
            phrases=tuple(
                tuple((first, second) for first, second in pairs) for pairs in json.loads(metadata["phrases"])
            ),
        )
        size = int(metadata["size"])
        ids = json.loads(Path(tokenizer_file).read_text(encoding="utf-8"))["model"]["vocab"]
        words = [word for word, row in sorted(ids.items(), key=lambda item: item[1]) if row < size]
        if len(words) != size or any(ids[word] != row for row, word in enumerate(words)):
            raise ValueError(f"{tokenizer_file} does not have the {size} words that {counts_file} speaks of")
        return cls(words, counts, rules)


def _phrase_pattern(pairs: Iterable[tuple[str, str]]) -> str:
    r"""An Oniguruma pattern that matches the blank inside each pair, joining left to right without overlap.

    All pairs become one trie, so that its cost does not grow with their number. `\K` leaves the first word out of the
    match. After a match `\G` is the start of the second word, which must not begin another pair: with (new, york)
    and (york, times), 'new york times' becomes 'new_york times', as word2phrase does it.
    """
    trie: dict = {}
    for first, second in pairs:
        node = trie
        for character in f"{first} {second}":
            node = node.setdefault(character, {})
        node[""] = {}

    def render(node: dict, inside_second: bool) -> str:
        branches = []
        for character, child in sorted(node.items()):
            if character == "":
                branches.append(r"(?!\S)")
            elif character == " ":
                branches.append(rf"\K (?={render(child, True)})")
            else:
                branches.append(re.escape(character) + render(child, inside_second))
        return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"

    return rf"(?:\A|(?!\G)(?<=\s)){render(trie, False)}"
