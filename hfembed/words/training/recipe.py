"""A recipe for word vectors: its settings, and the corpus and model they stand for."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import torch
from huggingface_hub.dataclasses import strict

from hfembed.checkpoint.results import write_results
from hfembed.errors import InputError
from hfembed.models.word2vec.configuration_word2vec import Word2VecConfig
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining, Word2VecModel
from hfembed.models.word2vec.text_analyzers import ANALYZER_NAMES, check_analyzer
from hfembed.threads import available_cores
from hfembed.training.config import RunConfig, setting
from hfembed.words.data.corpora import EncodedCorpus, may_be_hub_id, prepare_corpus
from hfembed.words.data.phrases import learn_phrases
from hfembed.words.data.vocabulary import merge_vocabularies
from hfembed.words.evaluation.word_tests import UnknownVectors, WordTests
from hfembed.words.training.engine import EngineSettings
from hfembed.words.training.subword_table import used_buckets

Loaded = TypeVar("Loaded")

_WORD = r"\w+(?:[-'\u2019]\w+)*"  # letters, marks and digits, with hyphens and apostrophes inside
_MOST_PROCESSES = 8  # that encode text, 0.4 GB each
_SEGMENTERS = {"ja": "fugashi", "zh": "jieba"}
LANGUAGES = ("be", "bg", "cs", "de", "en", "es", "fr", "it", "pl", "pt", "ru", "sr", "uk", *_SEGMENTERS)
"""Languages of which it is known what a word is."""


@strict
@dataclass(kw_only=True)
class Word2VecTrainingConfig(RunConfig):
    """Settings of a word2vec run: the text, the model, the engine, the evaluation."""

    corpus: str = setting(
        "", "text file, parquet file, folder of such, or id of a dataset on the Hub; one sentence per line", False
    )
    corpus_note: str = setting("", "what the text is and under which license, for the model card", False)
    column: str = setting("text", "column with the text, of parquet files and datasets; several: title,text", False)
    config_name: str = setting("", "configuration of a dataset on the Hub, such as 20231101.ru", False)
    split: str = setting("train", "split of a dataset on the Hub", False)
    streaming: bool = setting(False, "read a dataset on the Hub as it arrives, without a copy on the disk", False)
    max_words: int = setting(0, "read only this many words of the text; 0 = all", False)
    cache_dir: str = setting("", "folder for the encoded corpus; default: beside the caches of datasets", False)
    output_dir: str = setting("outputs/word2vec", "folder for the model, its results and its checkpoints", False)
    init_from: str = setting("", "model folder or Hub id to continue from with this text; its new words are added")

    language: str = setting("", f"what a word is: that of {', '.join(LANGUAGES)}; default: what spaces separate")
    lowercase: bool = setting(False, "fold the case of the text")
    fold_yo: bool = setting(False, "write the Russian letter ё as е, as most texts do")
    analyzer: str = setting(
        "", f"{ANALYZER_NAMES}: tag or segment the text by this installed package; default: zh jieba, ja fugashi"
    )
    word_pattern: str = setting("", "regular expression whose matches are the words; default: split at spaces")
    phrase_thresholds: list[float] = setting(
        [], "join neighbors to phrases (new_york), one pass per threshold, e.g. [200, 100]; higher = fewer; [] = none"
    )
    phrase_min_count: int = setting(5, "words and pairs seen less often make no phrase")
    min_count: int = setting(5, "words seen less often are dropped")
    max_vocab_size: int = setting(0, "keep only this many words, the most frequent; 0 = all")
    sentence_length: int = setting(10_000, "longer lines are cut after this many words")

    architecture: str = setting("skip-gram", "skip-gram or cbow")
    embedding_size: int = setting(100, "dimensions of a word vector")
    window: int = setting(5, "largest distance between a center and a context word")
    shrink_windows: bool = setting(True, "each center word draws its window from 1 to `window`")
    negative: int = setting(5, "negative samples (noise words) per pair")
    sample: float = setting(1e-3, "words more frequent than this fraction of the corpus are subsampled; 0 = none")
    ns_exponent: float = setting(0.75, "noise words are drawn in proportion to count ** ns_exponent")
    cbow_mean: bool = setting(True, "CBOW averages the context instead of summing it")
    initializer_scale: float = setting(2.0, "input rows start at U(-1, 1) * initializer_scale / embedding_size")

    subwords: list[int] = setting(
        [], "least and greatest length of character n-grams, e.g. [3, 6]: unknown words get vectors too; [] = none"
    )
    buckets: int = setting(2_000_000, "hash buckets of the n-grams; only those that the text uses are stored")
    hash_count: int = setting(
        0,
        "floret: rows per word and per n-gram, 1 to 4, in one table of e.g. 50000 buckets; 0 = rows of their own",
    )

    engine: str = setting(
        "torch", "torch (CPU threads or a GPU), numba (CPU threads; needs hfembed[fast]) or triton (a GPU)"
    )
    epochs: int = setting(5, "passes over the corpus", False)
    learning_rate: float = setting(0.05, "at the first word")
    final_learning_rate: float = setting(1e-4, "at the last word; it falls linearly with the words seen")
    num_threads: int = setting(0, "threads of a rank on the CPU; 0 = all cores, divided among the ranks", False)
    centers_per_step: int = setting(
        0,
        "center words per step with torch, or in flight with triton; 0 = by device and corpus size",
        was="centres_per_step",
    )
    sync_words: int = setting(0, "corpus words of each rank between two synchronizations of ranks; 0 = by engine")
    checkpoint_every: int = setting(
        50_000_000, "corpus words between checkpoints to resume from, the last at the end; 0 = none", False
    )
    evaluate_every: int = setting(0, "corpus words between evaluations; 0 = only at the end", False)
    seed: int = setting(0, "of the first rows and of all that is drawn")

    analogies: str = setting("", "file of analogies (questions-words style) to evaluate on", False)
    word_pairs: list[str] = setting([], "files of word pairs with similarities to evaluate on", False)
    restrict_vocab: int = setting(30_000, "analogies are answered from this many most frequent words", False)

    def validate_settings(self) -> None:
        """Refuse what no run can have, before any data is read."""
        try:
            self.engine_settings()
            self.model_config(vocab_size=0)
        except InputError as error:
            raise ValueError(str(error)) from None
        if self.language and self.language not in LANGUAGES:
            raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, not '{self.language}'")
        if self.analyzer:
            check_analyzer(self.analyzer)
        for name in ("min_count", "phrase_min_count", "sentence_length", "negative", "restrict_vocab"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if any(threshold <= 0 for threshold in self.phrase_thresholds):
            raise ValueError(f"phrase_thresholds must be positive, not {self.phrase_thresholds}")
        if self.phrase_thresholds and self.init_from:
            raise ValueError("phrase_thresholds cannot be set with init_from: text is joined as the model's was")
        for name in ("max_vocab_size", "max_words"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if not 0 < self.initializer_scale:
            raise ValueError(f"initializer_scale must be positive, not {self.initializer_scale}")

    def check_sources(self) -> None:
        """Refuse a corpus that is missing, unless it may be a data set on the Hub.

        Raises:
            InputError: No corpus is named, or there is no such file or folder.
        """
        if not self.corpus:
            raise InputError("corpus must name a text file, a folder or a dataset")
        if not Path(self.corpus).exists() and not may_be_hub_id(self.corpus):
            raise InputError(f"{self.corpus}: no such file or folder")

    def engine_settings(self) -> EngineSettings:
        """The engine's share of the settings."""
        return EngineSettings(**self._shared_with(EngineSettings))

    def model_config(self, vocab_size: int) -> Word2VecConfig:
        """The model's share of the settings."""
        try:
            shared = self._shared_with(Word2VecConfig, without=("vocab_size", "subwords", "hash_count"))
            subwords: dict[str, Any] = {"subwords": self.subwords or None, "hash_count": self.hash_count or None}
            return Word2VecConfig(vocab_size=vocab_size, **subwords, **shared)
        except ValueError as error:
            raise InputError(" ".join(str(error.__cause__ or error).split())) from None

    def _shared_with(self, other: type, without: tuple[str, ...] = ()) -> dict[str, Any]:
        ours = {field.name for field in dataclasses.fields(self)} - set(without)
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(other) if field.name in ours}


def load_corpus(config: Word2VecTrainingConfig) -> EncodedCorpus:
    """Text -> ids; with `init_from`, the text's new words are added to the model's.

    Raises:
        InputError: It cannot be read.
    """
    source: dict[str, Any] = {
        "source": config.corpus,
        "column": config.column,
        "split": config.split,
        "config_name": config.config_name or None,
        "streaming": config.streaming,
        "max_words": config.max_words or None,
    }
    cache_dir = config.cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "hfembed-corpora"
    source["num_threads"] = min(available_cores(), _MOST_PROCESSES)
    arguments: dict[str, Any] = {**source, "cache_dir": cache_dir, "sentence_length": config.sentence_length}
    analyzer = config.analyzer or _SEGMENTERS.get(config.language)
    rules: dict[str, Any] = {
        "lowercase": config.lowercase,
        "word_pattern": config.word_pattern or (_WORD if config.language or analyzer else None),
        "fold_yo": config.fold_yo,
        "analyzer": analyzer,
    }
    if config.init_from:
        old = load_start(config).require_vocabulary()
        rules = dataclasses.asdict(old.rules)
    elif config.phrase_thresholds:
        rules["phrases"] = learn_phrases(
            **source,
            **rules,
            thresholds=config.phrase_thresholds,
            min_count=config.phrase_min_count,
            cache_dir=cache_dir,
        )
    corpus = prepare_corpus(
        **arguments, **rules, min_count=config.min_count, max_vocab_size=config.max_vocab_size or None
    )
    if not config.init_from:
        return corpus
    merged, _ = merge_vocabularies(old, corpus.vocabulary)
    return prepare_corpus(**arguments, vocabulary=merged)


def keep_objective(config: Word2VecTrainingConfig) -> str:
    """Take the settings that the recipe does not name from the model of `init_from`.

    Returns one line that names what the recipe changes; empty if nothing.
    """
    if not config.init_from:
        return ""
    old, changes = _load(config.init_from, Word2VecConfig.from_pretrained), []
    for name in [field.name for field in dataclasses.fields(Word2VecConfig) if hasattr(config, field.name)]:
        none = {"subwords": [], "hash_count": 0}.get(name)
        was = none if getattr(old, name) is None else getattr(old, name)
        if name not in config.named:
            setattr(config, name, was)
        elif getattr(config, name) != was:
            changes.append(f"{name} {getattr(config, name)} instead of {was}")
    return f"init_from {config.init_from}: this run continues with {', '.join(changes)}" if changes else ""


def load_start(config: Word2VecTrainingConfig) -> Word2VecForPreTraining:
    """The model to train on.

    Raises:
        InputError: It cannot be loaded, or lacks the words and counts that training on needs.
    """
    model = _load(config.init_from, functools.partial(Word2VecForPreTraining.from_pretrained, dtype=torch.float32))
    if model.vocabulary is None or model.vocabulary.counts is None:
        raise InputError(f"init_from {config.init_from} lacks its words or their counts: it cannot be trained on")
    if model.config.embedding_size != config.embedding_size:
        raise InputError(
            f"init_from {config.init_from} has {model.config.embedding_size} dimensions: "
            f"set embedding_size to that instead of {config.embedding_size}"
        )
    return model


def _load(name: str, from_pretrained: Callable[[str], Loaded]) -> Loaded:
    try:
        return from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"init_from {name} cannot be loaded: {' '.join(str(error).split())}") from None


def start_model(config: Word2VecTrainingConfig, corpus: EncodedCorpus) -> Word2VecForPreTraining:
    """A model for the corpus' words: fresh rows, and with `init_from` the trained ones of all words known there."""
    vocabulary = corpus.vocabulary
    torch.manual_seed(config.seed)
    old = load_start(config) if config.init_from else None
    settings = config.model_config(len(vocabulary))
    kept = None
    hashed = settings.hash_count is not None  # all buckets are used
    if old is not None and all(
        getattr(old.config, name) == getattr(settings, name) for name in ("subwords", "buckets", "hash_count")
    ):
        kept = old.word2vec.ngram_embeddings
    stored = np.empty(0, np.int64) if kept is None else kept.stored_buckets()
    if settings.subwords is not None and not hashed:
        used = np.union1d(used_buckets(vocabulary.words, settings.subwords, settings.buckets), stored)
        settings.ngram_rows = len(used) + 1
    model = Word2VecForPreTraining(settings, vocabulary)
    ngrams = model.word2vec.ngram_embeddings
    if ngrams is not None and not hashed:
        ngrams.store_buckets(used)
    if old is not None:
        index = old.require_vocabulary().index
        rows = torch.tensor([index.get(word, -1) for word in vocabulary])
        known = rows >= 0
        with torch.no_grad():
            for new, trained in (
                (model.word2vec.embeddings, old.word2vec.embeddings),
                (model.context_embeddings, old.context_embeddings),
            ):
                if new is not None and trained is not None:
                    new.weight[known] = trained.weight[rows[known]]
            if ngrams is not None and kept is not None:
                buckets = torch.from_numpy(stored)
                ngrams.weight[ngrams.rows_of(buckets)] = kept.weight[kept.rows_of(buckets)]
    return model


class TrainingTests:
    """The word tests a recipe names; none is fine.

    Args:
        analogies: File of analogies, asked among the `restrict_vocab` most frequent words; "" for none.
        word_pairs: Files of word pairs, looked up in the whole vocabulary.
        restrict_vocab: See `analogies`.

    Raises:
        InputError: A file is not such a test.
        OSError: A file cannot be read.
    """

    def __init__(self, analogies: str, word_pairs: Sequence[str], restrict_vocab: int):
        self.tests = []
        self.restrict_vocab = restrict_vocab
        if analogies:
            self.tests.append(WordTests(analogies=[analogies], restrict_vocab=restrict_vocab))
        if word_pairs:
            self.tests.append(WordTests(word_pairs=word_pairs, restrict_vocab=None))

    def __call__(
        self, words: Sequence[str], vectors: torch.Tensor, unknown_vectors: UnknownVectors | None = None
    ) -> dict[str, float]:
        """Figure -> value; analogies in percent, correlations x 100."""
        return {name: value for test in self.tests for name, value in test(words, vectors, unknown_vectors).items()}

    def of(self, model: Word2VecModel) -> dict[str, float]:
        """The figures of a model; with subwords, word pairs outside the vocabulary count too."""
        unknown = None if model.config.subwords is None else model.unknown_vectors
        return self(model.require_vocabulary().words, model.word_vectors(), unknown)

    def describe(self, model: Word2VecModel) -> str:
        """The figures in one line; empty without tests."""
        return ", ".join(f"{name} {value:.4g}" for name, value in self.of(model).items())

    def write(self, model: Word2VecModel, folder: Path, training: dict[str, Any]) -> None:
        """Put how the model was trained, and its figures, into its folder's results.json."""
        write_results(folder, "word2vec_training", {}, training, folder)
        details = {"restrict_vocab_of_analogies": self.restrict_vocab}
        write_results(folder, "words", self.of(model), details, folder)
