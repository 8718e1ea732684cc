"""Questions one asks of word vectors: neighbours, analogies, odd ones out, vectors of documents."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from .vocabulary_word2vec import Vocabulary

_CHUNK_ROWS, _CHUNK_SCORES = 65_536, 4_194_304
_COSMUL_EPSILON = 1e-6

Item = str | np.ndarray | torch.Tensor
WeightedItem = Item | tuple[Item, float]
Cosines = Callable[[torch.Tensor], torch.Tensor]


def unit_rows(matrix: torch.Tensor) -> torch.Tensor:
    """Rows of length 1 in float32 (or float64); a row of zeros stays one. Shape (rows, dimensions)."""
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    return matrix / torch.linalg.vector_norm(matrix, dim=1, keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)


def row_lengths(matrix: torch.Tensor) -> torch.Tensor:
    """Euclidean length of each row of (rows, dimensions), never 0, float32 (float64 for float64)."""
    dtype = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    chunks = (torch.linalg.vector_norm(chunk, dim=1, dtype=dtype) for chunk in matrix.split(_CHUNK_ROWS))
    return torch.cat(list(chunks)).clamp_(min=torch.finfo(dtype).tiny)


def _top_rows(
    matrix: torch.Tensor,
    score: Callable[[Cosines], torch.Tensor],
    topn: int,
    exclude: torch.Tensor,
    lengths: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best rows by `score(cosines)`, where `cosines(queries)` is (batch, chunk); memory is bounded by the chunk.

    Args:
        matrix: Vectors of shape (rows, dimensions), any float type.
        score: The scores of a chunk of rows for every query, from the cosines of unit queries to it.
        topn: How many a query.
        exclude: Rows that are no answer, int64 of shape (batch, n); -1 excludes nothing.
        lengths: `row_lengths(matrix)`, or None to measure them.

    Returns:
        Scores and rows of shape (batch, topn), best first; fewer where the matrix has fewer.
    """
    batch, num_excluded = exclude.shape
    lengths = row_lengths(matrix) if lengths is None else lengths
    best_scores = torch.empty(batch, 0, device=matrix.device)
    best_rows = torch.empty(batch, 0, dtype=torch.int64, device=matrix.device)
    wanted = min(topn + num_excluded, len(matrix))
    plain = matrix.dtype in (torch.float32, torch.float64)
    # a few queries take all rows at once: threads that meet after every chunk lose half their time
    step = max(_CHUNK_SCORES // max(batch, 1), _CHUNK_ROWS) if plain else _CHUNK_ROWS
    for start in range(0, len(matrix), step):
        chunk = matrix[start : start + step] if plain else matrix[start : start + step].float()
        # dividing the products, not the rows, spares a copy of the matrix
        part = lengths[start : start + step]
        scores = score(lambda queries, chunk=chunk, part=part: (queries @ chunk.T).div_(part))
        scores, rows = scores.topk(min(wanted, scores.shape[1]), dim=1)
        best_scores = torch.cat([best_scores.to(scores.dtype), scores], dim=1)
        best_rows = torch.cat([best_rows, rows + start], dim=1)
        best_scores, order = best_scores.topk(min(wanted, best_scores.shape[1]), dim=1)
        best_rows = best_rows.gather(1, order)
    refused = (best_rows.unsqueeze(2) == exclude.unsqueeze(1)).any(dim=2)
    order = torch.argsort(refused.to(torch.uint8), dim=1, stable=True)[:, :topn]
    scores, rows = best_scores.gather(1, order), best_rows.gather(1, order)
    # a query that excludes as many rows as there are has no further answers
    return scores.masked_fill(refused.gather(1, order), float("nan")), rows


def nearest_rows(
    matrix: torch.Tensor,
    queries: torch.Tensor,
    topn: int,
    exclude: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with the largest cosine to each query.

    Args:
        matrix: Vectors of shape (rows, dimensions), any float type, any device.
        queries: Vectors of shape (batch, dimensions).
        topn: How many rows a query.
        exclude: Rows that are no answer, int64 of shape (batch, n); -1 excludes nothing.
        lengths: `row_lengths(matrix)`, for whoever asks often. Default: measured.

    Returns:
        Cosines and rows, of shape (batch, topn), best first.
    """
    if exclude is None:
        exclude = torch.empty(len(queries), 0, dtype=torch.int64, device=matrix.device)
    queries = unit_rows(queries)
    return _top_rows(matrix, lambda cosines: cosines(queries), topn, exclude, lengths)


def analogy_rows(
    matrix: torch.Tensor,
    questions: torch.Tensor,
    topn: int = 1,
    method: str = "3cosadd",
    lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Answer "a is to b as c is to ?" for many questions at once; a, b and c themselves are no answers.

    Args:
        matrix: Vectors of shape (rows, dimensions).
        questions: Rows of a, b and c, int64 of shape (questions, 3).
        topn: How many answers a question.
        method: "3cosadd", the cosine to b - a + c, or "3cosmul" (Levy & Goldberg 2014, equation 4).
        lengths: `row_lengths(matrix)`, for whoever asks often. Default: measured.

    Returns:
        Scores and rows of shape (questions, topn), best first.

    Raises:
        ValueError: A method that does not exist.
    """
    a, b, c = (unit_rows(matrix[column]) for column in questions.unbind(dim=1))
    if method == "3cosadd":
        return nearest_rows(matrix, b - a + c, topn, questions, lengths)
    if method != "3cosmul":
        raise ValueError(f"method is '3cosadd' or '3cosmul', not {method!r}")

    def score(cosines: Cosines) -> torch.Tensor:
        to_a, to_b, to_c = ((1 + cosines(vectors)) / 2 for vectors in (a, b, c))
        return to_b * to_c / (to_a + _COSMUL_EPSILON)

    return _top_rows(matrix, score, topn, questions, lengths)


class WordVectorQueries:
    """The questions, for a model that has `embeddings`, `vocabulary` and `device`.

    Unknown words raise `UnknownWordError` (a `KeyError`) that names near spellings; in documents they are skipped.
    """

    _measured_lengths: tuple[tuple[int, int], torch.Tensor] | None = None

    def _words(self) -> Vocabulary:
        if self.vocabulary is None:
            raise ValueError("the model has no words: load it from a folder with a tokenizer, or use set_vocabulary")
        return self.vocabulary

    def _rows(self, words: Sequence[str]) -> torch.Tensor:
        vocabulary = self._words()
        return torch.tensor([vocabulary[word] for word in words], dtype=torch.int64, device=self.device)

    def _matrix(self, restrict_vocab: int | None = None) -> torch.Tensor:
        return self.embeddings.weight.detach()[:restrict_vocab]

    def _lengths(self, restrict_vocab: int | None = None) -> torch.Tensor:
        """The rows' lengths, measured once for as long as nobody writes to the matrix: half of a query's time."""
        weight = self.embeddings.weight
        if weight.is_inference():  # torch does not count writes to those
            return row_lengths(weight)[:restrict_vocab]
        written = (weight.data_ptr(), weight._version)
        if self._measured_lengths is None or self._measured_lengths[0] != written:
            self._measured_lengths = written, row_lengths(weight.detach())
        return self._measured_lengths[1][:restrict_vocab]

    def vector(self, words: str | Sequence[str]) -> torch.Tensor:
        """The vector of a word, of shape (embedding_size,), or those of several, (words, embedding_size)."""
        rows = self._rows([words] if isinstance(words, str) else words)
        vectors = self._matrix()[rows]
        return vectors[0] if isinstance(words, str) else vectors

    @torch.no_grad()
    def most_similar(
        self,
        positive: WeightedItem | Sequence[WeightedItem],
        negative: WeightedItem | Sequence[WeightedItem] | None = None,
        topn: int = 10,
        restrict_vocab: int | None = None,
    ) -> list[tuple[str, float]]:
        """Words whose vectors have the largest cosine to the sum of what is given.

        Args:
            positive: Words (their unit vectors), vectors (as they are, like gensim) or (word or vector, weight) pairs
                that count for; `["czech", "currency"]` composes.
            negative: Those that count against.
            topn: How many words.
            restrict_vocab: Search only the first so many rows, the most frequent words.

        Returns:
            (word, cosine) pairs, best first, without the words asked for.

        Raises:
            UnknownWordError: A word that the vocabulary does not have.
        """
        return self.most_similar_batch([positive], [negative], topn, restrict_vocab)[0]

    @torch.no_grad()
    def most_similar_batch(
        self,
        positive: Sequence[WeightedItem | Sequence[WeightedItem]],
        negative: Sequence[WeightedItem | Sequence[WeightedItem] | None] | None = None,
        topn: int = 10,
        restrict_vocab: int | None = None,
    ) -> list[list[tuple[str, float]]]:
        """`most_similar` for many queries in one matrix product a chunk of rows, on the model's device.

        Args:
            positive: For each query what counts for.
            negative: For each query what counts against.
            topn: How many words a query.
            restrict_vocab: Search only the first so many rows.

        Returns:
            A list of (word, cosine) pairs a query.
        """
        negative = [None] * len(positive) if negative is None else negative
        means, excluded = [], []
        for plus, minus in zip(positive, negative, strict=True):
            mean, rows = self._mean_of(_as_list(plus), _as_list(minus))
            means.append(mean)
            excluded.append(rows)
        if not means:
            return []
        width = max(len(rows) for rows in excluded)
        exclude = torch.tensor([rows + [-1] * (width - len(rows)) for rows in excluded], dtype=torch.int64)
        matrix, lengths = self._matrix(restrict_vocab), self._lengths(restrict_vocab)
        return self._named(*nearest_rows(matrix, torch.stack(means), topn, exclude.to(self.device), lengths))

    def _mean_of(self, positive: list[WeightedItem], negative: list[WeightedItem]) -> tuple[torch.Tensor, list[int]]:
        """The weighted sum of unit vectors, of shape (embedding_size,), and the rows of the words in it."""
        if not positive and not negative:
            raise ValueError("most_similar needs at least one word or vector")
        total = torch.zeros(self.config.embedding_size, device=self.device)
        rows = []
        for items, sign in ((positive, 1.0), (negative, -1.0)):
            for item in items:
                item, weight = item if isinstance(item, tuple) else (item, sign)
                if isinstance(item, str):
                    rows.append(self._words()[item])
                    vector = unit_rows(self._matrix()[rows[-1]].unsqueeze(0))[0]
                else:  # as it is: whoever has a vector has its length too
                    vector = torch.as_tensor(item, device=self.device)
                total += weight * vector
        return total, rows

    def _named(self, scores: torch.Tensor, rows: torch.Tensor) -> list[list[tuple[str, float]]]:
        words = self._words().words
        return [
            [(words[row], score) for score, row in zip(*pair, strict=True) if score == score]  # nan: no answer
            for pair in zip(scores.tolist(), rows.tolist(), strict=True)
        ]

    @torch.no_grad()
    def similarity(self, first: str | Sequence[str], second: str | Sequence[str]) -> float | torch.Tensor:
        """Cosine of two words, or of the pairs that two lists of words make (float32 of shape (pairs,))."""
        single = isinstance(first, str) and isinstance(second, str)
        one, other = ([words] if isinstance(words, str) else words for words in (first, second))
        if len(one) != len(other):
            raise ValueError(f"{len(one)} and {len(other)} words do not make pairs")
        cosines = (unit_rows(self._matrix()[self._rows(one)]) * unit_rows(self._matrix()[self._rows(other)])).sum(
            dim=1
        )
        return cosines.item() if single else cosines

    @torch.no_grad()
    def doesnt_match(self, words: Sequence[str]) -> str:
        """The word farthest (by cosine) from the mean of them all."""
        if not words:
            raise ValueError("doesnt_match needs words")
        vectors = unit_rows(self._matrix()[self._rows(words)])
        return words[int((vectors @ vectors.mean(dim=0)).argmin())]

    def analogy(
        self, a: str, b: str, c: str, topn: int = 1, method: str = "3cosadd", restrict_vocab: int | None = None
    ) -> list[tuple[str, float]]:
        """Answer "a is to b as c is to ?": man, king, woman -> queen; walk, walked, swim -> swam.

        Args:
            a: What `b` belongs to.
            b: What belongs to `a`.
            c: What the answer belongs to.
            topn: How many answers.
            method: "3cosadd" or "3cosmul".
            restrict_vocab: Search only the first so many rows.

        Returns:
            (word, score) pairs, best first.
        """
        return self.analogies([(a, b, c)], topn, method, restrict_vocab)[0]

    @torch.no_grad()
    def analogies(
        self,
        questions: Sequence[tuple[str, str, str]],
        topn: int = 1,
        method: str = "3cosadd",
        restrict_vocab: int | None = None,
    ) -> list[list[tuple[str, float]]]:
        """`analogy` for many questions at once, on the model's device."""
        rows = torch.stack([self._rows(question) for question in questions])
        if restrict_vocab is not None and int(rows.max()) >= restrict_vocab:
            word = self._words().words[int(rows.max())]
            raise ValueError(f"{word!r} is not among the first {restrict_vocab} words")
        matrix, lengths = self._matrix(restrict_vocab), self._lengths(restrict_vocab)
        return self._named(*analogy_rows(matrix, rows, topn, method, lengths))

    @torch.no_grad()
    def document_vectors(
        self,
        documents: Sequence[str | Sequence[str]],
        weighting: str = "mean",
        fitted_on: Sequence[str | Sequence[str]] | None = None,
        sif_a: float = 1e-3,
    ) -> torch.Tensor:
        """Vectors of documents: the weighted mean of the vectors of their known words.

        Args:
            documents: Texts (made into words as the training text was) or lists of words.
            weighting: "mean"; "sif" (Arora et al. 2017: a / (a + p(word)), then the first principal component is
                taken away); or "tf-idf" (words weighted by log(documents / documents with the word)).
            fitted_on: The documents that the principal component or the document frequencies come from, those of
                training say. Default: `documents`.
            sif_a: a of "sif".

        Returns:
            float32 of shape (documents, embedding_size), on the model's device; 0 where no word is known.

        Raises:
            ValueError: A weighting that does not exist, or "sif" without word counts.
        """
        encoded = self._words().encode(documents)
        if weighting == "mean":
            return self._weighted_means(encoded, None)
        reference = encoded if fitted_on is None else self._words().encode(fitted_on)
        if weighting == "tf-idf":
            frequency = np.zeros(self.config.vocab_size)
            for rows in reference:
                frequency[np.unique(rows)] += 1
            return self._weighted_means(encoded, np.log(max(len(reference), 1) / np.maximum(frequency, 1)))
        if weighting != "sif":
            raise ValueError(f"weighting is 'mean', 'sif' or 'tf-idf', not {weighting!r}")
        counts = self._words().known_counts()
        weights = sif_a / (sif_a + counts / counts.sum())
        fitted = self._weighted_means(reference, weights)
        vectors = fitted if fitted_on is None else self._weighted_means(encoded, weights)
        component = torch.linalg.eigh(fitted.T.double() @ fitted.double()).eigenvectors[:, -1].float()
        return vectors - (vectors @ component).unsqueeze(1) * component

    def _weighted_means(self, encoded: list[np.ndarray], weights: np.ndarray | None) -> torch.Tensor:
        """Sum of weight x vector over the words of a document, divided by their number."""
        lengths = np.array([len(rows) for rows in encoded], dtype=np.int64)
        flat = torch.from_numpy(np.concatenate([*encoded, np.empty(0, np.int64)])).to(self.device)
        vectors = self._matrix()[flat].float()
        if weights is not None:
            vectors *= torch.from_numpy(weights).float().to(self.device)[flat].unsqueeze(1)
        document = torch.repeat_interleave(torch.arange(len(encoded)), torch.from_numpy(lengths)).to(self.device)
        sums = torch.zeros(len(encoded), self.config.embedding_size, device=self.device)
        sums.index_add_(0, document, vectors)
        return sums / torch.from_numpy(lengths).clamp(min=1).unsqueeze(1).to(self.device)


def _as_list(items: object) -> list:
    if items is None:
        return []
    if isinstance(items, str | tuple | np.ndarray | torch.Tensor):
        return [items]
    return list(items)
