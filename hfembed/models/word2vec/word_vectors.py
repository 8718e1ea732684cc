"""Queries of word vectors: neighbors, analogies, the odd one out, vectors of documents."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch

from .vocabulary_word2vec import Vocabulary

_CHUNK_ROWS, _CHUNK_SCORES = 65_536, 4_194_304
_COSMUL_EPSILON = 1e-6

Item = str | np.ndarray | torch.Tensor
WeightedItem = Item | tuple[Item, float]
Cosines = Callable[[torch.Tensor], torch.Tensor]


def unit_rows(matrix: torch.Tensor) -> torch.Tensor:
    """Rows of length 1 in float32 (float64 for float64); zeros stay zeros. Shape (rows, dimensions)."""
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    return matrix / torch.linalg.vector_norm(matrix, dim=1, keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)


def row_lengths(matrix: torch.Tensor) -> torch.Tensor:
    """Euclidean length of each row of (rows, dimensions), never 0, float32 (float64 for float64)."""
    dtype = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    chunks = (torch.linalg.vector_norm(chunk, dim=1, dtype=dtype) for chunk in matrix.split(_CHUNK_ROWS))
    return torch.cat(list(chunks)).clamp_(min=torch.finfo(dtype).tiny)


def _cosines_to(chunk: torch.Tensor, lengths: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    return (queries @ chunk.T).div_(lengths)


def _top_rows(
    matrix: torch.Tensor, score: Callable[[Cosines], torch.Tensor], top_k: int, exclude: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best rows by `score(cosines)`, where `cosines(queries)` is (batch, chunk); memory is bounded by the chunk.

    Args:
        matrix: Vectors of shape (rows, dimensions), any float type.
        score: The scores of a chunk of rows for every query, from the cosines of unit queries to it.
        exclude: Rows that are no answer, int64 of shape (batch, n); -1 excludes nothing.

    Returns:
        Scores and rows of shape (batch, top_k), best first; fewer where the matrix has fewer.
    """
    batch, num_excluded = exclude.shape
    best_scores = torch.empty(batch, 0, device=matrix.device)
    best_rows = torch.empty(batch, 0, dtype=torch.int64, device=matrix.device)
    wanted = min(top_k + num_excluded, len(matrix))
    plain = matrix.dtype in (torch.float32, torch.float64)
    # a few queries take all rows at once: threads that wait for each other after every chunk lose half their time
    step = max(_CHUNK_SCORES // max(batch, 1), _CHUNK_ROWS) if plain else _CHUNK_ROWS
    for start in range(0, len(matrix), step):
        chunk = matrix[start : start + step] if plain else matrix[start : start + step].float()
        # dividing the products, not the rows, avoids a copy of the matrix
        lengths = row_lengths(chunk)
        scores = score(partial(_cosines_to, chunk, lengths))
        scores, rows = scores.topk(min(wanted, scores.shape[1]), dim=1)
        best_scores = torch.cat([best_scores.to(scores.dtype), scores], dim=1)
        best_rows = torch.cat([best_rows, rows + start], dim=1)
        best_scores, order = best_scores.topk(min(wanted, best_scores.shape[1]), dim=1)
        best_rows = best_rows.gather(1, order)
    refused = (best_rows.unsqueeze(2) == exclude.unsqueeze(1)).any(dim=2)
    order = torch.argsort(refused.to(torch.uint8), dim=1, stable=True)[:, :top_k]
    scores, rows = best_scores.gather(1, order), best_rows.gather(1, order)
    # a query that excludes as many rows as there are has no further answers
    return scores.masked_fill(refused.gather(1, order), float("nan")), rows


def nearest_rows(
    matrix: torch.Tensor, queries: torch.Tensor, top_k: int, exclude: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with the largest cosine to each query.

    Args:
        matrix: Vectors of shape (rows, dimensions), any float type, any device.
        queries: Vectors of shape (batch, dimensions).
        exclude: Rows that are no answer, int64 of shape (batch, n); -1 excludes nothing.

    Returns:
        Cosines and rows, of shape (batch, top_k), best first.
    """
    if exclude is None:
        exclude = torch.empty(len(queries), 0, dtype=torch.int64, device=matrix.device)
    queries = unit_rows(queries).to(_working_dtype(matrix))
    return _top_rows(matrix, lambda cosines: cosines(queries), top_k, exclude)


def analogy_rows(
    matrix: torch.Tensor, questions: torch.Tensor, top_k: int = 1, method: str = "3cosadd"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Answer "a is to b as c is to ?" for many questions at once; a, b and c themselves are no answers.

    Args:
        matrix: Vectors of shape (rows, dimensions).
        questions: Rows of a, b and c, int64 of shape (questions, 3).
        method: "3cosadd", the cosine to b - a + c, or "3cosmul" (Levy & Goldberg 2014, equation 4).

    Returns:
        Scores and rows of shape (questions, top_k), best first.

    Raises:
        ValueError: Unknown method.
    """
    return answer_analogies(matrix, matrix[questions], questions, top_k, method)


def answer_analogies(
    matrix: torch.Tensor, vectors: torch.Tensor, exclude: torch.Tensor, top_k: int = 1, method: str = "3cosadd"
) -> tuple[torch.Tensor, torch.Tensor]:
    """`analogy_rows` for vectors of a, b and c, of shape (questions, 3, dimensions), which need not be rows.

    Args:
        exclude: Rows that are no answer, int64 of shape (questions, n); -1 excludes nothing.
    """
    a, b, c = (unit_rows(vector) for vector in vectors.unbind(dim=1))
    if method == "3cosadd":
        return nearest_rows(matrix, b - a + c, top_k, exclude)
    if method != "3cosmul":
        raise ValueError(f"method must be '3cosadd' or '3cosmul', not {method!r}")

    def score(cosines: Cosines) -> torch.Tensor:
        to_a, to_b, to_c = ((1 + cosines(vectors)) / 2 for vectors in (a, b, c))
        return to_b * to_c / (to_a + _COSMUL_EPSILON)

    return _top_rows(matrix, score, top_k, exclude)


def _working_dtype(matrix: torch.Tensor) -> torch.dtype:
    return torch.float64 if matrix.dtype == torch.float64 else torch.float32


class WordVectorQueries:
    """Queries, for a model that has `word_vectors`, `unknown_vectors`, `vocabulary` and `device`.

    Words without a vector raise `UnknownWordError` (a `KeyError`) that suggests similar spellings; in documents they
    are skipped. With subwords, words that are not in the vocabulary have vectors too; answers are always words of the
    vocabulary. `topn` is gensim's name of `top_k`.
    """

    def _words(self: Any) -> Vocabulary:
        return self.require_vocabulary()

    def _matrix(self: Any, restrict_vocab: int | None = None) -> torch.Tensor:
        return self.word_vectors()[:restrict_vocab]

    def _find(self: Any, words: Sequence[str]) -> tuple[list[int], torch.Tensor]:
        """Rows of words, -1 for those outside the vocabulary, and their vectors (words, dimensions)."""
        vocabulary, matrix = self._words(), self._matrix()
        rows = [vocabulary.find(word) if isinstance(word, str) else vocabulary[word] for word in words]
        unknown = [place for place, row in enumerate(rows) if row is None]
        rows = [-1 if row is None else row for row in rows]
        index = torch.tensor(rows, dtype=torch.int64, device=matrix.device)
        if unknown:
            vectors = matrix.new_empty(len(rows), matrix.shape[1])
            vectors[index >= 0] = matrix[index[index >= 0]]
            found, known = self.unknown_vectors([words[place] for place in unknown])
            if not bool(known.all()):
                vocabulary[words[unknown[int(known.int().argmin())]]]  # raises
            vectors[index < 0] = found.to(vectors.dtype)
            return rows, vectors
        return rows, matrix[index]

    def _units(self, words: Sequence[str]) -> torch.Tensor:
        return unit_rows(self._find(words)[1])

    def __getitem__(self, words: str | Sequence[str]) -> torch.Tensor:
        return self.vector(words)

    def __contains__(self: Any, word: object) -> bool:
        if word in self._words():
            return True
        return isinstance(word, str) and bool(self.unknown_vectors([word])[1].all())

    def __len__(self: Any) -> int:
        return self.config.vocab_size

    def vector(self, words: str | Sequence[str]) -> torch.Tensor:
        """The vector of a word, of shape (embedding_size,), or those of several, (words, embedding_size).

        Raises:
            UnknownWordError: A word without a vector: not in the vocabulary, and no subwords.
        """
        if not isinstance(words, str) and not isinstance(words, Sequence | np.ndarray):
            raise TypeError(f"give a word or a list of words, not {type(words).__name__}")
        vectors = self._find(_words_of(words))[1]
        return vectors[0] if isinstance(words, str) else vectors

    @torch.no_grad()
    def most_similar(
        self,
        positive: WeightedItem | Sequence[WeightedItem],
        negative: WeightedItem | Sequence[WeightedItem] | None = None,
        top_k: int = 10,
        restrict_vocab: int | None = None,
        *,
        topn: int | None = None,
    ) -> list[tuple[str, float]]:
        """Words whose vectors have the largest cosine to a sum of words and vectors.

        Args:
            positive: Words (their unit vectors), vectors (not normalized, as in gensim) or (word or vector, weight)
                pairs to add; `["czech", "currency"]` composes.
            restrict_vocab: Search only the first rows, the most frequent words.

        Returns:
            (word, cosine) pairs, best first, without the words of the query.

        Raises:
            UnknownWordError: A word that is not in the vocabulary.
            TypeError: Something else than words and vectors; a vector is an array or a tensor, not a list of numbers.
            ValueError: A vector of another size, a number that is not finite, or a sum of zero.
        """
        return self.most_similar_batch([positive], [negative], top_k, restrict_vocab, topn=topn)[0]

    @torch.no_grad()
    def most_similar_batch(
        self,
        positive: Sequence[WeightedItem | Sequence[WeightedItem]],
        negative: Sequence[WeightedItem | Sequence[WeightedItem] | None] | None = None,
        top_k: int = 10,
        restrict_vocab: int | None = None,
        *,
        topn: int | None = None,
    ) -> list[list[tuple[str, float]]]:
        """`most_similar` for many queries in one matrix product per chunk of rows, on the model's device.

        Returns:
            One list of (word, cosine) pairs per query.
        """
        if isinstance(positive, str | bytes):
            raise TypeError("most_similar_batch takes a list of queries; for a single one use most_similar")
        negative = [None] * len(positive) if negative is None else negative
        means, excluded = [], []
        for plus, minus in zip(positive, negative, strict=True):
            mean, rows = self._sum_of(_as_items(plus), _as_items(minus))
            means.append(mean)
            excluded.append(rows)
        if not means:
            return []
        width = max(len(rows) for rows in excluded)
        exclude = torch.tensor([rows + [-1] * (width - len(rows)) for rows in excluded], dtype=torch.int64)
        matrix = self._matrix(restrict_vocab)
        return self._named(*nearest_rows(matrix, torch.stack(means), _number(top_k, topn), exclude.to(matrix.device)))

    def _sum_of(self, positive: list[Any], negative: list[Any]) -> tuple[torch.Tensor, list[int]]:
        """The weighted sum of unit vectors, of shape (embedding_size,), and the rows of the words in it."""
        if not positive and not negative:
            raise ValueError("most_similar needs at least one word or vector")
        matrix = self._matrix()
        total = torch.zeros(matrix.shape[1], dtype=_working_dtype(matrix), device=matrix.device)
        rows = []
        for items, sign in ((positive, 1.0), (negative, -1.0)):
            for item in items:
                item, weight = item if isinstance(item, tuple) else (item, sign)
                if not math.isfinite(weight):
                    raise ValueError(f"a weight of the query is not finite: {weight}")
                if isinstance(item, str):
                    (row,), vectors = self._find([item])
                    rows.append(row)
                    vector = unit_rows(vectors)[0]
                elif isinstance(item, np.ndarray | torch.Tensor):  # not normalized: the caller chose its length
                    vector = torch.as_tensor(item, device=matrix.device)
                    if vector.shape != total.shape:
                        raise ValueError(f"a vector has the shape {tuple(total.shape)}, not {tuple(vector.shape)}")
                    if not bool(torch.isfinite(vector).all()):
                        raise ValueError("a vector of the query has a number that is not finite")
                else:
                    raise TypeError(
                        f"a query is made of words and vectors (arrays or tensors), not of {type(item).__name__} "
                        f"({str(item)[:40]})"
                    )
                total += float(weight) * vector
        if not bool(torch.isfinite(total).all() and total.any()):
            raise ValueError("the query adds up to zero or to no finite number, which is like no word")
        return total, rows

    def _named(self, scores: torch.Tensor, rows: torch.Tensor) -> list[list[tuple[str, float]]]:
        words = self._words().words
        return [
            [(words[row], score) for score, row in zip(*pair, strict=True) if score == score]  # NaN: no answer
            for pair in zip(scores.tolist(), rows.tolist(), strict=True)
        ]

    @torch.no_grad()
    def similarity(self, first: str | Sequence[str], second: str | Sequence[str]) -> float | torch.Tensor:
        """Cosine of two words, or cosines of all words of two lists, of shape (N, M)."""
        cosines = self._units(_words_of(first)) @ self._units(_words_of(second)).T
        return cosines.item() if isinstance(first, str) and isinstance(second, str) else cosines

    @torch.no_grad()
    def similarity_pairwise(self, first: str | Sequence[str], second: str | Sequence[str]) -> torch.Tensor:
        """Cosines of the pairs that two lists of N words make, of shape (N,); a word is a list of one."""
        first, second = _words_of(first), _words_of(second)
        if len(first) != len(second):
            raise ValueError(f"{len(first)} and {len(second)} words do not make pairs")
        return (self._units(first) * self._units(second)).sum(dim=1)

    @torch.no_grad()
    def doesnt_match(self, words: Sequence[str]) -> str:
        """The word farthest (by cosine) from the mean of them all."""
        if isinstance(words, str):
            raise TypeError("doesnt_match takes a list of words, not a text")
        if not words:
            raise ValueError("doesnt_match needs words")
        vectors = self._units(words)
        return words[int((vectors @ vectors.mean(dim=0)).argmin())]

    def analogy(
        self,
        a: str,
        b: str,
        c: str,
        top_k: int = 1,
        method: str = "3cosadd",
        restrict_vocab: int | None = None,
        *,
        topn: int | None = None,
    ) -> list[tuple[str, float]]:
        """Answer "a is to b as c is to ?": man, king, woman -> queen; walk, walked, swim -> swam.

        Args:
            method: "3cosadd" or "3cosmul".

        Returns:
            (word, score) pairs, best first.
        """
        return self.analogies([(a, b, c)], top_k, method, restrict_vocab, topn=topn)[0]

    @torch.no_grad()
    def analogies(
        self,
        questions: Sequence[tuple[str, str, str]],
        top_k: int = 1,
        method: str = "3cosadd",
        restrict_vocab: int | None = None,
        *,
        topn: int | None = None,
    ) -> list[list[tuple[str, float]]]:
        """`analogy` for many questions at once, on the model's device."""
        if not questions:
            return []
        found, vectors = self._find([word for question in questions for word in question])
        if restrict_vocab is not None and max(found) >= restrict_vocab:
            raise ValueError(f"{self._words().words[max(found)]!r} is not among the first {restrict_vocab} words")
        matrix, rows = self._matrix(restrict_vocab), torch.tensor(found, device=vectors.device).view(-1, 3)
        vectors = vectors.view(*rows.shape, -1)
        return self._named(*answer_analogies(matrix, vectors, rows, _number(top_k, topn), method))

    @torch.no_grad()
    def document_vectors(
        self: Any,
        documents: Sequence[str | Sequence[str]],
        weighting: str = "mean",
        fitted_on: Sequence[str | Sequence[str]] | None = None,
        sif_a: float = 1e-3,
    ) -> torch.Tensor:
        """Vectors of documents: the weighted mean of the vectors of their known words.

        Args:
            documents: Texts (split into words as the training text was) or lists of words.
            weighting: "mean"; "tf-idf" (words weighted by log((1 + documents) / (1 + documents with the word)) + 1,
                like scikit-learn); or "sif" (Arora et al. 2017: a / (a + p(word)), then the first principal component
                is removed, unless all documents point in its direction, as a single one does).
            fitted_on: The documents that the principal component or the document frequencies come from, such as those
                of training. Default: `documents`.
            sif_a: a of "sif".

        Returns:
            float32 (float64 for a model in float64) of shape (documents, embedding_size), on the model's device; 0
            where no word is known.

        Raises:
            ValueError: Unknown weighting, or "sif" without word counts.
            TypeError: One text instead of a list.
        """
        matrix = self._matrix()
        if self.ngram_embeddings is None:
            encoded = self._words().encode(documents)
            reference = encoded if fitted_on is None else self._words().encode(fitted_on)
        else:  # unknown words get rows below those of the vocabulary
            encoded, unknown = self._encode_all(documents)
            reference, more = (encoded, unknown) if fitted_on is None else self._encode_all(fitted_on, unknown)
            matrix = torch.cat([matrix, self.unknown_vectors(more)[0].to(matrix.dtype)])
        if weighting == "mean":
            return _weighted_means(matrix, encoded, None)
        if weighting == "tf-idf":
            frequency = np.zeros(len(matrix))
            for rows in reference:
                frequency[np.unique(rows)] += 1
            return _weighted_means(matrix, encoded, np.log((1 + len(reference)) / (1 + frequency)) + 1)
        if weighting != "sif":
            raise ValueError(f"weighting must be 'mean', 'sif' or 'tf-idf', not {weighting!r}")
        counts = self._words().known_counts()
        weights = np.ones(len(matrix))
        weights[: len(counts)] = sif_a / (sif_a + counts / counts.sum())
        fitted = _weighted_means(matrix, reference, weights)
        vectors = fitted if fitted_on is None else _weighted_means(matrix, encoded, weights)
        spread = fitted.cpu().double()
        values, components = torch.linalg.eigh(spread.T @ spread)
        if len(values) < 2 or values[-2] <= 1e-9 * values[-1]:
            return vectors
        component = components[:, -1].to(vectors)
        return vectors - (vectors @ component).unsqueeze(1) * component

    def _encode_all(
        self: Any, documents: Sequence[str | Sequence[str]], unknown: list[str] | None = None
    ) -> tuple[list[np.ndarray], list[str]]:
        """Rows of the words of each document; unknown words with a vector have the rows after the vocabulary's.

        Args:
            unknown: Words that have such rows already.
        """
        vocabulary = self._words()
        split = vocabulary.split(documents)
        found = {word: vocabulary.find(word) for word in dict.fromkeys(word for words in split for word in words)}
        extra = list(unknown or [])
        found |= {word: len(vocabulary) + place for place, word in enumerate(extra)}
        new = [word for word, row in found.items() if row is None]
        for word, known in zip(new, self.unknown_vectors(new)[1].tolist(), strict=True):
            if known:
                found[word] = len(vocabulary) + len(extra)
                extra.append(word)
        rows = [[found[word] for word in words if found[word] is not None] for words in split]
        return [np.array(ids, dtype=np.int64) for ids in rows], extra


def _weighted_means(matrix: torch.Tensor, encoded: list[np.ndarray], weights: np.ndarray | None) -> torch.Tensor:
    """Sum of weight x vector over the words of a document, divided by their number."""
    lengths = torch.tensor([len(rows) for rows in encoded], dtype=torch.int64)
    flat = torch.from_numpy(np.concatenate([*encoded, np.empty(0, np.int64)])).to(matrix.device)
    vectors = matrix[flat].to(_working_dtype(matrix))
    if weights is not None:
        vectors *= torch.from_numpy(weights).to(vectors)[flat].unsqueeze(1)
    document = torch.repeat_interleave(torch.arange(len(encoded)), lengths).to(matrix.device)
    sums = vectors.new_zeros(len(encoded), matrix.shape[1])
    sums.index_add_(0, document, vectors)
    return sums / lengths.clamp(min=1).unsqueeze(1).to(matrix.device)


def _as_items(items: Any) -> list[Any]:
    """What a query is made of: a single item, or a list of items."""
    if items is None:
        return []
    pair = isinstance(items, tuple) and len(items) == 2 and isinstance(items[1], Real)
    if pair or isinstance(items, str | bytes | np.ndarray | torch.Tensor) or not isinstance(items, Sequence):
        return [items]
    return list(items)


def _words_of(words: str | Sequence[str]) -> Sequence[str]:
    return [words] if isinstance(words, str) else words


def _number(top_k: int, topn: int | None) -> int:
    number = top_k if topn is None else topn
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"top_k must be a whole number from 1, not {number!r}")
    return number
