"""Analyzers of text by name: lemmas with part-of-speech tags, and words where no spaces separate them.

None of their packages is a dependency. Only the names in `ANALYZERS` are known, so that a file that names one runs
nothing else.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

Analyzer = Callable[[str], list[str]]
"""From a line of text to its words."""
Split = Callable[[str], list[str]]

# OpenCorpora's parts of speech -> Universal Dependencies', which RusVectores' words have
_UNIVERSAL_TAGS = {
    "NOUN": "NOUN", "ADJF": "ADJ", "ADJS": "ADJ", "COMP": "ADJ", "VERB": "VERB", "INFN": "VERB", "PRTF": "VERB",
    "PRTS": "VERB", "GRND": "VERB", "NUMR": "NUM", "ADVB": "ADV", "PRED": "ADV", "NPRO": "PRON", "PREP": "ADP",
    "CONJ": "CCONJ", "PRCL": "PART", "INTJ": "INTJ",
}  # fmt: skip
_NAMES = ("Name", "Surn", "Patr", "Geox", "Orgn", "Trad")


def load_analyzer(name: str, split: Split) -> Analyzer:
    """Load an analyzer.

    Args:
        name: One of `ANALYZERS`.
        split: The words of a text by the other rules: they split what a tagger gets, and fold and filter its lemmas
            and the words of a segmenter.

    Raises:
        ModuleNotFoundError: Its package, or a dictionary of it, is not installed; the message says how to install it.
    """
    packages, make = ANALYZERS[name]
    try:
        return make(split)
    except (ImportError, RuntimeError) as error:  # fugashi without a dictionary
        message = f"the analyzer {name} is not installed: pip install {packages}"
        raise ModuleNotFoundError(message, name=name) from error


def _pymorphy3(split: Split) -> Analyzer:
    """Russian: печь_NOUN, the likeliest lemma and tag of each word whatever its neighbors are."""
    morphology = importlib.import_module("pymorphy3").MorphAnalyzer()

    @functools.lru_cache(maxsize=1_000_000)
    def tagged(word: str) -> tuple[str, ...]:
        parse = morphology.parse(word)[0]
        tag = _UNIVERSAL_TAGS.get(parse.tag.POS, "NUM" if {"NUMB"} in parse.tag or {"ROMN"} in parse.tag else "X")
        if tag == "NOUN" and any({name} in parse.tag for name in _NAMES):
            tag = "PROPN"
        return tuple(f"{lemma}_{tag}" for lemma in split(parse.normal_form))

    return lambda text: [lemma for word in split(text) for lemma in tagged(word)]


def _segmenter(pieces: Callable[[str], Iterator[str]], split: Split) -> Analyzer:
    return lambda text: [word for piece in pieces(text) for word in split(piece)]


def _jieba(split: Split) -> Analyzer:
    """Chinese."""
    segmenter = importlib.import_module("jieba").Tokenizer()
    segmenter.initialize()
    return _segmenter(segmenter.cut, split)


def _fugashi(split: Split) -> Analyzer:
    """Japanese: the words of MeCab with UniDic."""
    tagger: Any = importlib.import_module("fugashi").Tagger()
    return _segmenter(lambda text: (word.surface for word in tagger(text)), split)


def _razdel(split: Split) -> Analyzer:
    """Russian: words with their hyphens and points, without lemmas."""
    tokenize = importlib.import_module("razdel").tokenize
    return _segmenter(lambda text: (token.text for token in tokenize(text)), split)


ANALYZERS: dict[str, tuple[str, Callable[[Split], Analyzer]]] = {
    "pymorphy3": ("pymorphy3", _pymorphy3),
    "razdel": ("razdel", _razdel),
    "jieba": ("jieba", _jieba),
    "fugashi": ("fugashi unidic-lite", _fugashi),
}
"""Name -> what to install, and what makes the analyzer."""

__all__ = ["ANALYZERS", "Analyzer", "load_analyzer"]
