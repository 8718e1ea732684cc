"""Analogies and word pairs as training measures them on the way: figures only, for any words and vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from hfembed.errors import InputError
from hfembed.models.word2vec.modeling_word2vec import Word2VecForPreTraining


class WordTests:
    """Accuracy on analogies (3CosAdd) and rank correlation on word pairs.

    Case is folded, and questions or pairs with unknown words are left out, as in gensim.

    Args:
        analogies: A file in the style of questions-words.txt, or "" for none.
        word_pairs: Files of lines: word, word, similarity.
        restrict_vocab: Analogies are asked among so many first (most frequent) words.

    Raises:
        InputError: A file cannot be read or is not of its kind.
    """

    def __init__(self, analogies: str, word_pairs: Sequence[str], restrict_vocab: int = 30_000):
        self.restrict_vocab = restrict_vocab
        self.analogies = [line for line in _read(analogies, 4) if not line[0].startswith(":")] if analogies else []
        self.word_pairs = {Path(file).stem: _read(file, 3) for file in word_pairs}

    def __call__(self, model: Word2VecForPreTraining) -> dict[str, float]:
        """Measure a model's input rows."""
        vectors = model.word2vec.embeddings.weight.detach().cpu().numpy()
        return self.measure(model.vocabulary.words, vectors)

    def measure(self, words: Sequence[str], vectors: np.ndarray) -> dict[str, float]:
        """Measure vectors.

        Args:
            words: In order of their counts, most frequent first.
            vectors: float (words, embedding_size).

        Returns:
            "analogies" in percent and "<file>" Spearman x 100, where any question or pair is covered.
        """
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        # of words that differ in case alone the more frequent counts
        index: dict[str, int] = {}
        for row, word in enumerate(words):
            index.setdefault(word.lower(), row)
        metrics = {}
        questions = [[index.get(word.lower(), self.restrict_vocab) for word in line] for line in self.analogies]
        rows = np.array([q for q in questions if max(q) < self.restrict_vocab], dtype=np.int64).reshape(-1, 4)
        if len(rows):
            correct = sum(
                _answer(vectors[: self.restrict_vocab], part) for part in np.array_split(rows, 1 + len(rows) // 500)
            )
            metrics["analogies"] = 100 * correct / len(rows)
        for name, pairs in self.word_pairs.items():
            known = [
                (index[a.lower()], index[b.lower()], float(s))
                for a, b, s in pairs
                if {a.lower(), b.lower()} <= index.keys()
            ]
            if len(known) > 2:
                first, second, similarities = zip(*known, strict=True)
                cosines = (vectors[list(first)] * vectors[list(second)]).sum(1)
                metrics[name] = 100 * float(spearmanr(cosines, similarities).statistic)
        return metrics


def _answer(vectors: np.ndarray, questions: np.ndarray) -> int:
    """How many of 'a is to b as c is to d' have d as the nearest other word to b - a + c."""
    a, b, c, d = questions.T
    scores = (vectors[b] - vectors[a] + vectors[c]) @ vectors.T
    np.put_along_axis(scores, questions[:, :3], -np.inf, axis=1)
    return int((scores.argmax(1) == d).sum())


def _read(file: str, columns: int) -> list[list[str]]:
    """The words of a file's lines; section titles (': name') only where lines have four words."""
    try:
        lines = [line.split() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if len(line) != columns and not (columns == 4 and line[0].startswith(":")):
            raise InputError(f"{file}: entry {number} has {len(line)} words instead of {columns}")
    return lines
