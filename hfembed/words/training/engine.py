"""Training word2vec: segments handed to threads, the learning rate, ranks, checkpoints and the progress bar.

The engine knows three ways to learn a segment (`TorchWorker`, `NumbaWorker`, `TritonWorker`) and nothing of their
internals. It reads the corpus in the order of a `SegmentPlan`, so that the state of a run is a number of segments and
the two matrices.
"""

import hashlib
import logging
import queue
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from hfembed.atomic import atomic_folder
from hfembed.checkpoint.json_notes import read_json, write_json
from hfembed.errors import InputError, counted
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining
from hfembed.threads import available_cores
from hfembed.training.run import Identity
from hfembed.words.data.corpora import EncodedCorpus
from hfembed.words.training.kernel_torch import TorchWorker
from hfembed.words.training.resident_corpus import BYTES_PER_WORD, ResidentCorpus
from hfembed.words.training.segments import Objective, SegmentPlan
from hfembed.words.training.subword_table import SubwordTable
from hfembed.words.training.synchronization import DeltaSynchronizer

logger = logging.getLogger(__name__)

ENGINES = ("torch", "numba", "triton")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How to train; what to learn is in the model's config.

    Args:
        engine: "torch" (CPU threads or a GPU), "numba" (CPU threads, needs `hfembed[fast]`) or "triton" (a GPU).
        epochs: Passes over the corpus.
        learning_rate: At the first word.
        final_learning_rate: At the last word; it falls linearly with the words seen.
        num_threads: Threads of a rank on the CPU; 0 = all cores, divided among the ranks.
        centers_per_step: Center words per step of the torch engine; 0 = 2,048 on a CPU (fewer where a vector has
            more than 100 dimensions), 8,192 on a GPU, fewer for small corpora. With triton, center words in flight,
            at most 32 per multiprocessor; 0 = 4,096, fewer for small corpora.
        sync_words: Corpus words of each rank between two synchronizations; 0 = 147,456 with torch and 229,376 with
            numba, which learns them in less time, on CPUs, 1,048,576 on GPUs.
        checkpoint_every: Corpus words between checkpoints, the last one at the end; 0 = none.
        keep_checkpoints: How many of them to keep.
        evaluate_every: Corpus words between evaluations; 0 = none.
        hub_every: Corpus words between calls of `share`; 0 = none.
        seed: With epoch and segment, the key of every random number.
    """

    engine: str = "torch"
    epochs: int = 5
    learning_rate: float = 0.05
    final_learning_rate: float = 1e-4
    num_threads: int = 0
    centers_per_step: int = 0
    sync_words: int = 0
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    evaluate_every: int = 0
    hub_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run can have.

        Raises:
            InputError: One line that names the setting.
        """
        if self.engine not in ENGINES:
            raise InputError(f"engine must be one of {', '.join(ENGINES)}, not '{self.engine}'")
        for name in ("epochs", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        intervals = ("sync_words", "checkpoint_every", "evaluate_every", "hub_every")
        for name in ("num_threads", "centers_per_step", *intervals, "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, but is {getattr(self, name)}")
        if not 0 < self.learning_rate <= 1:
            raise InputError(f"learning_rate must be in (0, 1], not {self.learning_rate}")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise InputError(
                f"final_learning_rate must be between 0 and learning_rate, but is {self.final_learning_rate}"
            )


@dataclass(frozen=True)
class TrainingReport:
    """What a run did, for results.json.

    Attributes:
        engine: One line: which engine, on what, with how many threads and ranks.
        words: Corpus words trained on, over all epochs and ranks.
        seconds: Time spent training, over all starts of the run, without preparation, evaluation and checkpoints.
        cpu_seconds: Processor time of the same, of all threads: what counts on a machine that others use too.
        words_per_second: Corpus words per second over all ranks.
        loss: Mean loss per predicted word over the last part of the run.
    """

    engine: str
    words: int
    seconds: float
    cpu_seconds: float
    words_per_second: float
    loss: float | None


def train_word2vec(
    model: Word2VecForPreTraining,
    corpus: EncodedCorpus,
    settings: EngineSettings,
    accelerator: Accelerator | None = None,
    checkpoint_folder: str | Path | None = None,
    resume: bool = False,
    evaluate: Callable[[int], None] | None = None,
    show_progress: bool = True,
    share: Callable[[int], None] | None = None,
    identity: Identity | None = None,
) -> TrainingReport:
    """Train a model's two matrices in place.

    On one thread of one rank a run depends on its settings and the seed alone, and a resumed one is equal to the bit
    to one that was never interrupted; threads write to the same rows without locks, so that with several of them it is
    equal in distribution.

    Args:
        model: Its config says what is learned; its rows are trained where they are, or on the accelerator's GPU.
        corpus: Ids and vocabulary; the words are the model's.
        settings: How to train.
        accelerator: Device and ranks; by default one rank on the model's device.
        checkpoint_folder: Where checkpoints go, when `settings.checkpoint_every` asks for them, or come from.
        resume: Go on from the newest checkpoint, if there is one.
        evaluate: Called on the main rank with the number of words seen, with the model up to date.
        show_progress: Whether the main rank shows a progress bar.
        share: Called as `evaluate`, every `settings.hub_every` words.
        identity: What checkpoints must have in common with this run; default: settings, model and corpus.

    Returns:
        What was done.

    Raises:
        InputError: The engine is not installed or cannot compute there, the model does not fit the corpus, or the
            checkpoint belongs to another run.
        FloatingPointError: Training diverged.
    """
    training = _Training(
        model, corpus, settings, accelerator, checkpoint_folder, evaluate, show_progress, share, identity
    )
    return training.train(resume)


def fingerprint_corpus(corpus: EncodedCorpus) -> str:
    """Describe a corpus such that another text gives another line, wherever its files lie."""
    digest = hashlib.sha256("\n".join(corpus.vocabulary.words).encode(errors="surrogateescape"))
    digest.update(np.asarray(corpus.vocabulary.counts).tobytes())
    for array in (corpus.ids, corpus.sentence_ends):  # all of a small corpus, parts of a large one
        step = max(len(array) // 64, 1 << 16)
        for start in range(0, len(array), step):
            digest.update(np.ascontiguousarray(array[start : start + (1 << 16)]).tobytes())
    words = f"{corpus.num_words:,} words, {len(corpus.vocabulary):,} distinct"
    return f"{words}, sha256 {digest.hexdigest()[:16]}"


def _use_huge_pages(parameter: torch.nn.Parameter) -> None:
    """Move a matrix on the CPU to memory that numpy has asked huge pages for, as torch does not.

    Rows are read and written all over it; with small pages each costs a walk through the page tables.
    """
    moved = np.empty(parameter.shape, dtype=np.float32)
    moved[:] = parameter.detach().numpy()
    parameter.data = torch.from_numpy(moved)


class _Training:
    """The state of `train_word2vec`, with its arguments."""

    def __init__(
        self, model, corpus, settings, accelerator, checkpoint_folder, evaluate, show_progress, share, identity
    ):
        self.model, self.corpus, self.settings = model, corpus, settings
        self.evaluate, self.share = evaluate, share
        self.accelerator = accelerator
        self.rank, self.num_ranks = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
        self.checkpoints = Path(checkpoint_folder) if checkpoint_folder is not None else None
        self.show_progress = show_progress and self.rank == 0
        config = model.config
        if config.negative < 1:
            raise InputError("the engines train by negative sampling: negative must be at least 1")
        if len(corpus.vocabulary) != config.vocab_size:
            raise InputError(f"a corpus of {len(corpus.vocabulary)} words does not fit a model of {config.vocab_size}")
        if corpus.num_words < 1:
            raise InputError("the corpus has no word of the vocabulary")

        # trained in place: on the CPU these are the model's own parameters
        device = accelerator.device if accelerator else model.device
        self.subwords = None
        inputs, ngrams, context = model.word2vec.embeddings, model.word2vec.ngram_embeddings, model.context_embeddings
        hashed = config.hash_count is not None  # words and n-grams share one table
        parameters = [context.weight]
        if hashed or ngrams is None:
            parameters.insert(0, ngrams.weight if hashed else inputs.weight)
        if device.type == "cpu":
            for parameter in parameters:
                _use_huge_pages(parameter)
        self.rows = [p.detach().to(device, torch.float32).contiguous() for p in parameters]
        self.trained = list(zip(parameters, self.rows, strict=True))
        if ngrams is not None:
            self.subwords = SubwordTable.of(model.word2vec)
        if ngrams is not None and not hashed:
            # one table of all input rows; the model's own are brought up to date where it is used
            table = np.empty((len(inputs.weight) + len(ngrams.weight), config.embedding_size), dtype=np.float32)
            self.rows.insert(0, torch.from_numpy(table).to(device))
            own, below = self.rows[0].split([len(inputs.weight), len(ngrams.weight)])
            self.trained += [(inputs.weight, own), (ngrams.weight, below)]
            own.copy_(inputs.weight.detach())
            below.copy_(ngrams.weight.detach())
        self.num_threads = 1
        if device.type == "cpu":
            self.num_threads = settings.num_threads or max(available_cores() // self.num_ranks, 1)
        elif settings.engine == "triton":
            self.num_threads = 4  # while the GPU learns one segment, the next ones are read
        vocabulary = corpus.vocabulary
        self.objective = Objective(
            architecture=config.architecture,
            window=config.window,
            shrink_windows=config.shrink_windows,
            negative=config.negative,
            cbow_mean=config.cbow_mean,
            frequencies=vocabulary.counts / vocabulary.counts.sum(),
            keep_probabilities=vocabulary.keep_probabilities(config.sample),
            noise_weights=vocabulary.negative_sampling_weights(config.ns_exponent),
            seed=settings.seed,
        )
        self.make_worker, self.engine = self._choose_engine(device)
        self.device, self.resident = device, None
        if device.type == "cuda" and BYTES_PER_WORD * corpus.num_words < torch.cuda.mem_get_info(device)[0] // 2:
            self.resident = ResidentCorpus(corpus.ids, corpus.sentence_ends, device)
        elif device.type == "cuda":
            self.engine += ", the corpus read from the host"
        on_cpu = {"torch": 147_456, "numba": 229_376}
        default = on_cpu[settings.engine] if device.type == "cpu" else 1_048_576
        self.sync_words = settings.sync_words or default
        workers, longest = self.num_ranks * self.num_threads, 524_288
        if self.num_ranks > 1:  # a segment is what a thread learns in half a round
            longest = min(max(self.sync_words // 2 // self.num_threads, 1), longest)
        self.plan = SegmentPlan.for_corpus(corpus.num_words, workers, settings.seed, segment_words=longest)
        self.synchronizer = None
        self.identity = identity or self._default_identity()
        self.seconds = self.cpu_seconds = 0.0

    def _choose_engine(self, device: torch.device) -> tuple[Callable, str]:
        """The worker's constructor and one line about it."""
        settings = self.settings
        place = f"{device.type}, {counted(self.num_threads, 'thread')} per rank, {counted(self.num_ranks, 'rank')}"
        if settings.engine == "numba":
            if device.type != "cpu":
                raise InputError(f"engine 'numba' computes on the CPU, not on {device.type}: take engine 'torch'")
            try:
                from hfembed.words.training.kernel_numba import NumbaWorker
            except ImportError as error:
                raise InputError(
                    f"engine 'numba' cannot be used ({error}): install hfembed[fast], or take engine 'torch'"
                ) from None
            return (
                lambda: NumbaWorker(self.rows[0], self.rows[1], self.objective, self.subwords),
                f"numba (Hogwild, {place})",
            )
        centers = settings.centers_per_step
        if not centers:
            centers = 4096 if settings.engine == "triton" else 8192
            if device.type == "cpu":  # a step's rows, some 800 kB, should stay in the L2 cache
                centers = min(204_800 // self.model.config.embedding_size, 2048)
            centers = max(min(centers, self.corpus.num_words // 1024), 32)
        if settings.engine == "triton":
            if device.type != "cuda":
                raise InputError(f"engine 'triton' computes on a GPU, not on {device.type}: take engine 'torch'")
            try:
                from hfembed.words.training.kernel_triton import BLOCK_SIZE, TritonWorker
            except ImportError as error:
                raise InputError(f"engine 'triton' cannot be used ({error}): take engine 'torch'") from None
            # a multiprocessor holds the rows of one block
            multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
            programs = min(max(centers // BLOCK_SIZE, 1), multiprocessors)
            return (
                lambda: TritonWorker(self.rows[0], self.rows[1], self.objective, programs, subwords=self.subwords),
                f"triton (Hogwild, {programs} blocks of {BLOCK_SIZE} words in flight, {place})",
            )
        return (
            lambda: TorchWorker(self.rows[0], self.rows[1], self.objective, centers, self.subwords),
            f"torch (block-banded, {centers} center words per step, {place})",
        )

    def train(self, resume: bool) -> TrainingReport:
        """Run from the start, or from the newest checkpoint."""
        done = self._load_checkpoint() if resume else 0
        self.words_sent = self._words_before(done)  # by all ranks, at the end of the last round
        logger.info("engine: %s", self.engine)
        total = self.plan.num_segments * self.settings.epochs
        loss = None
        idle: queue.SimpleQueue = queue.SimpleQueue()
        for _ in range(self.num_threads):
            idle.put(self.make_worker())
        if self.num_ranks > 1:
            for matrix in self.rows:
                torch.distributed.broadcast(matrix, src=0)
            # more words bring more rows that must not wait: those of words seen some ten times since, on each rank
            smallest = max(self.sync_words // 112, 1)
            pairs = self.objective.pairs_per_word()
            if self.subwords is not None:
                pairs[0] = self.subwords.add_up(pairs[0], len(self.rows[0]))
            self.synchronizer = DeltaSynchronizer(self.rows, pairs, self.num_ranks, smallest)
            self.accelerator.wait_for_everyone()  # the time of a rank does not count the preparation of another

        def learn(segment: int) -> float | None:
            epoch, place = divmod(segment, self.plan.num_segments)
            words, sentences = self._read(epoch, place)
            rates = self._rate(self._words_before(segment)), self._rate(self._words_before(segment + 1))
            worker = idle.get()
            try:
                return worker.learn(words, sentences, self.objective.key(epoch, place), *rates)
            finally:
                idle.put(worker)

        threads_before = torch.get_num_threads()
        bar = tqdm(
            total=self._words_before(total),
            initial=self._words_before(done),
            unit="words",
            unit_scale=True,
            desc=self.settings.engine,
            disable=not self.show_progress,
        )
        # a multithreaded BLAS in each of our threads would only make them wait
        blas = threadpool_limits(limits=1, user_api="blas")
        pool = ThreadPoolExecutor(self.num_threads, "word2vec", initializer=self._use_own_stream)
        with bar, blas, pool:
            while done < total:
                stop = self._next_stop(done, total)
                begun, cpu_begun = time.perf_counter(), time.process_time()
                mine = [segment for segment in range(done, stop) if segment % self.num_ranks == self.rank]
                futures = {pool.submit(learn, segment): segment for segment in mine}
                losses = []
                try:
                    for future in as_completed(futures):
                        segment = futures[future]
                        if (segment_loss := future.result()) is not None:
                            losses.append(segment_loss)
                            bar.set_postfix(
                                loss=f"{losses[-1]:.3f}", rate=f"{self._rate(self._words_before(segment)):.4f}"
                            )
                        bar.update((self._words_before(segment + 1) - self._words_before(segment)) * self.num_ranks)
                finally:
                    for future in futures:
                        future.cancel()
                whole = stop == total or any(self._due(words, done, stop) for words in self._intervals())
                if self.synchronizer is not None:
                    self._synchronize(stop, whole)
                self.seconds += time.perf_counter() - begun
                self.cpu_seconds += time.process_time() - cpu_begun
                loss = float(np.mean(losses)) if losses else loss
                if whole and not all(bool(torch.isfinite(matrix).all()) for matrix in self.rows):
                    raise FloatingPointError(
                        f"training diverged after {self._words_before(stop)} words: lower learning_rate"
                    )
                if whole:
                    self._pause(done, stop, total)
                    if self.num_ranks > 1:
                        self.accelerator.wait_for_everyone()
                done = stop
        torch.set_num_threads(threads_before)
        self._update_model()
        words = self._words_before(total)
        return TrainingReport(
            engine=self.engine,
            words=words,
            seconds=self.seconds,
            cpu_seconds=self.cpu_seconds,
            words_per_second=words / self.seconds if self.seconds else 0.0,
            loss=loss,
        )

    def _use_own_stream(self) -> None:
        """Let this thread prepare segments for triton's kernels, which run on the default stream, meanwhile."""
        if self.settings.engine == "triton":
            stream = torch.cuda.Stream(self.device)
            stream.wait_stream(torch.cuda.default_stream(self.device))
            torch.cuda.set_stream(stream)

    def _read(self, epoch: int, segment: int) -> tuple:
        """A segment's words and sentences."""
        if self.resident is not None:
            return self.resident.read(self.plan, epoch, segment)
        return self.plan.read(self.corpus.ids, self.corpus.sentence_ends, epoch, segment)

    def _words_before(self, segment: int) -> int:
        """Words seen when the run's segment number `segment` begins."""
        epoch, place = divmod(segment, self.plan.num_segments)
        return epoch * self.plan.num_words + self.plan.words_before(place)

    def _rate(self, words: int) -> float:
        first, last = self.settings.learning_rate, self.settings.final_learning_rate
        return first + (last - first) * words / (self.settings.epochs * self.plan.num_words)

    def _intervals(self) -> tuple[int, int, int]:
        """Words after which training pauses, 0 for never: the ranks' rows are all the same then."""
        settings = self.settings
        return settings.checkpoint_every, settings.evaluate_every, settings.hub_every

    def _due(self, words: int, done: int, stop: int) -> bool:
        """Whether a multiple of `words` lies between two segments."""
        return words > 0 and self._words_before(stop) // words > self._words_before(done) // words

    def _segments_per_half_round(self) -> int:
        """Segments that all ranks together learn in half a synchronization round, each rank the same number."""
        segment_words = self.plan.num_words / self.plan.num_segments
        each = max(round(self.sync_words / 2 / segment_words / self.num_threads), 1)
        return each * self.num_threads * self.num_ranks

    def _synchronize(self, stop: int, whole: bool) -> None:
        """Send what was learned in a round, at its end; take what the others sent, in the middle of the next one."""
        half = self._segments_per_half_round()
        if stop % (2 * half) and not whole:
            self.synchronizer.finish()
            return
        num_rows = len(self.rows[1]) if whole else self.synchronizer.num_rows(stop // (2 * half))
        words = self._words_before(stop)
        self.synchronizer.synchronize(words - self.words_sent, self._rate(self.words_sent), num_rows)
        self.words_sent = words
        if whole:
            self.synchronizer.finish()

    def _next_stop(self, done: int, total: int) -> int:
        """The segment before which all threads wait for one another the next time."""
        stops = [total]
        if self.synchronizer is not None:
            half = self._segments_per_half_round()
            stops.append((done // half + 1) * half)
        for words in self._intervals():
            if words:
                due = (self._words_before(done) // words + 1) * words
                stop = int(np.ceil(due / self.plan.num_words * self.plan.num_segments))
                # whole rounds, so that nobody waits
                workers = self.num_threads * self.num_ranks
                stops.append(max(-(-stop // workers) * workers, done + 1))
        return min(stops)

    def _pause(self, done: int, stop: int, total: int) -> None:
        """Evaluate, share and write a checkpoint where they are due."""
        settings = self.settings
        for act, words in ((self.evaluate, settings.evaluate_every), (self.share, settings.hub_every)):
            if self.rank == 0 and act is not None and self._due(words, done, stop) and stop < total:
                self._update_model()
                act(self._words_before(stop))
        due = self._due(settings.checkpoint_every, done, stop) or (settings.checkpoint_every and stop == total)
        if self.rank == 0 and self.checkpoints is not None and due:
            self._save_checkpoint(stop)

    def _update_model(self) -> None:
        """Copy the rows into the model where it does not share their memory."""
        with torch.no_grad():
            for parameter, matrix in self.trained:
                if parameter.data_ptr() != matrix.data_ptr():
                    parameter.copy_(matrix)
                else:  # numba writes where torch does not see it
                    torch.autograd.graph.increment_version(parameter)

    def _default_identity(self) -> Identity:
        names = ("engine", "learning_rate", "final_learning_rate", "centers_per_step", "sync_words", "seed")
        config = self.model.config
        learned: tuple[str, ...] = (
            "architecture",
            "embedding_size",
            "window",
            "shrink_windows",
            "negative",
            "sample",
            "ns_exponent",
        )
        if self.subwords is not None:
            learned += ("subwords", "buckets", *(["hash_count"] if config.hash_count is not None else []))
        fields = {name: getattr(self.settings, name) for name in names}
        fields |= {name: getattr(config, name) for name in (*learned, "cbow_mean")}
        length = self.settings.epochs * self.corpus.num_words
        return Identity({**fields, "data": fingerprint_corpus(self.corpus)}, length, "words")

    def _save_checkpoint(self, segments: int) -> None:
        with atomic_folder(self.checkpoints / f"segments_{segments:08d}") as folder:
            save_file({"input_rows": self.rows[0], "output_rows": self.rows[1]}, folder / "rows.safetensors")
            spent = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
            write_json(folder / "progress.json", {"segments": segments, "plan": asdict(self.plan), **spent})
            self.identity.write(folder)
        for old in self._list_checkpoints()[: -self.settings.keep_checkpoints]:
            shutil.rmtree(old)

    def _list_checkpoints(self) -> list[Path]:
        return sorted(self.checkpoints.glob("segments_*[0-9]"))

    def _load_checkpoint(self) -> int:
        """Take rows and plan from the newest checkpoint; return the number of segments done."""
        if self.checkpoints is None:
            raise InputError("resume needs the folder of the checkpoints")
        checkpoints = self._list_checkpoints()
        if not checkpoints:
            logger.info("no checkpoint in %s: starting from the beginning", self.checkpoints)
            return 0
        newest = checkpoints[-1]
        self.identity.check(newest)
        try:
            progress = read_json(newest / "progress.json")
            rows = load_file(newest / "rows.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(
                f"checkpoint {newest} cannot be read ({error}); delete it to go on from an older one"
            ) from None
        for matrix, name in zip(self.rows, ("input_rows", "output_rows"), strict=True):
            matrix.copy_(rows[name])
        self.plan = SegmentPlan(**progress["plan"])
        self.seconds, self.cpu_seconds = progress.get("seconds", 0.0), progress.get("cpu_seconds", 0.0)
        logger.info("resuming after %s words from %s", f"{self._words_before(progress['segments']):,}", newest)
        return progress["segments"]
