"""One index for faces, images and words: who or what is nearest, and is it near enough to be known at all?"""

import logging
import math
import os
import re
import tempfile
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hfembed.atomic import atomic_folder
from hfembed.checkpoint.json_notes import read_json, write_json
from hfembed.errors import InputError, first_line
from hfembed.hub.card_marker import mark
from hfembed.hub.commit import Pushed, commit_files, full_name
from hfembed.hub.download import download_files
from hfembed.index.card import render_index_card
from hfembed.index.error_rates import far_is_carried
from hfembed.index.min_quality import MIN_QUALITY, check_min_quality
from hfembed.index.origin import Origin, shareable_name
from hfembed.index.vector_store import PRECISIONS, Precision, VectorStore
from hfembed.photos import utf8_name

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)

Aggregation = Literal["max", "mean"]

VECTORS_FILE, LABELS_FILE, INDEX_FILE = "embeddings.safetensors", "labels.parquet", "index.json"
INDEX_FILES = (VECTORS_FILE, LABELS_FILE, INDEX_FILE)
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

    Search is exact: every query is compared with every vector. Cosine similarity throughout; vectors need not have
    unit length.

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
        self._names: list[str] = []  # each label once, in the order of its first vector
        self._number: dict[str, int] = {}  # label -> its position in _names
        self._label_of = np.empty(0, dtype=np.int64)  # (N,) position in _names of each row
        self._files: list[str | None] = []
        self._vectors: VectorStore | None = None  # made by the first add, which tells the dimension
        self._means: VectorStore | None = None  # made by the first search that needs it

    def __repr__(self) -> str:
        return (
            f"EmbeddingIndex({len(self)} vectors, {len(self._names)} labels, dimension={self.dimension}, "
            f"precision={self.precision!r}, model={self.model!r})"
        )

    @property
    def model(self) -> str | None:
        """The id on the Hub of the model that the embeddings come from."""
        return self.origin.model

    def __len__(self) -> int:
        """Number of vectors."""
        return len(self._files)

    def __contains__(self, label: object) -> bool:
        return label in self._number

    @property
    def names(self) -> list[str]:
        """Every label once, in the order of first addition."""
        return list(self._names)

    @property
    def labels(self) -> list[str]:
        """The label of each row."""
        return [self._names[number] for number in self._label_of]

    @property
    def files(self) -> list[str | None]:
        """The file of each row."""
        return list(self._files)

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
        numbers = [self._number.setdefault(utf8_name(label), len(self._number)) for label in labels]
        self._names += list(islice(self._number, len(self._names), None))
        self._label_of = np.concatenate([self._label_of, np.array(numbers, dtype=np.int64)])
        self._files += [None if file is None else utf8_name(str(file)) for file in files]
        self._changed()
        return poor

    def remove(self, label: str) -> int:
        """Remove a label and all its vectors; returns how many it had.

        Raises:
            InputError: The index has no such label.
        """
        if label not in self._number:
            raise InputError(f"the index has no label {label!r}")
        gone = self._number.pop(label)
        kept = self._label_of != gone
        self._store().keep(torch.from_numpy(kept))
        self._label_of = self._label_of[kept] - (self._label_of[kept] > gone)
        self._files = [file for file, keep in zip(self._files, kept, strict=True) if keep]
        self._names = [name for name in self._names if name != label]
        self._number = {name: number for number, name in enumerate(self._names)}
        self._changed()
        return int((~kept).sum())

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
            self.add(other.vectors(), other.labels, other.files)
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
        if label is not None and label not in self._number:
            raise InputError(f"the index has no label {label!r}")
        if self._vectors is None:
            return torch.empty(0, 0)
        wanted = range(len(self)) if label is None else np.flatnonzero(self._label_of == self._number[label])
        return self._vectors.rows(torch.as_tensor(np.asarray(wanted)))

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
        scores, rows = self._store().top_k(self._checked(queries), min(_positive(top_k), len(self)))
        return scores.numpy(), rows.numpy()

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
        try:
            import faiss
        except ImportError:
            raise InputError('faiss is not installed: pip install "hfembed[index]"') from None
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
        store = self._store()
        wanted = min(_positive(top_k), len(self._names))
        threshold = None if fpir is None else self.threshold(fpir, aggregation)
        files: list[list[str | None]]
        if aggregation == "mean":
            scores, numbers = (part.numpy() for part in self._mean_store().top_k(vectors, wanted))
            files = [[None] * wanted for _ in numbers]
        else:
            scores, rows = self._best_of_each_label(store, vectors, wanted)
            numbers = self._label_of[rows]
            files = [[self._files[row] for row in found] for found in rows]
        labels = [[self._names[number] for number in found] for found in numbers]
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
            if len(self._names) < 3:
                raise InputError(
                    f"{len(self._names)} labels are too few to be strangers to each other: pass strangers"
                )
            rows = np.unique(np.linspace(0, len(self) - 1, min(max_probes, len(self))).round().astype(int))
            probes, own = self._store().rows(torch.from_numpy(rows)), self._label_of[rows]
            matches = self.search(probes, top_k=2, aggregation=aggregation)
            first_is_own = np.array([labels[0] for labels in matches.labels]) == np.array(self._names)[own]
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
        stored = {"data": data, "strangers": len(best), "labels": len(self._names), "fpir": thresholds}
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
        """Write `embeddings.safetensors`, `labels.parquet` and `index.json`, all or none of them.

        Args:
            folder: A folder that is new, empty, or holds an index, which is then replaced.

        Raises:
            InputError: The index is empty, or the folder contains other files.
            OSError: The folder cannot be written; an earlier index is left as it was.
        """
        self._store()
        folder = check_index_folder(folder)
        with atomic_folder(folder) as temporary:
            self._write(temporary, self._files)
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
                [f"{subfolder}/{file}" if subfolder else file for file in INDEX_FILES],
                repo_type="dataset",
                revision=revision or named or None,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        index = cls._read(folder / subfolder, str(name))
        if precision not in ("auto", index.precision):
            vectors = index.vectors()
            index.precision = cast(Precision, precision)
            index._vectors = VectorStore(vectors.shape[1], index.precision)
            index._vectors.append(vectors)
        return index

    @classmethod
    def load(cls, folder_or_repo: str | Path, revision: str | None = None) -> "EmbeddingIndex":
        """`from_pretrained`, under its older name."""
        return cls.from_pretrained(folder_or_repo, revision=revision)

    @classmethod
    def _read(cls, folder: Path, name: str) -> "EmbeddingIndex":
        for file in INDEX_FILES:
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
            index._vectors = VectorStore.from_tensors(load_file(folder / VECTORS_FILE), index.precision)
            table = pq.ParquetFile(folder / LABELS_FILE)
            if table.metadata.num_rows != len(index._vectors):
                raise ValueError(f"{table.metadata.num_rows} labels for {len(index._vectors)} embeddings")
            columns = table.read(columns=["label", "file"])
            labels, index._files = columns["label"].to_pylist(), columns["file"].to_pylist()
            if not all(isinstance(label, str) and label for label in labels):
                raise ValueError(f"{LABELS_FILE} has a row without a label")
        except (
            *(ValueError, KeyError, TypeError, AttributeError),
            *(pa.ArrowException, SafetensorError, OSError),
        ) as error:
            raise InputError(f"{name} is not a complete index: {first_line(error)}") from error
        index._label_of = np.array([index._number.setdefault(label, len(index._number)) for label in labels])
        index._names = list(index._number)
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
            self._write(Path(folder), _relative(self._files))
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

    def _write(self, folder: Path, files: Sequence[str | None]) -> None:
        store = self._store()
        save_file(store.tensors(), folder / VECTORS_FILE, metadata={"format": "pt"})
        schema = pa.schema({"label": pa.string(), "file": pa.string()})
        pq.write_table(pa.table({"label": self.labels, "file": files}, schema=schema), folder / LABELS_FILE)
        description = {
            "metric": "cosine",
            "precision": self.precision,
            "dimension": store.dimension,
            "vectors": len(self),
            "labels": len(self._names),
            "model": self.origin.model,
            "weights": self.origin.weights,
            "settings": self.origin.settings,
            "thresholds": self.thresholds,
        }
        write_json(folder / INDEX_FILE, description)

    def _store(self) -> VectorStore:
        if self._vectors is None or not len(self):
            raise InputError("the index is empty: add() embeddings first")
        return self._vectors

    def _mean_store(self) -> VectorStore:
        if self._means is None:
            store = self._store()
            sums = torch.zeros(len(self._names), store.dimension)
            for start in range(0, len(self), 65_536):
                rows = torch.arange(start, min(start + 65_536, len(self)))
                sums.index_add_(0, torch.from_numpy(self._label_of)[rows], store.rows(rows))
            self._means = VectorStore(store.dimension, self.precision)
            self._means.append(torch.nn.functional.normalize(sums))
        return self._means

    def _best_of_each_label(
        self, store: VectorStore, queries: torch.Tensor, wanted: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows (Q, wanted) of the nearest vector of each of the nearest labels."""
        scores = np.empty((len(queries), wanted), dtype=np.float32)
        rows = np.empty((len(queries), wanted), dtype=np.int64)
        # among the nearest vectors there may be too few labels: then look at more, at last at all
        waiting = np.arange(len(queries))
        for depth in (4 * wanted, 32 * wanted, len(self)):
            depth, again = min(depth, len(self)), []
            for batch in np.array_split(waiting, -(-len(waiting) // 64)) if len(waiting) else []:
                found_scores, found_rows = (part.numpy() for part in store.top_k(queries[batch], depth))
                for query, its_scores, its_rows in zip(batch, found_scores, found_rows, strict=True):
                    _, first = np.unique(self._label_of[its_rows], return_index=True)
                    if len(first) < wanted and depth < len(self):
                        again.append(query)
                        continue
                    first = np.sort(first)[:wanted]
                    scores[query], rows[query] = its_scores[first], its_rows[first]
            waiting = np.array(again, dtype=np.int64)
        return scores, rows

    def _checked(self, vectors: torch.Tensor | np.ndarray) -> torch.Tensor:
        """(N, D) float32 of unit length on the CPU."""
        vectors = torch.as_tensor(vectors).detach().to("cpu", torch.float32)
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
    others = sorted({*others} - {*INDEX_FILES, "README.md", ".cache", ".gitattributes"})
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
