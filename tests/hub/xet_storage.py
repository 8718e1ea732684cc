"""Xet's content-addressed store for the tests' Hub: xorbs of compressed chunks, and shards that say what files are.

Formats: the Xet protocol's specification, xorb and shard.
"""

import struct
from dataclasses import dataclass

_ENTRY = 48  # bytes of every entry of a shard
_LIST_END = b"\xff" * 32
_HAS_VERIFICATION, _HAS_METADATA = 1 << 31, 1 << 30


@dataclass(frozen=True)
class Term:
    """A run of chunks of one xorb."""

    xorb: str
    size: int
    first_chunk: int
    end_chunk: int


class XetStorage:
    """Xorbs and files by their hashes.

    Attributes:
        xorbs: Hash -> bytes as they were uploaded.
        files: Hash -> terms.
        file_of_sha256: sha256 of the content -> hash.
    """

    def __init__(self):
        self.xorbs: dict[str, bytes] = {}
        self.files: dict[str, list[Term]] = {}
        self.file_of_sha256: dict[str, str] = {}

    def put_xorb(self, hash: str, data: bytes) -> bool:
        is_new = hash not in self.xorbs
        self.xorbs[hash] = data
        return is_new

    def put_shard(self, shard: bytes) -> None:
        place = _ENTRY  # the header
        while shard[place : place + 32] != _LIST_END:
            file = _hash(shard[place : place + 32])
            flags, count = struct.unpack_from("<II", shard, place + 32)
            place += _ENTRY
            terms = []
            for _ in range(count):
                xorb = _hash(shard[place : place + 32])
                _, size, first, end = struct.unpack_from("<IIII", shard, place + 32)
                terms.append(Term(xorb, size, first, end))
                place += _ENTRY
            if flags & _HAS_VERIFICATION:
                place += count * _ENTRY
            if flags & _HAS_METADATA:
                self.file_of_sha256[_hash(shard[place : place + 32])] = file
                place += _ENTRY
            self.files[file] = terms

    def read_sha256(self, sha256: str) -> bytes | None:
        """A file's content; None where it, or a part of it, was not uploaded."""
        terms = self.files.get(self.file_of_sha256.get(sha256))
        if terms is None or any(term.xorb not in self.xorbs for term in terms):
            return None
        content = bytearray()
        for term in terms:
            xorb = self.xorbs[term.xorb]
            for start, end in _chunks(xorb)[term.first_chunk : term.end_chunk]:
                content += _decode_chunk(xorb[start:end])
        return bytes(content)

    def reconstruction(self, file: str, first: int, last: int | None, url: str) -> dict | None:
        """From which bytes of which xorbs a client builds the bytes `first` to `last` (inclusive) of a file."""
        if file not in self.files:
            return None
        terms, fetch, offset, skipped = [], {}, 0, None
        for term in self.files[file]:
            start, offset = offset, offset + term.size
            if offset <= first or (last is not None and start > last):
                continue
            if skipped is None:
                skipped = max(first - start, 0)
            chunks = {"start": term.first_chunk, "end": term.end_chunk}
            places = _chunks(self.xorbs[term.xorb])[term.first_chunk : term.end_chunk]
            place = {"start": places[0][0], "end": places[-1][1] - 1}
            terms.append({"hash": term.xorb, "unpacked_length": term.size, "range": chunks})
            known = fetch.setdefault(term.xorb, [])
            if all(entry["range"] != chunks for entry in known):
                known.append({"range": chunks, "url": url + term.xorb, "url_range": place})
        return {"offset_into_first_range": skipped or 0, "terms": terms, "fetch_info": fetch}


def _hash(raw: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def _chunks(xorb: bytes) -> list[tuple[int, int]]:
    """(start, end) of the chunks, headers included; an uploaded xorb may end with a footer."""
    places, place = [], 0
    while place < len(xorb) and xorb[place : place + 7] != b"XETBLOB":
        end = place + 8 + int.from_bytes(xorb[place + 1 : place + 4], "little")
        places.append((place, end))
        place = end
    return places


def _decode_chunk(chunk: bytes) -> bytes:
    scheme, size = chunk[4], int.from_bytes(chunk[5:8], "little")
    data = chunk[8:] if scheme == 0 else _decode_lz4_frame(chunk[8:])
    if scheme == 2:  # the first bytes of all fours, then the second bytes, ...
        grouped, data, place = data, bytearray(len(data)), 0
        for group in range(4):
            count = len(data[group::4])
            data[group::4] = grouped[place : place + count]
            place += count
    if len(data) != size:
        raise ValueError(f"a chunk of {size} bytes unpacks to {len(data)}")
    return bytes(data)


def _decode_lz4_frame(frame: bytes) -> bytes:
    """LZ4 frame format 1.6: blocks, stored or compressed."""
    if frame[:4] != b"\x04\x22\x4d\x18":
        raise ValueError("no LZ4 frame")
    flags = frame[4]
    place = 6 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0) + 1
    content = bytearray()
    while size := int.from_bytes(frame[place : place + 4], "little"):
        block = frame[place + 4 : place + 4 + (size & 0x7FFFFFFF)]
        if size & 0x80000000:
            content += block
        else:
            _decode_lz4_block(block, content)
        place += 4 + len(block) + (4 if flags & 16 else 0)
    return bytes(content)


def _decode_lz4_block(block: bytes, content: bytearray) -> None:
    place, end = 0, len(block)
    while place < end:
        token = block[place]
        length, place = _length(block, place + 1, token >> 4)
        content += block[place : place + length]
        place += length
        if place == end:
            return
        distance = block[place] | block[place + 1] << 8
        length, place = _length(block, place + 2, token & 15)
        length += 4
        start = len(content) - distance
        if distance >= length:
            content += content[start : start + length]
        else:  # the copy reads what it writes
            pattern = bytes(content[start:])
            content += (pattern * (length // distance + 1))[:length]


def _length(block: bytes, place: int, length: int) -> tuple[int, int]:
    if length == 15:
        while True:
            byte = block[place]
            place += 1
            length += byte
            if byte != 255:
                break
    return length, place
