r"""Measure the engines against gensim: same corpus, cores, dimension and epochs, in turn, several rounds.

    python scripts/benchmark_word2vec.py --corpus FILE --architecture skip-gram --dimension 100 --threads 2 \
        --epochs 1 --rounds 3 --output FILE.json [--analogies FILE --word_pairs "[FILE]"]

With `--subwords "[3, 6]"` the peers are gensim's FastText and, with `--fasttext true`, fastText itself (PyPI
`fasttext-numpy2-wheel`), whose training time is the difference between runs of 2 and of 1 epochs' length: loading,
counting and allocating are in both. The ratio to fastText is given too.

With `--device cuda` the engines run on a GPU, gensim on the CPU threads of the same machine.

gensim reads the text from a file (`corpus_file=`, its fastest mode) at every learning rate asked for; its best one
counts, for speed and for quality each. Only training is timed, not counting words or encoding. A ratio is the median
over the rounds of engine / gensim within the round, so that a busy machine slows both; one is of words per second,
the other of words per second of CPU time (all threads), which others on the machine disturb less.
"""

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from gensim.models import FastText, Word2Vec
from huggingface_hub.dataclasses import strict

from hfembed.atomic import atomic_write
from hfembed.checkpoint.loading import choose_device
from hfembed.errors import InputError, exit_on_input_error
from hfembed.training.config import read_config, setting
from hfembed.words.data.corpora import EncodedCorpus, prepare_corpus
from hfembed.words.evaluation.word_tests import UnknownVectors
from hfembed.words.training.engine import ENGINES, train_word2vec
from hfembed.words.training.recipe import TrainingTests, Word2VecTrainingConfig, start_model

SENTENCE_LENGTH = 10_000  # gensim cuts there
WINDOW, NEGATIVE, SAMPLE, MIN_COUNT = 5, 5, 1e-3, 5
ENGINES_OF_DEVICE = {"cpu": ["torch", "numba"], "cuda": ["torch", "triton"]}


@strict
@dataclass(kw_only=True)
class BenchmarkConfig:
    """What to measure."""

    corpus: str = setting("", "text file; one endless line is cut at 10,000 words for gensim as for us")
    architecture: str = setting("skip-gram", "skip-gram or cbow")
    dimension: int = setting(100, "dimensions of a word vector")
    threads: int = setting(2, "threads of every engine and of gensim")
    epochs: int = setting(1, "passes over the corpus")
    rounds: int = setting(3, "how often everything is measured")
    output: str = setting("", "JSON file for the figures")
    device: str = setting("cpu", "cpu or cuda, where our engines run")
    engines: list[str] = setting(
        [], "our engines to measure; [] = those of the device; 'numba words only' is one without subwords"
    )
    learning_rate: float = setting(0.0, "of our engines; 0 = the recipes': 0.05 for skip-gram, 0.075 for cbow")
    gensim_learning_rates: list[float] = setting([0.025, 0.05], "of gensim, one after the other")
    subwords: list[int] = setting([], "least and greatest length of n-grams; [] = words only")
    buckets: int = setting(2_000_000, "hash buckets of the n-grams")
    fasttext: bool = setting(False, "also measure fastText, with subwords")
    cache_dir: str = setting("", "folder for the encoded corpus; by default a temporary one")
    analogies: str = setting("", "file of analogies, asked among the 30,000 most frequent words")
    word_pairs: list[str] = setting([], "files of word pairs with similarities")

    def validate_settings(self) -> None:
        """Refuse what cannot be measured."""
        if not self.corpus or not self.output:
            raise ValueError("corpus and output must name files")
        if self.architecture not in ("skip-gram", "cbow"):
            raise ValueError(f"architecture must be skip-gram or cbow, not '{self.architecture}'")
        for name in ("dimension", "threads", "epochs", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.fasttext and not self.subwords:
            raise ValueError("fasttext is measured with subwords")
        if self.device not in ENGINES_OF_DEVICE:
            raise ValueError(f"device must be cpu or cuda, not '{self.device}'")
        for engine in self.engines:
            if engine.removesuffix(" words only") not in ENGINES:
                raise ValueError(f"engines must be among {', '.join(ENGINES)}, not '{engine}'")


def cut_lines(source: str, target: Path) -> None:
    """Write the text with at most SENTENCE_LENGTH words per line, so that gensim's threads can share it."""
    waiting: list[str] = []
    try:
        with open(source, encoding="utf-8") as text, target.open("w", encoding="utf-8") as lines:
            rest = ""
            while piece := text.read(1 << 20):
                *complete, rest = (rest + piece).split("\n")
                for line in complete:
                    waiting += line.split()
                    _write_words(lines, waiting, flush=True)
                *words, rest = rest.split(" ")
                waiting += filter(None, words)
                _write_words(lines, waiting, flush=False)
            waiting += rest.split()
            _write_words(lines, waiting, flush=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source} cannot be read as text: {error}") from None


def _write_words(lines, waiting: list[str], flush: bool) -> None:
    while len(waiting) >= SENTENCE_LENGTH or (flush and waiting):
        lines.write(" ".join(waiting[:SENTENCE_LENGTH]) + "\n")
        del waiting[:SENTENCE_LENGTH]


Measured = tuple[float, float, list[str], torch.Tensor, UnknownVectors | None]
"""Words per second, words per second of CPU time, words and vectors, and the vectors of other words."""


def unknown_words_of(vector: Callable[[str], np.ndarray]) -> UnknownVectors:
    """The vectors of unknown words of another library."""

    def lookup(words: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.from_numpy(np.stack([vector(word) for word in words]))
        return found, found.ne(0).any(dim=1)

    return lookup


def run_fasttext(config: BenchmarkConfig, text: Path, learning_rate: float, words: int, seed: int) -> Measured:
    """Measure fastText itself."""
    import fasttext

    def train(epochs: int):
        begun, cpu_begun = time.perf_counter(), time.process_time()
        model = fasttext.train_unsupervised(
            str(text),
            {"skip-gram": "skipgram", "cbow": "cbow"}[config.architecture],
            dim=config.dimension, ws=WINDOW, neg=NEGATIVE, t=SAMPLE, minCount=MIN_COUNT, minn=config.subwords[0],
            maxn=config.subwords[1], bucket=config.buckets, epoch=epochs, lr=learning_rate, thread=config.threads,
            verbose=0,
        )  # fmt: skip
        return model, time.perf_counter() - begun, time.process_time() - cpu_begun

    _, twice, twice_cpu = train(2 * config.epochs)
    model, once, once_cpu = train(config.epochs)
    known = [word for word in model.get_words() if word != "</s>"]
    vectors = torch.from_numpy(np.stack([model.get_word_vector(word) for word in known]))
    words *= config.epochs
    return (
        words / (twice - once),
        words / (twice_cpu - once_cpu),
        known,
        vectors,
        unknown_words_of(model.get_word_vector),
    )


def run_gensim(config: BenchmarkConfig, text: Path, learning_rate: float, seed: int) -> Measured:
    """Measure gensim's Word2Vec, or FastText."""
    kind, subwords = Word2Vec, {}
    if config.subwords:
        kind, subwords = FastText, dict(zip(("min_n", "max_n"), config.subwords, strict=True), bucket=config.buckets)
    model = kind(
        **subwords,
        vector_size=config.dimension,
        sg=int(config.architecture == "skip-gram"),
        window=WINDOW,
        negative=NEGATIVE,
        sample=SAMPLE,
        min_count=MIN_COUNT,
        workers=config.threads,
        alpha=learning_rate,
        seed=seed + 1,
    )
    model.build_vocab(corpus_file=str(text))
    begun, cpu_begun = time.perf_counter(), time.process_time()
    model.train(
        corpus_file=str(text),
        total_words=model.corpus_total_words,
        total_examples=model.corpus_count,
        epochs=config.epochs,
    )
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    # the words within the vocabulary count, for gensim as for us
    counted = sum(model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key) * config.epochs
    lookup = unknown_words_of(model.wv.get_vector) if config.subwords else None
    vectors = torch.from_numpy(model.wv.vectors)
    return counted / seconds, counted / cpu_seconds, model.wv.index_to_key, vectors, lookup


def run_engine(config: BenchmarkConfig, corpus: EncodedCorpus, engine: str, seed: int) -> Measured:
    """Measure one of ours; "words only" in its name leaves out the subwords."""
    recipe = Word2VecTrainingConfig(
        corpus=config.corpus,
        architecture=config.architecture,
        embedding_size=config.dimension,
        window=WINDOW,
        negative=NEGATIVE,
        sample=SAMPLE,
        min_count=MIN_COUNT,
        subwords=[] if "words only" in engine else config.subwords,
        buckets=config.buckets,
        engine=engine.partition(" ")[0],
        epochs=config.epochs,
        num_threads=config.threads,
        learning_rate=config.learning_rate or {"skip-gram": 0.05, "cbow": 0.075}[config.architecture],
        seed=seed,
    )
    model = start_model(recipe, corpus).to(config.device)
    report = train_word2vec(model, corpus, recipe.engine_settings())
    inputs = model.word2vec.cpu()
    lookup = inputs.unknown_vectors if recipe.subwords else None
    speed, cpu_speed = report.words_per_second, report.words / report.cpu_seconds
    return speed, cpu_speed, corpus.vocabulary.words, inputs.word_vectors(), lookup


def ratios_to(speeds: dict[str, list[float]], peer: str = "gensim") -> dict[str, float]:
    """Engine -> median over the rounds of its speed / the peer's at its faster learning rate."""
    peers = [values for name, values in speeds.items() if name.startswith(peer)]
    if not peers:
        return {}
    fastest = [max(round_speeds) for round_speeds in zip(*peers, strict=True)]
    return {
        name: statistics.median(speed / base for speed, base in zip(values, fastest, strict=True))
        for name, values in speeds.items()
        if not name.startswith(("gensim", "fastText"))
    }


@exit_on_input_error
def main() -> None:
    """Everything in turn, round after round; then the table and the JSON file."""
    config = read_config(BenchmarkConfig, description=__doc__)
    tests = TrainingTests(config.analogies, config.word_pairs, restrict_vocab=30_000)
    choose_device(config.device)  # says now that it is not there
    engines = config.engines or ENGINES_OF_DEVICE[config.device]
    speeds: dict[str, list[float]] = {}
    cpu_speeds: dict[str, list[float]] = {}
    quality: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "lines.txt"
        cut_lines(config.corpus, text)
        corpus = prepare_corpus(
            config.corpus, config.cache_dir or scratch, min_count=MIN_COUNT, sentence_length=SENTENCE_LENGTH
        )
        for number in range(config.rounds):
            runs = {f"gensim {rate:g}": (run_gensim, text, rate) for rate in config.gensim_learning_rates}
            if config.fasttext:
                runs["fastText"] = (run_fasttext, text, 0.05, corpus.num_words)
            runs |= {engine: (run_engine, corpus, engine) for engine in engines}
            for name, (run, *arguments) in runs.items():
                speed, cpu_speed, words, vectors, lookup = run(config, *arguments, number)
                speeds.setdefault(name, []).append(speed)
                cpu_speeds.setdefault(name, []).append(cpu_speed)
                quality.setdefault(name, []).append(tests(words, vectors, lookup))
                figures = ", ".join(f"{key} {value:.2f}" for key, value in quality[name][-1].items())
                print(
                    f"round {number + 1}: {name}: {speed:,.0f} words/s, {cpu_speed:,.0f} per CPU s  {figures}",
                    flush=True,
                )

    ratios, cpu_ratios = ratios_to(speeds), ratios_to(cpu_speeds)
    mean_quality = {
        name: {key: statistics.fmean(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in quality.items()
    }
    result = {
        "ratio_to_gensim": ratios,
        "cpu_ratio_to_gensim": cpu_ratios,
        "ratio_to_fasttext": ratios_to(speeds, "fastText"),
        "cpu_ratio_to_fasttext": ratios_to(cpu_speeds, "fastText"),
        "quality": mean_quality,
        "words_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "words_per_cpu_second": {name: statistics.median(values) for name, values in cpu_speeds.items()},
        "rounds": {"words_per_second": speeds, "words_per_cpu_second": cpu_speeds, "quality": quality},
        "corpus_words": corpus.num_words,
        "vocabulary": len(corpus.vocabulary),
        "settings": {name: value for name, value in vars(config).items() if name not in ("output", "cache_dir")},
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.processor() or platform.system()}"
        + (f", {torch.cuda.get_device_name()}" if config.device == "cuda" else ""),
        "versions": {name: version(name) for name in ("torch", "gensim", "numpy")},
    }
    with atomic_write(config.output) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'':14}{'words/s':>12}{'x gensim':>10}{'by CPU time':>13}  quality")
    for name, values in result["words_per_second"].items():
        ratio, cpu_ratio = (f"{found[name]:.2f}" if name in found else "" for found in (ratios, cpu_ratios))
        figures = ", ".join(f"{key} {value:.2f}" for key, value in mean_quality[name].items())
        print(f"{name:14}{values:>12,.0f}{ratio:>10}{cpu_ratio:>13}  {figures}")


if __name__ == "__main__":
    main()
