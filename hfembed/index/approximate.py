"""Approximate search among millions of vectors: inverted lists of product-quantized vectors, by faiss.

Jegou, Douze, Schmid: "Product quantization for nearest neighbor search", 2011. A query is compared with the codes of
the lists whose centers are nearest to it; the best of them are compared again, with the vectors themselves, by
`EmbeddingIndex`. What is saved are arrays: faiss's own files are not read, since they can do harm.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from hfembed.errors import InputError
from hfembed.index.vector_store import VectorStore

if TYPE_CHECKING:
    import faiss

FEWEST = 10_000
_SAMPLE_OF_A_LIST = 64
_ROUNDS_OF_K_MEANS = 10


class ApproximateSearch:
    """Codes of N vectors in faiss's `IndexIVFPQ`, by their places in a store.

    Args:
        made: The index by inner product, trained; or the arrays of a saved one, put together when first needed.
        probes: Lists that are searched for a query: more find more and take longer.
    """

    def __init__(self, made: "faiss.IndexIVFPQ | dict[str, np.ndarray]", probes: int) -> None:
        self._made = made
        self.probes = probes

    def __len__(self) -> int:
        return len(self._made["lists"]) if isinstance(self._made, dict) else self._made.ntotal

    @property
    def _index(self) -> "faiss.IndexIVFPQ":
        if isinstance(self._made, dict):
            self._made = _put_together(self._made)
        self._made.nprobe = self.probes
        return self._made

    @classmethod
    def train(cls, store: VectorStore, lists: int | None, probes: int | None, code_bytes: int) -> "ApproximateSearch":
        """Learn centers and codes from an even sample of a store, and encode all of it.

        Args:
            lists: None takes the power of two below 2 sqrt(N).
            probes: None takes a sixteenth of the lists.
            code_bytes: Of a vector; a divisor of its dimension.

        Raises:
            InputError: faiss is not installed, or there are too few vectors, or a number does not fit.
        """
        faiss = import_faiss()
        count, dimension = len(store), store.dimension
        if count < FEWEST:
            raise InputError(f"{count:,} vectors are searched exactly in no time; approximate from {FEWEST:,} on")
        lists = 1 << int(np.log2(2 * count**0.5)) if lists is None else lists
        probes = max(1, lists // 16) if probes is None else probes
        if not 1 <= lists <= count // 39 or not 1 <= probes <= lists:
            raise InputError(f"{lists} lists and {probes} probes do not fit {count:,} vectors")
        if code_bytes < 1 or dimension % code_bytes:
            raise InputError(f"code_bytes must divide the dimension {dimension}, got {code_bytes}")
        index = faiss.IndexIVFPQ(
            faiss.IndexFlatIP(dimension), dimension, lists, code_bytes, 8, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.niter = _ROUNDS_OF_K_MEANS
        rows = torch.linspace(0, count - 1, min(count, _SAMPLE_OF_A_LIST * lists)).long()
        index.train(store.rows(rows).numpy())
        search = cls(index, probes)
        for part in store.parts():
            search.append(part)
        return search

    def append(self, vectors: torch.Tensor) -> None:
        """Encode further unit vectors (n, D) float32; their places follow the last one."""
        self._index.add(vectors.numpy())

    def candidates(self, queries: torch.Tensor, count: int) -> torch.Tensor:
        """Places (Q, count) int64 of what seems nearest to unit vectors (Q, D); -1 where too few were found."""
        return torch.from_numpy(self._index.search(queries.numpy(), count)[1])

    def keep(self, kept: np.ndarray) -> "ApproximateSearch":
        """The codes at the places where (N,) bool is True, moved together."""
        arrays = self._arrays()
        kept_arrays = {**arrays, "lists": arrays["lists"][kept], "codes": arrays["codes"][kept]}
        return ApproximateSearch(kept_arrays, self.probes)

    def save(self, path: Path) -> None:
        """Write everything as safetensors: code_bytes + 4 bytes per vector, and the centers."""
        save_file(self._arrays(), path)

    @classmethod
    def load(cls, path: Path, count: int, dimension: int, probes: Any) -> "ApproximateSearch":
        """Read what `save` wrote.

        Args:
            count, dimension: Of the vectors that it must fit.

        Raises:
            ValueError: It does not.
            InputError: faiss is not installed.
        """
        arrays = load_file(path)
        lists, codes, centers, words = (arrays[name] for name in ("lists", "codes", "centers", "words"))
        width = codes.shape[-1]
        is_whole = (
            (lists.dtype, codes.dtype, centers.dtype, words.dtype) == (np.int32, np.uint8, np.float32, np.float32)
            and (lists.shape, codes.shape) == ((count,), (count, width))
            and centers.ndim == 2
            and len(centers) > 0
            and centers.shape[1] == dimension
            and width > 0
            and dimension % width == 0
            and words.shape == (width, 256, dimension // width)
            and isinstance(probes, int)
            and 1 <= probes <= len(centers)
        )
        if not is_whole or not (np.isfinite(centers).all() and np.isfinite(words).all()):
            raise ValueError(f"{path.name} does not fit {count:,} vectors of {dimension} dimensions")
        if count and not 0 <= lists.min() <= lists.max() < len(centers):
            raise ValueError(f"{path.name} names a list that does not exist")
        import_faiss()
        return cls(arrays, probes)

    def _arrays(self) -> dict[str, np.ndarray]:
        if isinstance(self._made, dict):
            return self._made
        faiss, index, entries = import_faiss(), self._made, cast(Any, self._made.invlists)
        lists = np.empty(index.ntotal, dtype=np.int32)
        codes = np.empty((index.ntotal, index.pq.M), dtype=np.uint8)
        for number in range(index.nlist):
            if size := entries.list_size(number):
                places = faiss.rev_swig_ptr(entries.get_ids(number), size)
                lists[places] = number
                its_codes = faiss.rev_swig_ptr(entries.get_codes(number), size * index.pq.M)
                codes[places] = its_codes.reshape(size, index.pq.M)
        words = faiss.vector_to_array(index.pq.centroids).reshape(index.pq.M, 256, -1)
        return {
            "lists": lists,
            "codes": codes,
            "centers": index.quantizer.reconstruct_n(0, index.nlist),
            "words": words,
        }


def _put_together(arrays: dict[str, np.ndarray]) -> "faiss.IndexIVFPQ":
    faiss = import_faiss()
    centers, words, codes = arrays["centers"], arrays["words"], arrays["codes"]
    quantizer = faiss.IndexFlatIP(centers.shape[1])
    quantizer.add(centers)
    index = faiss.IndexIVFPQ(quantizer, centers.shape[1], len(centers), codes.shape[1], 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(words.ravel(), index.pq.centroids)
    index.is_trained = True
    order = np.argsort(arrays["lists"], kind="stable")
    bounds = np.searchsorted(arrays["lists"][order], np.arange(len(centers) + 1))
    for number, (start, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        if start < end:
            places = order[start:end]
            chosen = np.ascontiguousarray(codes[places])
            index.invlists.add_entries(number, end - start, faiss.swig_ptr(places), faiss.swig_ptr(chosen))
    index.ntotal = len(codes)
    return index


def import_faiss(reason: str = "faiss is not installed") -> Any:
    """The module of faiss.

    Args:
        reason: What the error says before the way out.

    Raises:
        InputError: It is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise InputError(f'{reason}: pip install "hfembed[index]"') from None
    return faiss
