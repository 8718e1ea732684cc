"""One index for faces, images and words: who or what is nearest, and is it near enough to be known at all?"""

import logging
import math
import os
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hfembed.atomic import atomic_folder
from hfembed.checkpoint.json_notes import read_json, write_json
from hfembed.errors import InputError, first_line
from hfembed.hub.card_marker import mark
from hfembed.hub.commit import Pushed, commit_files, full_name
from hfembed.hub.download import download_files
from hfembed.index.approximate import ApproximateSearch, import_faiss
from hfembed.index.card import render_index_card
from hfembed.index.error_rates import far_is_carried
from hfembed.index.min_quality import MIN_QUALITY, check_min_quality
from hfembed.index.origin import Origin, shareable_name
from hfembed.index.text_column import TextColumn, read_texts, write_texts
from hfembed.index.vector_store import PRECISIONS, Precision, VectorStore
from hfembed.photos import utf8_name

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)

Aggregation = Literal["max", "mean"]

VECTORS_FILE, LABELS_FILE, PHOTOS_FILE, INDEX_FILE = (
    "embeddings.safetensors", "labels.arrow", "files.arrow", "index.json"
)  # fmt: skip
APPROXIMATE_FILE = "approximate.safetensors"  # of an index that was given `build_approximate`
INDEX_FILES = (VECTORS_FILE, LABELS_FILE, PHOTOS_FILE, INDEX_FILE)
TABLE_FILE = "table.parquet"  # label and file of every row, for the Hub's viewer alone
_OLD_LABELS_FILE = "labels.parquet"  # of hfembed 0.1: label and file of every row
_OTHER_FILES = (APPROXIMATE_FILE, _OLD_LABELS_FILE)
_MERGED_AT_A_TIME = 65_536
_QUERIES = 64  # searched at a time
_CANDIDATES = 200  # of an approximate search, at least
FPIR_TARGETS = (0.1, 0.01, 0.001)

# the names of hfembed 0.1, still accepted
_OLD_AGGREGATIONS = {"best": "max"}


class Matches(NamedTuple):
    """The nearest labels of Q queries, the nearest first.

    Attributes:
        scores: (Q, k) float32, cosine similarity to the label's nearest vector, or to the mean of its vectors.
        files: Q lists of k file names, of the label's nearest vector; None where it has none or means are compared.
        known: (Q,) bool, whether the first label is near enough; None without `fpir`.
    """

    labels: list[list[str]]
    scores: np.ndarray
    files: list[list[str | None]]
    known: np.ndarray | None


class EmbeddingIndex:
    """A gallery of embeddings by label: many photos per person, one vector per word, whatever has a name.

    Search is exact: every query is compared with every vector, until `build_approximate`. Cosine similarity
    throughout; vectors need not have unit length.

    Args:
        precision: How vectors are kept: "float32", "float16" (half the memory) or "int8" (a quarter; one scale per
            row).
        origin: What made the embeddings: `analyzer.origin`, `Origin.of(model)`, or only the model's id on the Hub.

    Attributes:
        thresholds: Aggregation -> what `calibrate` stored. Adding or removing labels empties it, since a threshold
            holds for the gallery it was set on.

    Raises:
        InputError: There is no such precision.

    Example:
        ```python
        index = EmbeddingIndex(origin=Origin.of(model))
        index.add(embeddings, labels=["Ann", "Ann", "Bob"], files=["a1.jpg", "a2.jpg", "b1.jpg"])
        index.calibrate(strangers)
        matches = index.search(model.embed(photo), top_k=5, fpir=0.01)
        ```
    """

    def __init__(
        self, precision: Precision = "float32", origin: Origin | str | None = None, *, model: str | None = None
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
        self.precision: Precision = precision
        origin = model if origin is None else origin
        self.origin = origin if isinstance(origin, Origin) else Origin(shareable_name(origin))
        self.thresholds: dict[str, dict[str, Any]] = {}
        # Rows are kept at places, which a removal leaves empty: what was read from a file stays in the file
        self._names = TextColumn()  # each label once, in the order of its first vector
        self._gone_names: set[int] = set()
        self._labels = np.empty(0, dtype=np.int32)  # place in _names of each row's label; longer than there are rows
        self._files = TextColumn()
        self._vectors: VectorStore | None = None  # made by the first add, which tells the dimension
        self._approximate: ApproximateSearch | None = None
        self._means: VectorStore | None = None  # made by the first search that needs it

    def __repr__(self) -> str:
        return (
            f"EmbeddingIndex({len(self)} vectors, {self.label_count} labels, dimension={self.dimension}, "
            f"precision={self.precision!r}, model={self.model!r})"
        )

    @property
    def model(self) -> str | None:
        """The id on the Hub of the model that the embeddings come from."""
        return self.origin.model

    def __len__(self) -> int:
        """Number of vectors."""
        return len(self._files) - len(self._gone)

    def __contains__(self, label: object) -> bool:
        return self._find(label) is not None

    @property
    def label_count(self) -> int:
        """Number of different labels."""
        return len(self._names) - len(self._gone_names)

    @property
    def names(self) -> list[str]:
        """Every label once, in the order of first addition."""
        everything = self._names.arrow().to_pylist()
        return [name for place, name in enumerate(everything) if place not in self._gone_names]

    @property
    def labels(self) -> list[str]:
        """The label of each row."""
        return cast(list[str], self._names.take(self._label_of[self._places()]))

    @property
    def files(self) -> list[str | None]:
        """The file of each row."""
        return self._files.take(self._places())

    @property
    def dimension(self) -> int | None:
        """Length of a vector; None while the index is empty."""
        return None if self._vectors is None else self._vectors.dimension

    @property
    def nbytes(self) -> int:
        """Bytes that the vectors take."""
        return 0 if self._vectors is None else self._vectors.nbytes

    def add(
        self,
        embeddings: torch.Tensor | np.ndarray,
        labels: Sequence[str],
        files: Sequence[str | None] | None = None,
        qualities: Sequence[float] | np.ndarray | None = None,
        min_quality: float = MIN_QUALITY,
    ) -> list[int]:
        """Add vectors; a label may have any number of them, added together or one by one.

        Args:
            embeddings: (N, D) float, finite, of any length but zero.
            labels: N labels.
            files: N file names, shown with a match.
            qualities: Of the N faces, their `quality.overall`; None where there is nothing to judge by.
            min_quality: Rows of a lower quality are set aside, and a line is logged; 0 adds all.

        Returns:
            The positions of the rows that were set aside.

        Raises:
            InputError: Lengths or dimensions do not fit, a label is not text, or a row is zero or not finite; nothing
                is added then.
        """
        vectors = self._checked(embeddings)
        files = [None] * len(vectors) if files is None else list(files)
        judged = np.ones(len(vectors)) if qualities is None else np.asarray(qualities, dtype=np.float64)
        if isinstance(labels, str):
            raise InputError(f"labels are a list of texts, one per embedding, not the text {labels!r}")
        if not len(vectors) == len(labels) == len(files) == len(judged):
            raise InputError(
                f"{len(vectors)} embeddings, {len(labels)} labels, {len(files)} files, {len(judged)} qualities: "
                "counts must agree"
            )
        for label in labels:
            if not isinstance(label, str) or not label:
                raise InputError(f"a label must be non-empty text, got {label!r}")
        check_min_quality(min_quality)
        is_good = judged >= min_quality  # false for NaN
        poor = np.flatnonzero(~is_good).tolist()
        if poor:
            names = ", ".join(str(files[row] or labels[row]) for row in poor[:3]) + (", ..." if len(poor) > 3 else "")
            logger.warning("%d of %d faces set aside, quality below %g: %s", len(poor), len(files), min_quality, names)
            vectors = vectors[torch.from_numpy(is_good)]
            kept = np.flatnonzero(is_good).tolist()
            labels, files = [labels[row] for row in kept], [files[row] for row in kept]
        if len(poor) == len(judged) > 0:
            return poor
        if self._vectors is None:
            self._vectors = VectorStore(vectors.shape[1], self.precision)
        self._vectors.append(vectors)
        if self._approximate is not None:
            self._approximate.append(vectors)
        numbers = self._names.number([utf8_name(label) for label in labels], self._gone_names)
        start, end = len(self._files), len(self._files) + len(numbers)
        if end > len(self._labels):  # grows by half: each number is copied a few times only
            self._labels = np.concatenate([self._labels[:start], np.empty(max(start // 2, end - start), np.int32)])
        self._labels[start:end] = numbers
        self._files.append([None if file is None else utf8_name(str(file)) for file in files])
        self._changed()
        return poor

    def remove(self, label: str) -> int:
        """Remove a label and all its vectors; returns how many it had.

        Raises:
            InputError: The index has no such label.
        """
        number = self._find(label)
        if number is None:
            raise InputError(f"the index has no label {label!r}")
        gone = np.flatnonzero(self._label_of == number)
        self._store().hide(torch.from_numpy(gone))
        self._gone_names.add(number)
        self._changed()
        if len(self._gone) > len(self):
            self._close_gaps()
        return len(gone)

    def merge(self, other: "EmbeddingIndex") -> None:
        """Add everything that another index holds; equal labels are one person.

        Args:
            other: An index of the same dimension, of any precision; it is not changed.

        Raises:
            InputError: The dimensions differ, or the embeddings are of two models.
        """
        difference = self.origin.difference(other.origin)
        if difference:
            raise InputError(f"embeddings of the two indexes cannot be compared: {difference}; use one model for both")
        if len(other):
            labels, files = other.labels, other.files
            for start in range(0, len(other), _MERGED_AT_A_TIME):
                rows = slice(start, min(start + _MERGED_AT_A_TIME, len(other)))
                vectors = other._store().rows(torch.from_numpy(other._places()[rows]))
                self.add(vectors, labels[rows], files[rows])
            mine, its = self.origin, other.origin
            settings = {**its.settings, **mine.settings}
            self.origin = Origin(mine.model or its.model, mine.weights or its.weights, settings)

    def check_origin(self, origin: Origin, dimension: int | None = None, name: str = "the index") -> None:
        """Refuse a model whose embeddings cannot be compared with these; warn where that is not known.

        Args:
            origin: Of the model's embeddings.
            dimension: Of the model's embeddings; None is not checked.
            name: What to call the index in messages.

        Raises:
            InputError: The model, its settings or the dimension is another one.
        """
        difference = self.origin.difference(origin)
        if difference is None and None not in (dimension, self.dimension) and dimension != self.dimension:
            difference = f"its embeddings have {self.dimension} dimensions, the model's have {dimension}"
        if difference:
            raise InputError(f"{name} was made by another model: {difference}; make it again with this model")
        if self.origin.weights is None:
            logger.warning("%s does not say which weights made it; make it again to be sure that they match", name)

    def vectors(self, label: str | None = None) -> torch.Tensor:
        """The stored vectors, of unit length up to the precision.

        Args:
            label: Only this label's; None takes all (N, D).

        Raises:
            InputError: The index has no such label.
        """
        places = self._places()
        if label is not None:
            if (number := self._find(label)) is None:
                raise InputError(f"the index has no label {label!r}")
            places = places[self._label_of[places] == number]
        if self._vectors is None:
            return torch.empty(0, 0)
        return self._vectors.rows(torch.from_numpy(places))

    def nearest(self, queries: torch.Tensor | np.ndarray, top_k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest vectors, whatever their labels.

        Args:
            queries: (Q, D) float, or (D,) for one.
            top_k: Vectors per query.

        Returns:
            Cosine similarities (Q, k) float32, descending, and row numbers (Q, k) int64; k is at most the index's
            size.

        Raises:
            InputError: The index is empty, or the queries do not fit it.
        """
        self._store()
        scores, places = self._top_k(self._checked(queries), min(_positive(top_k), len(self)))
        return scores.numpy(), places.numpy() - np.searchsorted(self._gone, places.numpy())

    def build_approximate(self, lists: int | None = None, probes: int | None = None, code_bytes: int = 32) -> None:
        """Let `nearest` and `search` by "max" look at a part of the vectors only: advised from a million on.

        Inverted lists of product-quantized vectors (faiss) name candidates, which the vectors themselves then rank.
        Added and removed rows are followed; `save_pretrained` and `push_to_hub` keep it.

        Args:
            lists: None takes the power of two below 2 sqrt(N).
            probes: Lists searched for a query: more find more and take longer. None takes a sixteenth of all.
            code_bytes: Of a vector, beside 8 bytes in memory and 4 in the file; a divisor of the dimension.

        Raises:
            InputError: faiss is not installed, there are fewer than 10,000 vectors, or a number does not fit them.
        """
        self._close_gaps()
        self._approximate = ApproximateSearch.train(self._store(), lists, probes, code_bytes)

    def drop_approximate(self) -> None:
        """Search exactly again."""
        self._approximate = None

    def to_faiss(self, factory: str = "Flat") -> "faiss.Index":
        """Copy the vectors into a faiss index, for approximate search.

        Args:
            factory: What faiss's `index_factory` takes: "Flat", "HNSW32", "IVF1024,Flat", "PQ64" ...

        Returns:
            A trained `faiss.Index` by inner product, which is cosine similarity for queries of unit length; its row
            numbers are those of `labels` and `files`.

        Raises:
            InputError: faiss is not installed, the index is empty, or faiss cannot make such an index of its vectors.
        """
        faiss = import_faiss()
        self._store()
        vectors = self.vectors().numpy()
        try:
            index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            index.train(vectors)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"faiss cannot make '{factory}' of {len(self)} vectors: {reason}") from error
        index.add(vectors)
        return index

    def search(
        self,
        queries: torch.Tensor | np.ndarray,
        top_k: int = 10,
        aggregation: Aggregation = "max",
        fpir: float | None = None,
        *,
        template: str | None = None,
    ) -> Matches:
        """Find the nearest labels, and decide whether the first of them is near enough to be the one.

        Args:
            queries: (Q, D) float, or (D,) for one.
            top_k: Labels per query.
            aggregation: How a label with several vectors is scored: "max", by the nearest of them, or "mean", by the
                mean of its unit vectors.
            fpir: Reject strangers at this false positive identification rate; one that `calibrate` stored.
            template: Deprecated name of `aggregation`.

        Raises:
            InputError: The index is empty, the queries do not fit it, or there is no threshold for this rate.
        """
        aggregation = _checked_aggregation(aggregation, template)
        vectors = self._checked(queries)
        self._store()
        wanted = min(_positive(top_k), self.label_count)
        threshold = None if fpir is None else self.threshold(fpir, aggregation)
        files: list[list[str | None]]
        if aggregation == "mean":
            scores, numbers = (part.numpy() for part in self._mean_store().top_k(vectors, wanted))
            files = [[None] * wanted for _ in numbers]
        else:
            scores, rows = self._best_of_each_label(vectors, wanted)
            numbers = self._label_of[rows]
            files = _rows_of(self._files.take(rows), wanted)
        labels = cast(list[list[str]], _rows_of(self._names.take(numbers), wanted))
        return Matches(labels, scores, files, None if threshold is None else scores[:, 0] >= threshold)

    def calibrate(
        self,
        strangers: torch.Tensor | np.ndarray | None = None,
        aggregation: Aggregation = "max",
        fpir: Sequence[float] = FPIR_TARGETS,
        data: str | None = None,
        max_probes: int = 2000,
        *,
        template: str | None = None,
    ) -> dict[str, Any]:
        """Set the thresholds below which nobody is known, for searches with `fpir`.

        The false positive identification rate is the fraction of searches for people who are not in the index that
        still name somebody (ISO/IEC 19795-1). It grows with the index: the thresholds hold for this one.

        Args:
            strangers: (S, D) float, of people who are not in the index. None takes the index's own vectors, each
                searched among the other labels only.
            aggregation: The aggregation that the thresholds are for.
            fpir: The rates wanted; those with fewer than three expected false positives among S are left out.
            data: What the strangers are, in words.
            max_probes: With `strangers=None`: how many vectors to search for at most, evenly spread.
            template: Deprecated name of `aggregation`.

        Returns:
            What is stored: `{"data": str, "strangers": S, "labels": int, "fpir": {"0.1": cosine, ...}}`.

        Raises:
            InputError: There are too few strangers for every rate, or too few labels to take them from.
        """
        aggregation = _checked_aggregation(aggregation, template)
        if strangers is None:
            if self.label_count < 3:
                raise InputError(
                    f"{self.label_count} labels are too few to be strangers to each other: pass strangers"
                )
            rows = np.unique(np.linspace(0, len(self) - 1, min(max_probes, len(self))).round().astype(int))
            places = self._places()[rows]
            probes, own = self._store().rows(torch.from_numpy(places)), self._names.take(self._label_of[places])
            matches = self.search(probes, top_k=2, aggregation=aggregation)
            first_is_own = np.array([labels[0] for labels in matches.labels]) == np.array(own)
            best = np.where(first_is_own, matches.scores[:, 1], matches.scores[:, 0])
            data = data or "each label searched among the others"
        else:
            best = self.search(strangers, top_k=1, aggregation=aggregation).scores[:, 0]
            data = data or "strangers"
        carried = [rate for rate in fpir if far_is_carried(rate, len(best))]
        if not carried:
            raise InputError(
                f"{len(best)} strangers are too few for a rate of {', '.join(f'{rate:g}' for rate in fpir)}: "
                f"at least {3 / max(fpir):.0f} are needed"
            )
        falling = np.append(np.sort(best)[::-1], np.float32(-1))
        thresholds = {}
        for rate in carried:
            allowed = int(np.floor(rate * len(best) * (1 + 1e-12)))  # this many strangers may be above the threshold
            middle = (falling[allowed - 1] + falling[allowed]) / 2
            thresholds[f"{rate:g}"] = float(max(middle, np.nextafter(falling[allowed], np.float32(2))))
        stored = {"data": data, "strangers": len(best), "labels": self.label_count, "fpir": thresholds}
        self.thresholds[aggregation] = stored
        return stored

    def threshold(self, fpir: float, aggregation: Aggregation = "max") -> float:
        """The cosine from which on somebody is known, at a false positive identification rate.

        Args:
            fpir: A rate that `calibrate` stored for this aggregation.

        Raises:
            InputError: There is none; the message says which there are.
        """
        aggregation = _checked_aggregation(aggregation)
        known: dict[str, float] = self.thresholds.get(aggregation, {}).get("fpir", {})
        for rate, threshold in known.items():
            if float(rate) == float(fpir):
                return threshold
        raise InputError(
            f"the index has no threshold at FPIR {fpir:g} for the aggregation {aggregation!r}; it has: "
            + (", ".join(known) or "none; calibrate() the index")
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `embeddings.safetensors`, `labels.arrow`, `files.arrow` and `index.json`, all or none of them.

        Args:
            folder: A folder that is new, empty, or holds an index, which is then replaced.

        Raises:
            InputError: The index is empty, or the folder contains other files.
            OSError: The folder cannot be written; an earlier index is left as it was.
        """
        self._store()
        self._close_gaps()
        folder = check_index_folder(folder)
        with atomic_folder(folder) as temporary:
            self._write(temporary, self._files.arrow())
        return folder

    save = save_pretrained

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        subfolder: str = "",
        local_files_only: bool = False,
        device: str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> "EmbeddingIndex":
        """Read an index from a folder, or from a data set repository on the Hub.

        Args:
            name: A folder, "owner/name" or "owner/name@revision".
            revision, token, cache_dir, subfolder, local_files_only: See `Checkpoint.resolve`.
            device: "cpu" or "auto": an index is searched in the machine's memory.
            dtype: Keep the vectors in this precision: float32, float16 or int8, by name too; None or "auto" keeps
                them as they were saved.

        Raises:
            InputError: There is no such device or precision, there is no index, its files do not fit together, or a
                number in them is not finite.
            HubUnavailableError: The Hub cannot be reached and nothing is in the cache.
        """
        precision = str(dtype or "auto").removeprefix("torch.")
        if str(device or "cpu") not in ("cpu", "auto"):
            raise InputError(f"device '{device}': an index is searched on the CPU; queries may come from any device")
        if precision not in ("auto", *PRECISIONS):
            raise InputError(f"dtype '{dtype}': an index keeps float32, float16 or int8")
        folder = Path(name)
        if folder.is_dir() and revision:
            raise InputError(f"{name} is a folder; a revision ({revision}) applies to Hub repositories only")
        if not folder.exists():
            repo_id, _, named = str(name).partition("@")
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
                raise InputError(f"{name}: no such folder, and not a valid repo id; expected 'owner/name'")
            folder = download_files(
                repo_id,
                [
                    f"{subfolder}/{file}" if subfolder else file
                    for file in (*INDEX_FILES, APPROXIMATE_FILE, _OLD_LABELS_FILE)
                ],
                repo_type="dataset",
                revision=revision or named or None,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        index = cls._read(folder / subfolder, str(name))
        if precision not in ("auto", index.precision):
            index.precision = cast(Precision, precision)
            store = index._store()
            index._vectors = VectorStore(store.dimension, index.precision)
            for part in store.parts():
                index._vectors.append(part)
        return index

    @classmethod
    def load(cls, folder_or_repo: str | Path, revision: str | None = None) -> "EmbeddingIndex":
        """`from_pretrained`, under its older name."""
        return cls.from_pretrained(folder_or_repo, revision=revision)

    @classmethod
    def _read(cls, folder: Path, name: str) -> "EmbeddingIndex":
        is_old = (folder / _OLD_LABELS_FILE).is_file()
        for file in (VECTORS_FILE, _OLD_LABELS_FILE, INDEX_FILE) if is_old else INDEX_FILES:
            if not (folder / file).is_file():
                raise InputError(f"{name} contains no index; {file} is missing")
        description = read_json(folder / INDEX_FILE, name)
        model, weights = (
            value if isinstance(value := description.get(key), str) else None for key in ("model", "weights")
        )
        try:
            settings = dict(description.get("settings") or {})
            index = cls(description["precision"], Origin(shareable_name(model), weights, settings))
            index.thresholds = _read_thresholds(description.get("thresholds", {}))
            tensors = load_file(folder / VECTORS_FILE)
            approximate = folder / APPROXIMATE_FILE
            index._vectors = VectorStore.from_tensors(tensors, index.precision)
            if is_old:
                names, numbers, files = _read_old_labels(folder / _OLD_LABELS_FILE)
            else:
                names, files = read_texts(folder / LABELS_FILE), read_texts(folder / PHOTOS_FILE)
                numbers = tensors["labels"].numpy()
            _check_labels(names, numbers, files, len(index._vectors))
            if "probes" in description and not approximate.is_file():
                raise ValueError(f"{APPROXIMATE_FILE} is missing")
            if approximate.is_file():
                size, probes = (len(index._vectors), index._vectors.dimension), description.get("probes")
                index._approximate = ApproximateSearch.load(approximate, *size, probes)
        except (
            *(ValueError, KeyError, TypeError, AttributeError),
            *(pa.ArrowException, SafetensorError, OSError),
        ) as error:
            raise InputError(f"{name} is not a complete index: {first_line(error)}") from error
        index._names, index._labels, index._files = TextColumn(names), numbers, TextColumn(files)
        return index

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = True,
        revision: str | None = None,
        token: str | None = None,
        commit_message: str = "Upload index",
        overwrite_card: bool = False,
    ) -> Pushed:
        """Put the index on the Hub as a data set with a card, in one commit.

        Of local files, only paths relative to the folder they share are published.

        Args:
            repo_id: "owner/name", or "name" for one of the token's owner. Made where it does not exist.
            private: Make a new repository private, as embeddings of faces have to be; an existing public one is then
                refused. None does not change the visibility of an existing one.
            revision: The branch, made where it does not exist; None means main.
            overwrite_card: Replace a card that was edited on the Hub; it is kept otherwise.

        Raises:
            InputError: The index is empty, or the Hub refuses: token, rights, name.
            HubUnavailableError: The Hub cannot be reached, or fails again and again; push later.
        """
        self._store()
        repo_id = full_name(repo_id, token)
        with tempfile.TemporaryDirectory() as folder:
            self._close_gaps()
            relative = pa.chunked_array([pa.array(_relative(self.files), pa.large_string())], pa.large_string())
            self._write(Path(folder), relative)
            labels = self._names.arrow().take(pa.array(self._label_of))
            pq.write_table(pa.table({"label": labels, "file": relative}), Path(folder) / TABLE_FILE)
            files: dict[str, Path | bytes] = {path.name: path for path in sorted(Path(folder).iterdir())}
            files["README.md"] = mark(render_index_card(self, repo_id), "generated").encode()
            return commit_files(
                files,
                repo_id,
                message=commit_message,
                repo_type="dataset",
                private=private,
                revision=revision,
                token=token,
                overwrite_card=overwrite_card,
            )

    def _write(self, folder: Path, files: pa.ChunkedArray) -> None:
        store = self._store()
        store.save(folder / VECTORS_FILE, torch.from_numpy(self._label_of))
        write_texts(self._names.arrow(), folder / LABELS_FILE)
        write_texts(files, folder / PHOTOS_FILE)
        if self._approximate is not None:
            self._approximate.save(folder / APPROXIMATE_FILE)
        description = {
            "metric": "cosine",
            "precision": self.precision,
            "dimension": store.dimension,
            "vectors": len(self),
            "labels": self.label_count,
            "model": self.origin.model,
            "weights": self.origin.weights,
            "settings": self.origin.settings,
            "thresholds": self.thresholds,
            **({} if self._approximate is None else {"probes": self._approximate.probes}),
        }
        write_json(folder / INDEX_FILE, description)

    def _store(self) -> VectorStore:
        if self._vectors is None or not len(self):
            raise InputError("the index is empty: add() embeddings first")
        return self._vectors

    @property
    def _label_of(self) -> np.ndarray:
        """Place in _names of the label at each place, (n,) int32."""
        return self._labels[: len(self._files)]

    @property
    def _gone(self) -> np.ndarray:
        """Places of removed rows, (n,) int64, ascending."""
        return np.empty(0, dtype=np.int64) if self._vectors is None else self._vectors.hidden.numpy()

    def _places(self) -> np.ndarray:
        """The place of each row (N,) int64."""
        places = np.arange(len(self._files))
        return np.delete(places, self._gone) if len(self._gone) else places

    def _find(self, label: object) -> int | None:
        number = self._names.find(label) if isinstance(label, str) else None
        return None if number in self._gone_names else number

    def _close_gaps(self) -> None:
        """Copy what is left once the removed rows are as many, and before what is there is written."""
        if self._vectors is None or not len(self._gone):
            return
        kept = np.ones(len(self._files), dtype=bool)
        kept[self._gone] = False
        named = np.ones(len(self._names), dtype=bool)
        named[list(self._gone_names)] = False
        self._vectors.keep(torch.from_numpy(kept))
        self._approximate = None if self._approximate is None else self._approximate.keep(kept)
        self._labels = (np.cumsum(named, dtype=np.int32) - 1)[self._label_of[kept]].astype(np.int32)
        self._files.keep(kept)
        self._names.keep(named)
        self._gone_names = set()

    def _top_k(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `VectorStore.top_k`; of an approximate search's candidates where it is built and finds enough."""
        store = self._store()
        count = max(10 * k, _CANDIDATES)
        if self._approximate is None or count > len(self) // 10:
            return store.top_k(queries, k)
        parts = [store.rank(part, self._approximate.candidates(part, count), k) for part in queries.split(_QUERIES)]
        scores, places = (torch.cat(both) for both in zip(*parts, strict=True))
        if len(lacking := torch.nonzero(torch.isneginf(scores[:, -1])).flatten()):
            scores[lacking], places[lacking] = store.top_k(queries[lacking], k)
        return scores, places

    def _mean_store(self) -> VectorStore:
        self._close_gaps()
        if self._means is None:
            store = self._store()
            sums = torch.zeros(len(self._names), store.dimension)
            start = 0
            for part in store.parts():
                sums.index_add_(0, torch.from_numpy(self._label_of[start : start + len(part)]), part)
                start += len(part)
            self._means = VectorStore(store.dimension, self.precision)
            self._means.append(torch.nn.functional.normalize(sums))
        return self._means

    def _best_of_each_label(self, queries: torch.Tensor, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and places (Q, wanted) of the nearest vector of each of the nearest labels."""
        scores = np.empty((len(queries), wanted), dtype=np.float32)
        places = np.empty((len(queries), wanted), dtype=np.int64)
        depth = min(4 * wanted, len(self))
        for start in range(0, len(queries), _QUERIES):
            batch = queries[start : start + _QUERIES]
            found = zip(*(part.numpy() for part in self._top_k(batch, depth)), strict=True)
            for query, (its_scores, its_places) in enumerate(found, start):
                _, first = np.unique(self._label_of[its_places], return_index=True)
                if len(first) >= wanted:
                    first = np.sort(first)[:wanted]
                    scores[query], places[query] = its_scores[first], its_places[first]
                else:  # a few people have all of these: the best of every label, without sorting
                    scores[query], places[query] = self._best_of_all(queries[query], wanted)
        return scores, places

    def _best_of_all(self, query: torch.Tensor, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        scores = self._store().scores(query[None])[0]
        labels = torch.from_numpy(self._label_of).long()
        best = torch.full((len(self._names),), -torch.inf).scatter_reduce_(0, labels, scores, "amax")
        found = best.topk(wanted)
        is_best = torch.isin(labels, found.indices) & (scores == best[labels])
        places = torch.nonzero(is_best).flatten().numpy()
        numbers, first = np.unique(self._label_of[places], return_index=True)
        return found.values.numpy(), places[first[np.searchsorted(numbers, found.indices.numpy())]]

    def _checked(self, vectors: torch.Tensor | np.ndarray) -> torch.Tensor:
        """(N, D) float32 of unit length on the CPU."""
        try:
            vectors = torch.as_tensor(vectors).detach().to("cpu", torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"embeddings are numbers (N, D), not {type(vectors).__name__}: {first_line(error)}"
            ) from error
        if vectors.ndim == 1:
            vectors = vectors[None]
        if vectors.ndim != 2 or not vectors.shape[1]:
            raise InputError(f"embeddings have the shape (N, D), got {tuple(vectors.shape)}")
        if self._vectors is not None and vectors.shape[1] != self._vectors.dimension:
            raise InputError(
                f"the index has vectors of {self._vectors.dimension} dimensions, these have {vectors.shape[1]}"
            )
        norms = vectors.norm(dim=1, keepdim=True)
        broken = torch.nonzero(~(torch.isfinite(norms) & (norms > 0)).flatten())
        if len(broken):
            raise InputError(
                f"{len(broken)} of {len(vectors)} embeddings are zero or not finite, the first: row {broken[0].item()}"
            )
        return vectors / norms

    def _changed(self) -> None:
        self._means = None
        self.thresholds = {}


def check_index_folder(folder: str | Path) -> Path:
    """Refuse a folder that contains other files than an index; call it before any work is done.

    Raises:
        InputError: It does.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder for the index")
    others = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    others = sorted({*others} - {*INDEX_FILES, *_OTHER_FILES, TABLE_FILE, "README.md", ".cache", ".gitattributes"})
    if others:
        raise InputError(f"{folder} is not an index (contains {utf8_name(others[0])}); choose another folder")
    return folder


def _checked_aggregation(aggregation: str, template: str | None = None) -> Aggregation:
    if template is not None or aggregation in _OLD_AGGREGATIONS:
        warnings.warn('template="best"|"mean" is now aggregation="max"|"mean"', FutureWarning, stacklevel=3)
        aggregation = aggregation if template is None else template
        aggregation = _OLD_AGGREGATIONS.get(aggregation, aggregation)
    if aggregation == "max":
        return "max"
    if aggregation == "mean":
        return "mean"
    raise InputError(f"unknown aggregation {aggregation!r}; expected 'max' or 'mean'")


def _rows_of(texts: list[str | None], width: int) -> list[list[str | None]]:
    return [texts[start : start + width] for start in range(0, len(texts), width)] if width else []


def _read_old_labels(path: Path) -> tuple[pa.ChunkedArray, np.ndarray, pa.ChunkedArray]:
    table = pq.ParquetFile(path).read(columns=["label", "file"])
    labels = table["label"].cast(pa.large_string()).combine_chunks().dictionary_encode()
    names = pa.chunked_array([labels.dictionary], pa.large_string())
    return names, labels.indices.fill_null(-1).to_numpy().astype(np.int32), table["file"].cast(pa.large_string())


def _check_labels(names: pa.ChunkedArray, numbers: np.ndarray, files: pa.ChunkedArray, count: int) -> None:
    if not len(numbers) == len(files) == count:
        raise ValueError(f"{len(numbers)} labels and {len(files)} files for {count} embeddings")
    if names.null_count or (len(names) and pc.min(pc.binary_length(names)).as_py() == 0):
        raise ValueError("a label is empty")
    if numbers.dtype != np.int32 or (count and not 0 <= numbers.min() <= numbers.max() < len(names)):
        raise ValueError("a row is without a label")


def _read_thresholds(stored: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    thresholds = {}
    for aggregation, entry in stored.items():
        fpir = {str(rate): float(cosine) for rate, cosine in entry["fpir"].items()}
        if not all(math.isfinite(float(rate)) and math.isfinite(cosine) for rate, cosine in fpir.items()):
            raise ValueError(f"{INDEX_FILE} has a threshold that is not finite")
        thresholds[_OLD_AGGREGATIONS.get(aggregation, aggregation)] = {**entry, "fpir": fpir}
    return thresholds


def _relative(files: Sequence[str | None]) -> list[str | None]:
    """Absolute paths, relative to the folder that they share; what lies above it is nobody else's business."""
    folders = {os.path.dirname(file) for file in files if file is not None and os.path.isabs(file)}
    if not folders:
        return list(files)
    shared = os.path.commonpath(folders)
    return [os.path.relpath(file, shared) if file is not None and os.path.isabs(file) else file for file in files]


def _positive(top_k: int) -> int:
    if top_k < 1:
        raise InputError(f"top_k must be at least 1, got {top_k}")
    return top_k
