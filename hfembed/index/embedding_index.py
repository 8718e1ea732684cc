"""One index for faces, pictures and words: who, or what, lies nearest, and is it near enough to be known at all?"""

import json
import re
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hfembed.atomic import atomic_folder
from hfembed.errors import InputError
from hfembed.faces.evaluation.verification import far_is_carried
from hfembed.hub.commit import Pushed, commit_files, full_name
from hfembed.hub.download import download_files
from hfembed.index.card import render_index_card
from hfembed.index.vector_store import PRECISIONS, Precision, VectorStore

if TYPE_CHECKING:
    import faiss

Template = Literal["best", "mean"]

VECTORS_FILE, LABELS_FILE, INDEX_FILE = "embeddings.safetensors", "labels.parquet", "index.json"
FPIR_TARGETS = (0.1, 0.01, 0.001)


class Matches(NamedTuple):
    """Who is nearest to each of Q queries, the nearest first.

    Attributes:
        labels: Q lists of k labels, each label once; k is `top_k`, or the number of labels where that is smaller.
        scores: (Q, k) float32, cosine similarity to the label's nearest photo, or to its mean.
        files: Q lists of k file names, of the label's nearest photo; None where it has none or means are compared.
        known: (Q,) bool, whether the first label is near enough; None where that was not asked.
    """

    labels: list[list[str]]
    scores: np.ndarray
    files: list[list[str | None]]
    known: np.ndarray | None


class EmbeddingIndex:
    """A gallery of embeddings by label: many photos a person, one vector a word, whatever has a name.

    Search is exact: every query is compared with every vector. Cosine similarity throughout; vectors need not have
    unit length.

    Args:
        precision: How vectors are kept: "float32", "float16" (half the memory) or "int8" (a quarter; a scale a row).
        model: Folder or Hub id of the model the embeddings come from, for whoever finds the index later.

    Attributes:
        probe: (D,) float32, what the model makes of a fixed input, where that is known: see `check_model`.
        thresholds: Template -> what `calibrate` stored. Adding or removing labels empties it, for a threshold holds
            for the gallery it was set on.

    Raises:
        InputError: There is no such precision.

    Example:
        ```python
        index = EmbeddingIndex()
        index.add(embeddings, labels=["Ann", "Ann", "Bob"], files=["a1.jpg", "a2.jpg", "b1.jpg"])
        index.calibrate(strangers)
        matches = index.search(model.embed(photo), top_k=5, fpir=0.01)
        ```
    """

    def __init__(self, precision: Precision = "float32", model: str | None = None) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision '{precision}' is none of {', '.join(PRECISIONS)}")
        self.precision = precision
        self.model = model
        self.probe: np.ndarray | None = None
        self.thresholds: dict[str, dict[str, Any]] = {}
        self._names: list[str] = []  # each label once, in the order of its first photo
        self._number: dict[str, int] = {}  # label -> its place in _names
        self._label_of = np.empty(0, dtype=np.int64)  # (N,) place in _names of each row
        self._files: list[str | None] = []
        self._vectors: VectorStore | None = None  # made by the first add, which tells the dimension
        self._means: VectorStore | None = None  # made by the first search that needs it

    def __len__(self) -> int:
        """Number of vectors."""
        return len(self._files)

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
    ) -> None:
        """Add vectors; a label may have any number of them, added together or one by one.

        Args:
            embeddings: (N, D) float, of any length but zero.
            labels: N labels.
            files: N file names, to be shown with a match.

        Raises:
            InputError: Lengths or dimensions do not fit, a label is no text, or a row has no direction (zero, or not
                finite); nothing is added then.
        """
        vectors = self._checked(embeddings)
        files = [None] * len(vectors) if files is None else list(files)
        if not len(vectors) == len(labels) == len(files):
            raise InputError(f"{len(vectors)} embeddings, {len(labels)} labels, {len(files)} files: one of each a row")
        for label in labels:
            if not isinstance(label, str) or not label:
                raise InputError(f"a label is a text, got {label!r}")
        if self._vectors is None:
            self._vectors = VectorStore(vectors.shape[1], self.precision)
        self._vectors.append(vectors)
        numbers = [self._number.setdefault(label, len(self._number)) for label in labels]
        self._names += list(islice(self._number, len(self._names), None))
        self._label_of = np.concatenate([self._label_of, np.array(numbers, dtype=np.int64)])
        self._files += [None if file is None else str(file) for file in files]
        self._changed()

    def remove(self, label: str) -> int:
        """Forget a label and all its vectors.

        Args:
            label: A label of the index.

        Returns:
            How many vectors it had.

        Raises:
            InputError: The index has no such label.
        """
        if label not in self._number:
            raise InputError(f"the index has no '{label}'")
        gone = self._number.pop(label)
        kept = self._label_of != gone
        self._vectors.keep(torch.from_numpy(kept))
        self._label_of = self._label_of[kept] - (self._label_of[kept] > gone)
        self._files = [file for file, keep in zip(self._files, kept, strict=True) if keep]
        self._names = [name for name in self._names if name != label]
        self._number = {name: number for number, name in enumerate(self._names)}
        self._changed()
        return int((~kept).sum())

    def merge(self, other: "EmbeddingIndex") -> None:
        """Add everything another index holds; equal labels are one person.

        Args:
            other: An index of the same dimension, of any precision; it stays as it is.

        Raises:
            InputError: The dimensions differ, or the embeddings are of two models.
        """
        if self.probe is not None and other.probe is not None:
            # tells more than names do: a folder is copied, or overwritten by another model
            of_one_model = _of_one_model(self.probe, other.probe)
        else:
            of_one_model = not (self.model and other.model) or self.model == other.model
        if not of_one_model:
            raise InputError(
                f"the indexes were made by two models, {self.model or 'one without a name'} and "
                f"{other.model or 'one without a name'}, whose embeddings cannot be compared: use one model for both"
            )
        if len(other):
            self.add(other.vectors(), other.labels, other.files)
            self.model = self.model or other.model
            self.probe = other.probe if self.probe is None else self.probe

    def check_model(self, model: str, probe: np.ndarray) -> None:
        """Refuse a model whose embeddings cannot be compared with these.

        Args:
            model: Its name, for the message.
            probe: (D,), what it makes of the input that `probe` is of.

        Raises:
            InputError: Its embeddings have another dimension, or its probe has another direction.
        """
        made_by = f"the index was made by {self.model or 'another model'}, whose embeddings"
        if self.dimension != len(probe):
            raise InputError(f"{made_by} have {self.dimension} numbers, not {len(probe)} as those of {model}")
        if self.probe is not None and not _of_one_model(self.probe, probe):
            raise InputError(f"{made_by} cannot be compared with those of {model}: use the one it was made by")

    def vectors(self, label: str | None = None) -> torch.Tensor:
        """The vectors as the index knows them, of unit length up to the precision.

        Args:
            label: Only this label's; None takes all.

        Returns:
            (N, D) float32.

        Raises:
            InputError: The index has no such label.
        """
        if label is not None and label not in self._number:
            raise InputError(f"the index has no '{label}'")
        if self._vectors is None:
            return torch.empty(0, 0)
        wanted = range(len(self)) if label is None else np.flatnonzero(self._label_of == self._number[label])
        return self._vectors.rows(torch.as_tensor(np.asarray(wanted)))

    def nearest(self, queries: torch.Tensor | np.ndarray, top_k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The nearest vectors, whatever their labels.

        Args:
            queries: (Q, D) float, or (D,) for one.
            top_k: How many.

        Returns:
            Cosine similarities (Q, k) float32, falling, and row numbers (Q, k) int64; k is at most the index' size.

        Raises:
            InputError: The index is empty, or the queries do not fit it.
        """
        scores, rows = self._store().top_k(self._checked(queries), min(_positive(top_k), len(self)))
        return scores.numpy(), rows.numpy()

    def to_faiss(self, factory: str = "Flat") -> "faiss.Index":
        """The same vectors in an index of faiss, for searches that may be inexact to be faster.

        Args:
            factory: What faiss' `index_factory` takes: "Flat", "HNSW32", "IVF1024,Flat", "PQ64" ...

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
        template: Template = "best",
        fpir: float | None = None,
    ) -> Matches:
        """The nearest labels, and whether the first of them is near enough to be the one.

        Args:
            queries: (Q, D) float, or (D,) for one.
            top_k: How many labels.
            template: What stands for a label: "best", its nearest vector, or "mean", the mean of its unit vectors.
            fpir: Tell strangers apart, at this false positive identification rate; one that `calibrate` stored.

        Returns:
            The matches.

        Raises:
            InputError: The index is empty, the queries do not fit it, or there is no threshold for this rate.
        """
        if template not in ("best", "mean"):
            raise InputError(f"template '{template}' is neither best nor mean")
        queries = self._checked(queries)
        store = self._store()
        wanted = min(_positive(top_k), len(self._names))
        threshold = None if fpir is None else self.threshold(fpir, template)
        if template == "mean":
            scores, numbers = self._mean_store().top_k(queries, wanted)
            scores, numbers = scores.numpy(), numbers.numpy()
            files: list[list[str | None]] = [[None] * wanted for _ in numbers]
        else:
            scores, rows = self._best_of_each_label(store, queries, wanted)
            numbers = self._label_of[rows]
            files = [[self._files[row] for row in found] for found in rows]
        labels = [[self._names[number] for number in found] for found in numbers]
        return Matches(labels, scores, files, None if threshold is None else scores[:, 0] >= threshold)

    def calibrate(
        self,
        strangers: torch.Tensor | np.ndarray | None = None,
        template: Template = "best",
        fpir: Sequence[float] = FPIR_TARGETS,
        data: str | None = None,
        max_probes: int = 2000,
    ) -> dict[str, Any]:
        """Set the thresholds below which nobody is known, for searches with `fpir`.

        The false positive identification rate is the share of searches for people who are not in the index that
        name somebody all the same (ISO/IEC 19795-1). It grows with the index: the thresholds hold for this one.

        Args:
            strangers: (S, D) float, of people who are not in the index. None takes the index' own vectors, each
                searched among the other labels only.
            template: The template the thresholds are for.
            fpir: The rates wanted; those with fewer than three expected false positives among S are left out.
            data: What the strangers are, in words.
            max_probes: With `strangers=None`: how many vectors to take at most, evenly spread.

        Returns:
            What is stored: `{"data": str, "strangers": S, "labels": int, "fpir": {"0.1": cosine, ...}}`.

        Raises:
            InputError: No rate can be carried by so few strangers, or there is only one label to take them from.
        """
        if strangers is None:
            if len(self._names) < 3:
                raise InputError(f"{len(self._names)} labels cannot be strangers to each other: give strangers")
            rows = np.unique(np.linspace(0, len(self) - 1, min(max_probes, len(self))).round().astype(int))
            probes, own = self._store().rows(torch.from_numpy(rows)), self._label_of[rows]
            matches = self.search(probes, top_k=2, template=template)
            first_is_own = np.array([labels[0] for labels in matches.labels]) == np.array(self._names)[own]
            best = np.where(first_is_own, matches.scores[:, 1], matches.scores[:, 0])
            data = data or "each label searched among the others"
        else:
            best = self.search(strangers, top_k=1, template=template).scores[:, 0]
            data = data or "strangers"
        carried = [rate for rate in fpir if far_is_carried(rate, len(best))]
        if not carried:
            raise InputError(
                f"{len(best)} strangers carry none of the rates {', '.join(f'{rate:g}' for rate in fpir)}: "
                f"at least {3 / max(fpir):.0f} are needed"
            )
        falling = np.append(np.sort(best)[::-1], np.float32(-1))
        thresholds = {}
        for rate in carried:
            allowed = int(np.floor(rate * len(best) * (1 + 1e-12)))  # so many strangers may be above the threshold
            middle = (falling[allowed - 1] + falling[allowed]) / 2
            thresholds[f"{rate:g}"] = float(max(middle, np.nextafter(falling[allowed], np.float32(2))))
        self.thresholds[template] = {
            "data": data,
            "strangers": len(best),
            "labels": len(self._names),
            "fpir": thresholds,
        }
        return self.thresholds[template]

    def threshold(self, fpir: float, template: Template = "best") -> float:
        """The cosine that `calibrate` stored for a false positive identification rate.

        Args:
            fpir: The rate.
            template: The template it is for.

        Returns:
            Cosine similarity: who is at least as near is known.

        Raises:
            InputError: There is none; tells which there are.
        """
        known = self.thresholds.get(template, {}).get("fpir", {})
        for rate, threshold in known.items():
            if float(rate) == float(fpir):
                return threshold
        there_are = ", ".join(known) or "none; calibrate() the index"
        raise InputError(f"the index has no threshold at FPIR {fpir:g} for the template '{template}': {there_are}")

    def save(self, folder: str | Path) -> Path:
        """Write `embeddings.safetensors`, `labels.parquet` and `index.json`, whole or not at all.

        Args:
            folder: A folder that is new, empty, or holds an index, which is then replaced.

        Returns:
            The folder.

        Raises:
            InputError: The index is empty, or the folder holds something else.
            OSError: The folder cannot be written; an earlier index is left as it was.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / INDEX_FILE).is_file() and (folder.is_file() or any(folder.iterdir())):
            raise InputError(f"{folder} holds something else than an index: give a new folder")
        with atomic_folder(folder) as temporary:
            self._write(temporary)
        return folder

    @classmethod
    def load(cls, folder_or_repo: str | Path, revision: str | None = None) -> "EmbeddingIndex":
        """Read an index from a folder, or from a data set repository on the Hub.

        Args:
            folder_or_repo: Folder or Hub id.
            revision: Branch, tag or commit, of a Hub repository.

        Returns:
            The index; its vectors are read from the file as they are needed.

        Raises:
            InputError: There is no index, or its files do not fit together.
            HubUnavailableError: The Hub cannot be reached and nothing is in the cache.
        """
        folder = Path(folder_or_repo)
        if not folder.exists():
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder_or_repo)):
                raise InputError(
                    f"{folder_or_repo}: no such folder, and no name on the Hub, which is written owner/name"
                )
            files = (VECTORS_FILE, LABELS_FILE, INDEX_FILE)
            folder = download_files(str(folder_or_repo), files, repo_type="dataset", revision=revision)
        for name in (INDEX_FILE, LABELS_FILE, VECTORS_FILE):
            if not (folder / name).is_file():
                raise InputError(f"{folder_or_repo} holds no index: {name} is missing")
        try:
            description = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
            table = pq.read_table(folder / LABELS_FILE)
            tensors = load_file(folder / VECTORS_FILE)
            index = cls(description["precision"], description["model"])
            index._vectors = VectorStore.from_tensors(tensors, index.precision)
            labels, index._files = table["label"].to_pylist(), table["file"].to_pylist()
            index.thresholds = description["thresholds"]
            if description.get("probe") is not None:  # the first indexes had none
                index.probe = np.array(description["probe"], dtype=np.float32)
        except (ValueError, KeyError, TypeError, pa.ArrowException, SafetensorError) as error:
            raise InputError(f"{folder_or_repo} holds no whole index: {str(error).splitlines()[0]}") from error
        if len(labels) != len(index._vectors):
            raise InputError(f"{folder_or_repo}: {len(labels)} labels for {len(index._vectors)} embeddings")
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
    ) -> Pushed:
        """Put the index on the Hub as a data set with a card, in one commit.

        Args:
            repo_id: "owner/name", or "name" for one of the token's owner. Made where it does not exist.
            private: Make a new repository private, as embeddings of faces have to be. An existing public one is then
                refused; None takes it as it is.
            revision: The branch, made where it does not exist; None means main.
            token: Instead of this machine's.
            commit_message: The commit's title.

        Returns:
            Where the index is now.

        Raises:
            InputError: The index is empty, or the Hub refuses: token, rights, name.
            HubUnavailableError: The Hub cannot be reached, or fails again and again; push later.
        """
        self._store()
        repo_id = full_name(repo_id, token)
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder))
            files: dict[str, Path | bytes] = {path.name: path for path in sorted(Path(folder).iterdir())}
            files["README.md"] = render_index_card(self, repo_id).encode()
            return commit_files(
                files,
                repo_id,
                message=commit_message,
                repo_type="dataset",
                private=private,
                revision=revision,
                token=token,
            )

    def _write(self, folder: Path) -> None:
        store = self._store()
        save_file(store.tensors(), folder / VECTORS_FILE, metadata={"format": "pt"})
        columns = {"label": self.labels, "file": self._files}
        schema = pa.schema({"label": pa.string(), "file": pa.string()})
        pq.write_table(pa.table(columns, schema=schema), folder / LABELS_FILE)
        description = {
            "metric": "cosine",
            "precision": self.precision,
            "dimension": store.dimension,
            "vectors": len(self),
            "labels": len(self._names),
            "model": self.model,
            "probe": None if self.probe is None else self.probe.tolist(),
            "thresholds": self.thresholds,
        }
        (folder / INDEX_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")

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
                f"the index holds vectors of {self._vectors.dimension} dimensions, these have {vectors.shape[1]}"
            )
        norms = vectors.norm(dim=1, keepdim=True)
        broken = torch.nonzero(~(torch.isfinite(norms) & (norms > 0)).flatten())
        if len(broken):
            raise InputError(f"{len(broken)} of {len(vectors)} rows have no direction, the first: {broken[0].item()}")
        return vectors / norms

    def _changed(self) -> None:
        self._means = None
        self.thresholds = {}


def _of_one_model(probe: np.ndarray, other: np.ndarray) -> bool:
    # of the same weights in half precision the cosine is above 0.999, of others anything
    return len(probe) == len(other) and float(probe @ other) >= 0.99


def _positive(top_k: int) -> int:
    if top_k < 1:
        raise InputError(f"top_k must be at least 1, got {top_k}")
    return top_k
