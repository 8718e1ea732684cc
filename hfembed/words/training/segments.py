"""The order in which a corpus is read: short chunks from everywhere, gathered into segments of work.

Topics are bursty, and a large step over one article would update the same rows again and again. So the corpus is cut
into chunks of a few thousand words, reshuffled every epoch, and a *segment* gathers about a hundred of them: a thread
trains on one segment after the other, and each of its steps takes blocks from across the segment. The words of a
segment and every random number drawn in it are a pure function of (seed, epoch, segment), so that resuming is exact.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Objective:
    """What is learned: the model's settings and the distributions over its words, the same for every engine.

    Args:
        architecture: "skip-gram" or "cbow".
        window: Largest distance between a center and a context word.
        shrink_windows: Whether each center draws its window from 1 to `window`.
        negative: Noise words per pair.
        cbow_mean: CBOW averages the context (True) or sums it.
        frequencies: Fraction of the corpus that each word is, float (vocab_size,).
        keep_probabilities: Subsampling, float (vocab_size,).
        noise_weights: Noise words are drawn in proportion to these, float64 (vocab_size,).
        seed: With epoch and segment, the key of every random number.
    """

    architecture: str
    window: int
    shrink_windows: bool
    negative: int
    cbow_mean: bool
    frequencies: np.ndarray
    keep_probabilities: np.ndarray
    noise_weights: np.ndarray
    seed: int

    def pairs_per_word(self) -> list[np.ndarray]:
        """Expected pair weight on each input row and each output row per corpus word, float (vocab_size,) each."""
        kept = self.frequencies * self.keep_probabilities
        context = self.window + 1 if self.shrink_windows else 2 * self.window
        noise = self.noise_weights / self.noise_weights.sum()
        predictions = context if self.architecture == "skip-gram" else 1
        return [kept * context * (1 + self.negative), (kept + noise * kept.sum() * self.negative) * predictions]

    def key(self, epoch: int, segment: int) -> int:
        """A number from 1 to 2 ** 63 - 1 that seeds all random numbers of a segment."""
        state = np.random.SeedSequence([self.seed, epoch, segment]).generate_state(1, np.uint64)
        return int(state[0] >> np.uint64(1)) | 1


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """An epoch's order of the chunks, the same for all its segments."""
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass(frozen=True)
class SegmentPlan:
    """How many segments an epoch has and which words each of them holds.

    Args:
        num_words: Words of the encoded corpus (words outside the vocabulary are already gone).
        num_segments: Segments per epoch.
        chunk_words: Words per chunk; the last chunk of the corpus is shorter.
        seed: Shuffles the chunks, together with the epoch.
    """

    num_words: int
    num_segments: int
    chunk_words: int
    seed: int

    @classmethod
    def for_corpus(
        cls, num_words: int, num_workers: int, seed: int, chunk_words: int = 2048, segment_words: int = 524_288
    ) -> "SegmentPlan":
        """Cut a corpus so that every worker (a thread of a rank) gets the same number of segments an epoch.

        Small corpora get shorter segments, so that workers stand at about the same learning rate at any time; short
        segments get shorter chunks, so that they too are from all over the corpus.
        """
        num_segments = max(-(-num_words // segment_words), min(8 * num_workers, num_words // 16_384))
        num_segments = -(-num_segments // num_workers) * num_workers
        segment_words = num_words // num_segments
        chunk_words = min(chunk_words, max(segment_words // 128, 256), max(segment_words // 8, 1))
        return cls(num_words, num_segments, chunk_words, seed)

    @property
    def num_chunks(self) -> int:
        """Chunks in the corpus."""
        return -(-self.num_words // self.chunk_words)

    def chunks(self, epoch: int, segment: int) -> np.ndarray:
        """Numbers of a segment's chunks, in reading order: a short one last; int64 (chunks of the segment,)."""
        chunks, num_whole = _shuffled(self.num_chunks, self.seed, epoch), self.num_words // self.chunk_words
        chunks = chunks[segment :: self.num_segments]
        return np.concatenate([chunks[chunks < num_whole], chunks[chunks >= num_whole]])

    def words_before(self, segment: int) -> int:
        """Words counted as seen when this segment of an epoch begins (segments count alike)."""
        return self.num_words * segment // self.num_segments

    def read(self, ids: np.ndarray, sentence_ends: np.ndarray, epoch: int, segment: int) -> tuple:
        """Gather a segment's words.

        Args:
            ids: Corpus, int32 (num_words,); a memory map stays on disk but for the chunks read here.
            sentence_ends: int64, ascending, exclusive ends of the sentences as offsets into `ids`.
            epoch: Counts from 0.
            segment: Counts from 0 to `num_segments` - 1.

        Returns:
            words int32 (n,) and sentence int32 (n,): a number that changes at every sentence and chunk border.
        """
        # whole chunks are rows of a table; what is left over makes a short one
        chunks, num_whole = self.chunks(epoch, segment), self.num_words // self.chunk_words
        table = ids[: num_whole * self.chunk_words].reshape(num_whole, self.chunk_words)
        words = table.take(chunks[chunks < num_whole], axis=0).ravel()
        if num_whole in chunks:
            words = np.concatenate([words, ids[num_whole * self.chunk_words :]])

        starts, offsets = chunks * self.chunk_words, np.arange(len(chunks)) * self.chunk_words
        first = np.searchsorted(sentence_ends, starts, side="right")
        number = np.searchsorted(sentence_ends, starts + self.chunk_words, side="left") - first
        ends = np.arange(number.sum()) + np.repeat(first - (np.cumsum(number) - number), number)
        borders = sentence_ends[ends] + np.repeat(offsets - starts, number)
        begins = np.sort(np.concatenate([offsets, borders[borders < len(words)]]))
        sentences = np.repeat(np.arange(len(begins), dtype=np.int32), np.diff(begins, append=len(words)))
        return words, sentences
