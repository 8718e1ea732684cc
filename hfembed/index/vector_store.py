"""Unit vectors in memory, and exact search among them.

For few queries the cost is reading N x D numbers of 4, 2 or 1 bytes; for many it is the Q x N x D products. So a part
of the rows is multiplied with all queries of a batch while it is in the cache, and only scores that are better than
those found before are kept. No (Q, N) matrix is made unless all N are asked for.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

Precision = Literal["float32", "float16", "int8"]

PRECISIONS = ("float32", "float16", "int8")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}

_BLOCK_ROWS = 65_536  # what is allocated at a time, at most
_PART_ROWS = 2048  # what is multiplied at a time: as float32 it stays in the cache, and so do its scores
_QUERIES = 256  # how many queries are searched at a time
# without these instructions torch multiplies integers one by one: 30 times the time of floats for 256 queries
_MULTIPLIES_INTEGERS: bool = torch.cpu._is_vnni_supported()
_FEW_QUERIES = 8  # up to here the product is faster with the rows first


class _Block(NamedTuple):
    """The stored rows.

    Attributes:
        vectors: (n, D) float32, float16 or int8.
        scales: (n,) float32, int8 only: 1 / length of the row of whole numbers.
    """

    vectors: torch.Tensor
    scales: torch.Tensor | None

    def part(self, rows: torch.Tensor | slice) -> "_Block":
        """Some of the rows."""
        return _Block(self.vectors[rows], None if self.scales is None else self.scales[rows])


class VectorStore:
    """N unit vectors of D dimensions as float32, float16, or int8 with one scale per row.

    Args:
        precision: "float32", "float16" or "int8".
    """

    def __init__(self, dimension: int, precision: Precision) -> None:
        self.dimension = dimension
        self.precision = precision
        self._blocks: list[_Block] = []
        self.hidden = torch.empty(0, dtype=torch.int64)  # rows that are found no more, ascending

    def __len__(self) -> int:
        return sum(len(block.vectors) for block in self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors and scales."""
        return sum(part.nbytes for block in self._blocks for part in block if part is not None)

    def append(self, vectors: torch.Tensor) -> None:
        """Add unit vectors (n, D) float32, which the store may keep as they are: do not write to them afterwards."""
        for part in vectors.split(_BLOCK_ROWS):
            self._append_block(_encode(part, self.precision))

    def keep(self, kept: torch.Tensor) -> None:
        """Forget the rows where `kept` (N,) bool is False."""
        self.hidden = self.hidden[:0]
        sizes = [len(block.vectors) for block in self._blocks]
        chosen = [
            block if mask.all() else block.part(mask)
            for block, mask in zip(self._blocks, kept.split(sizes), strict=True)
        ]
        self._blocks = [block for block in chosen if len(block.vectors)]

    def hide(self, rows: torch.Tensor) -> None:
        """Find some rows (n,) no more; they keep their places, and nothing is copied."""
        self.hidden = torch.cat([self.hidden, rows]).unique()

    def rows(self, wanted: torch.Tensor) -> torch.Tensor:
        """Some rows (n,) int64 as float32 (n, D)."""
        vectors = torch.empty(len(wanted), self.dimension)
        starts = torch.tensor([0, *(len(block.vectors) for block in self._blocks)]).cumsum(0)
        number = torch.searchsorted(starts, wanted, right=True) - 1
        for block in number.unique().tolist():
            here = number == block
            vectors[here] = _decode(self._blocks[block].part(wanted[here] - starts[block]))
        return vectors

    def parts(self) -> Iterator[torch.Tensor]:
        """Yield all vectors as float32 (n, D), a part at a time."""
        for block in self._blocks:
            yield _decode(block)

    def save(self, path: Path, labels: torch.Tensor) -> None:
        """Write `embeddings` (N, D), `scales` (N,) for int8, and `labels` (N,) as safetensors, block by block.

        Args:
            labels: (N,) int32.
        """
        columns = {"embeddings": [block.vectors for block in self._blocks]}
        if scales := [block.scales for block in self._blocks if block.scales is not None]:
            columns["scales"] = scales
        columns["labels"] = [labels]
        names = {torch.float32: "F32", torch.float16: "F16", torch.int8: "I8", torch.int32: "I32"}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, parts in columns.items():
            start, end = end, end + sum(part.nbytes for part in parts)
            shape = [sum(map(len, parts)), *parts[0].shape[1:]]
            header[name] = {"dtype": names[parts[0].dtype], "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for parts in columns.values():
                for part in parts:
                    file.write(part.contiguous().numpy().data)

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], precision: Precision) -> "VectorStore":
        """The inverse of `save`; nothing is copied.

        Raises:
            ValueError: The tensors are not what the precision says.
        """
        vectors, scales = tensors["embeddings"], tensors.get("scales")
        if vectors.ndim != 2 or vectors.dtype != _DTYPES[precision]:
            raise ValueError(f"embeddings are {tuple(vectors.shape)} {vectors.dtype}, not (N, D) {precision}")
        if precision == "int8" and (scales is None or scales.shape != vectors.shape[:1]):
            raise ValueError("int8 embeddings need one scale per row")
        for part in (vectors if scales is None else scales).split(_BLOCK_ROWS):
            # an index is searched by what is finite: a row of NaN would win or lose every comparison
            if not torch.isfinite(part).all():
                raise ValueError("an embedding is not finite")
        store = cls(vectors.shape[1], precision)
        parts = vectors.split(_BLOCK_ROWS)
        scale_parts = [None] * len(parts) if scales is None else scales.split(_BLOCK_ROWS)
        store._blocks = [_Block(*pair) for pair in zip(parts, scale_parts, strict=True)]
        return store

    def top_k(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k nearest rows of each query.

        Args:
            queries: (Q, D) float32, unit length.

        Returns:
            Cosines (Q, k) float32, falling, and rows (Q, k) int64.
        """
        found = [self._top_k(batch, k) for batch in queries.split(_QUERIES)]
        if not found:
            return torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
        return torch.cat([scores for scores, _ in found]), torch.cat([rows for _, rows in found])

    def rank(self, queries: torch.Tensor, places: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k nearest of some candidates of each query, as `top_k`; -inf where there are too few.

        Args:
            places: (Q, n) int64, n at least k; -1 for none.
        """
        different, position = places.clamp(min=0).unique(return_inverse=True)
        vectors = self.rows(different)
        cosines = torch.einsum("qd,qnd->qn", queries, vectors[position])
        cosines[(places < 0) | torch.isin(places, self.hidden)] = -torch.inf
        scores, chosen = cosines.topk(k)
        return scores, places.gather(1, chosen)

    def scores(self, queries: torch.Tensor) -> torch.Tensor:
        """Cosines (Q, N) of unit vectors (Q, D) with all rows; -inf for hidden ones."""
        return torch.cat([scores.clone() for _, scores in self._scores(queries)], 1)

    def _top_k(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        if k == len(self):
            return self.scores(queries).sort(dim=1, descending=True)
        best_scores = torch.full((len(queries), k), -torch.inf)
        best_rows = torch.zeros(len(queries), k, dtype=torch.int64)
        for start, scores in self._scores(queries):
            better = torch.nonzero(scores.amax(1) > best_scores[:, -1]).flatten()
            if not len(better):
                continue
            part_scores, part_rows = scores[better].topk(min(k, scores.shape[1]))
            candidates = torch.cat([best_scores[better], part_scores], 1)
            rows = torch.cat([best_rows[better], part_rows + start], 1)
            best_scores[better], order = candidates.topk(k)
            best_rows[better] = rows.gather(1, order)
        return best_scores, best_rows

    def _scores(self, queries: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (number of the part's first row, cosines (Q, rows of the part)); the latter live until the next."""
        for start, scores in self._products(queries):
            if len(self.hidden):
                first, last = torch.searchsorted(self.hidden, torch.tensor([start, start + scores.shape[1]])).tolist()
                scores[:, self.hidden[first:last] - start] = -torch.inf
            yield start, scores

    def _products(self, queries: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        codes = _encode(queries, "int8") if self.precision == "int8" and _MULTIPLIES_INTEGERS else None
        converted = torch.empty(_PART_ROWS, self.dimension)
        start = 0
        for vectors, scales in self._parts():
            count = len(vectors)
            if codes is not None and codes.scales is not None and scales is not None:
                products = torch._int_mm(codes.vectors, vectors.T)
                yield start, (products * scales).mul_(codes.scales[:, None])
            else:
                # the buffer is used again and again: memory from the system would cost more than the conversion
                rows = vectors if self.precision == "float32" else converted[:count].copy_(vectors)
                products = _products(queries, rows)
                yield start, products if scales is None else products.mul_(scales)
            start += count

    def _parts(self) -> Iterator[_Block]:
        for block in self._blocks:
            for first in range(0, len(block.vectors), _PART_ROWS):
                yield block.part(slice(first, first + _PART_ROWS))

    def _append_block(self, block: _Block) -> None:
        # blocks grow by merging with neighbors of about their size: any row is copied a few times only
        while self._blocks and len(self._blocks[-1].vectors) <= min(
            2 * len(block.vectors), _BLOCK_ROWS - len(block.vectors)
        ):
            earlier = self._blocks.pop()
            has_scales = earlier.scales is not None and block.scales is not None
            scales = torch.cat([earlier.scales, block.scales]) if has_scales else None  # type: ignore[list-item]
            block = _Block(torch.cat([earlier.vectors, block.vectors]), scales)
        self._blocks.append(block)


def _encode(vectors: torch.Tensor, precision: Precision) -> _Block:
    if precision != "int8":
        return _Block(vectors.to(_DTYPES[precision]), None)
    codes, scales = torch.empty(vectors.shape, dtype=torch.int8), torch.empty(len(vectors))
    parts = (tensor.split(_PART_ROWS) for tensor in (vectors, codes, scales))
    for part, its_codes, its_scales in zip(*parts, strict=True):  # in the cache, without large copies
        its_codes.copy_((part * (127 / part.abs().amax(1, keepdim=True))).round_())
        # by its own length, and not by the factor above: rounding changes the length, and cosines need unit length
        its_scales.copy_(1 / its_codes.float().norm(dim=1))
    return _Block(codes, scales)


def _decode(block: _Block) -> torch.Tensor:
    vectors = block.vectors.float()
    return vectors if block.scales is None else vectors * block.scales[:, None]


def _products(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(Q, D) x (n, D) -> (Q, n)."""
    if len(queries) > _FEW_QUERIES:
        return queries @ rows.T
    if len(queries) == 1:
        # a matrix-vector product reads the rows at half the speed of a matrix-matrix product
        return (rows @ queries.repeat(2, 1).T).T[:1].contiguous()
    return (rows @ queries.T).T.contiguous()
