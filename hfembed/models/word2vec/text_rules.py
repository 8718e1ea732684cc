"""The rules that split text into words, for training and for use."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers

from .text_analyzers import Analyzer, check_analyzer, load_analyzer

_NFC = normalizers.NFC()
_TAGGED = re.compile(r"_[A-Z]+\Z")


@dataclass(frozen=True)
class TextRules:
    r"""How text becomes words: NFC, then lowercase, then words, then phrases.

    The same engine, the tokenizer's own, applies them to the training text and to the texts of a user.

    Args:
        lowercase: Lowercase the text, character by character.
        word_pattern: A regular expression (Oniguruma's syntax) whose matches are the words, applied to each piece of
            text between whitespace; without it these pieces are the words. In `\w` letters, digits, `_` and the marks
            of Unicode belong to words.
        phrases: Pairs of neighbors to join with `_`, one tuple of pairs per pass (Mikolov et al. 2013b, section 4).
            A later pass may join what an earlier one made: `new_york` + `times`.
        fold_yo: Write the Russian letter ё as е, as most texts do.
        analyzer: A name in `ANALYZERS`: each line goes through it before it is split. A tagger (`pymorphy3`,
            `spacy:MODEL`, `stanza:LANGUAGE`) makes `lemma_TAG` of each word; a segmenter (`razdel`, `jieba`,
            `fugashi`) finds the words. The rules above fold and filter lemmas and words.
    """

    lowercase: bool = False
    word_pattern: str | None = None
    phrases: tuple[tuple[tuple[str, str], ...], ...] = ()
    fold_yo: bool = False
    analyzer: str | None = None

    def __post_init__(self) -> None:
        if self.analyzer is not None:
            check_analyzer(self.analyzer)
        if self.word_pattern is None:
            return
        try:
            replaced = normalizers.Replace(Regex(self.word_pattern), "#").normalize_str("\n\t\n")
        except Exception as error:  # tokenizers has no class of its own for it
            raise ValueError(
                f"word_pattern {self.word_pattern!r} is not a regular expression of the tokenizer (Oniguruma): {error}"
            ) from None
        if "#" in replaced and replaced.replace("#", "") == "\n\t\n":
            raise ValueError(f"word_pattern {self.word_pattern!r} matches the empty word; use '+' instead of '*'")

    def after_analysis(self) -> "TextRules":
        """The rules for what `analyze` returns: all these, or where there is an analyzer phrases alone."""
        return self if self.analyzer is None else TextRules(phrases=self.phrases)

    def analyze(self, text: str) -> str:
        """The words that the analyzer makes of each line, between spaces; without one the text itself.

        Raises:
            ModuleNotFoundError: The analyzer is not installed.
        """
        if self.analyzer is None:
            return text
        return "\n".join(" ".join(self._analyzer(line)) for line in text.split("\n"))

    @cached_property
    def _analyzer(self) -> Analyzer:
        rules = replace(self, phrases=(), analyzer=None)
        normalizer, splitter = rules.normalizer(), rules.pre_tokenizer()

        def split(text: str) -> list[str]:
            return [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]

        return load_analyzer(str(self.analyzer), split)

    def normalizer(self) -> normalizers.Normalizer:
        """The rules before text, analyzed if need be, is split into words, as a `tokenizers` normalizer."""
        if self.analyzer is not None:
            return self.after_analysis().normalizer()
        steps: list[normalizers.Normalizer] = [normalizers.Replace("\ufeff", ""), _NFC]
        if self.lowercase:
            steps.append(normalizers.Lowercase())
        if self.fold_yo:
            steps += [normalizers.Replace("ё", "е"), normalizers.Replace("Ё", "Е")]
        if any(self.phrases):
            if self.word_pattern is not None:
                # what is not a word becomes a space, so that pairs are neighbors; \G walks from match to match
                steps.append(normalizers.Replace(Regex(rf"\G(?:{self.word_pattern}|\n)*+\K[^\n]"), " "))
            steps.append(normalizers.Replace(Regex(r"[^\S\n]+"), " "))
            steps += [normalizers.Replace(Regex(_phrase_pattern(pairs)), "_") for pairs in self.phrases if pairs]
        return normalizers.Sequence(steps)

    def fields(self) -> dict[str, Any]:
        """What a vocabulary's file says of them: earlier releases said the same where the newer ones are off."""
        newer = ("fold_yo", "analyzer")
        return {name: value for name, value in asdict(self).items() if value or name not in newer}

    def normalize_word(self, word: str) -> str:
        """A single word as the rules write it: lowercased, folded or analyzed where they say so, печи as печь_NOUN."""
        if self.analyzer is not None:
            return word if _TAGGED.search(word) else self.analyze(word)
        return self.normalizer().normalize_str(word) if self.lowercase or self.fold_yo else word

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """The `tokenizers` pre-tokenizer that splits normalized text into words."""
        if self.word_pattern is None or self.analyzer is not None or any(self.phrases):
            return pre_tokenizers.WhitespaceSplit()
        words = pre_tokenizers.Split(Regex(self.word_pattern), behavior="removed", invert=True)
        return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])


def _phrase_pattern(pairs: Iterable[tuple[str, str]]) -> str:
    r"""An Oniguruma pattern that matches the space inside each pair, joining left to right without overlap.

    All pairs form one trie, so that the cost does not grow with their number. `\K` leaves the first word out of the
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


__all__ = ["TextRules"]
