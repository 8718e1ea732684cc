"""Analyzers of text by name: lemmas with part-of-speech tags, and words where no spaces separate them.

None of their packages is a dependency. Only the names in `ANALYZERS` are known, so that a file that names one runs
nothing else. `spacy:MODEL` and `stanza:LANGUAGE` name a model too, never by a path: one that is installed as a package
(spaCy's entry points) or lies in a folder that the user chose.
"""

import functools
import importlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
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
_NOT_WORDS = ("PUNCT", "SPACE", "SYM")
_MODEL_NAME = re.compile(r"[a-z][a-z0-9]*(?:[_-][A-Za-z0-9]+)*")
_LONGEST_TEXT = 50_000  # characters that a tagger gets at once

SPACY_FOLDER = "HFEMBED_SPACY_MODELS"
"""Environment variable: the folder with the spaCy models that are not installed as packages, each by its name."""


def load_analyzer(name: str, split: Split) -> Analyzer:
    """Load an analyzer.

    Args:
        name: One of `ANALYZERS`, spaCy and stanza with a model.
        split: The words of a text by the other rules: they split what a tagger gets, and fold and filter its lemmas
            and the words of a segmenter.

    Raises:
        ModuleNotFoundError: Its package, or a dictionary or model of it, is not installed; the message says how to
            install it.
        ValueError: Unknown name.
    """
    check_analyzer(name)
    kind, _, model = name.partition(":")
    packages, make = ANALYZERS[kind]
    try:
        return make(model, split) if model else make(split)
    except (ImportError, RuntimeError, FileNotFoundError) as error:  # fugashi without a dictionary
        message = f"the analyzer {name} is not installed: pip install {packages.format(model)}"
        raise ModuleNotFoundError(message, name=name) from error


def check_analyzer(name: object) -> None:
    """Refuse what is no analyzer, without loading it.

    Raises:
        ValueError: Unknown name.
    """
    kind, _, model = name.partition(":") if isinstance(name, str) else ("", "", "")
    if kind not in ANALYZERS or (kind in _WITH_MODEL) != bool(model) or (model and not _MODEL_NAME.fullmatch(model)):
        raise ValueError(f"unknown analyzer {str(name)[:40]!r}; expected one of {ANALYZER_NAMES}")


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


def _spacy(model: str, split: Split) -> Analyzer:
    """A spaCy model: lemmas with the Universal part of speech of words in their sentences."""
    spacy = importlib.import_module("spacy")
    installed = next(iter(entry_points(group="spacy_models", name=model)), None)
    if installed is not None:
        pipeline = installed.load().load()
    else:
        folder = Path(os.environ.get(SPACY_FOLDER) or os.devnull) / model
        if not folder.is_dir():
            raise FileNotFoundError(folder)
        pipeline = spacy.load(folder)
    if not pipeline.pipe_names:
        raise ValueError(f"the spaCy model {model} has no components: it gives neither lemmas nor tags")
    for unneeded in {"parser", "ner"} & set(pipeline.pipe_names):
        pipeline.disable_pipe(unneeded)

    def tokens(text: str) -> Iterator[tuple[str, str]]:
        return ((token.lemma_ or token.text, token.pos_) for token in pipeline(text))

    return _tagger(tokens, split)


def _stanza(language: str, split: Split) -> Analyzer:
    """The models of a language that stanza has downloaded: lemmas and Universal parts of speech."""
    stanza = importlib.import_module("stanza")
    try:
        pipeline = stanza.Pipeline(language, processors="tokenize,pos,lemma", download_method=None, verbose=False)
    except ValueError as error:  # a language without models
        raise FileNotFoundError(language) from error

    def tokens(text: str) -> Iterator[tuple[str, str]]:
        words = (word for sentence in pipeline(text).sentences for word in sentence.words)
        return ((word.lemma or word.text, word.upos or "") for word in words)

    return _tagger(tokens, split)


def _tagger(tokens: Callable[[str], Iterable[tuple[str, str]]], split: Split) -> Analyzer:
    def analyze(text: str) -> list[str]:
        return [
            f"{word}_{tag or 'X'}"
            for piece in _pieces(text)
            for lemma, tag in tokens(piece)
            if tag not in _NOT_WORDS
            for word in split(lemma)
        ]

    return analyze


def _pieces(text: str) -> Iterator[str]:
    """A text in parts that a tagger can take, cut between words where there are some."""
    while len(text) > _LONGEST_TEXT:
        cut = text.rfind(" ", 1, _LONGEST_TEXT)
        cut = _LONGEST_TEXT if cut < 0 else cut
        yield text[:cut]
        text = text[cut:]
    if text.strip():
        yield text


ANALYZERS: dict[str, tuple[str, Callable[..., Analyzer]]] = {
    "pymorphy3": ("pymorphy3", _pymorphy3),
    "razdel": ("razdel", _razdel),
    "jieba": ("jieba", _jieba),
    "fugashi": ("fugashi unidic-lite", _fugashi),
    "spacy": (f"spacy, then python -m spacy download {{0}}, or set {SPACY_FOLDER} to the folder of {{0}}", _spacy),
    "stanza": ("stanza, then stanza.download('{0}') in Python", _stanza),
}
"""Name -> what to install, and what makes the analyzer; of those with a model from its name."""

_WITH_MODEL = ("spacy", "stanza")
ANALYZER_NAMES = ", ".join(
    [*(name for name in ANALYZERS if name not in _WITH_MODEL), "spacy:MODEL", "stanza:LANGUAGE"]
)
"""The names as help texts list them."""

__all__ = ["ANALYZERS", "ANALYZER_NAMES", "SPACY_FOLDER", "Analyzer", "check_analyzer", "load_analyzer"]
