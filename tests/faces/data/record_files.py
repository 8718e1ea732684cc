"""RecordIO files, written by their description alone: dmlc-core's recordio.h, MXNet's recordio.py, insightface's
face2rec2.py."""

import struct

MAGIC = struct.pack("<I", 0xCED7230A)


def record(data: bytes) -> bytes:
    """A record; split where the magic number stands at a multiple of four, as dmlc's writer does."""
    cuts = [place for place in range(0, len(data) // 4 * 4, 4) if data[place : place + 4] == MAGIC]
    pieces = [data[a:b] for a, b in zip([0, *(cut + 4 for cut in cuts)], [*cuts, len(data)], strict=True)]
    written = b""
    for number, piece in enumerate(pieces):
        kind = 0 if len(pieces) == 1 else 1 if number == 0 else 3 if number == len(pieces) - 1 else 2
        written += MAGIC + struct.pack("<I", kind << 29 | len(piece)) + piece + bytes(-len(piece) % 4)
    return written


def packed(labels, number: int, encoded: bytes = b"") -> bytes:
    """The data of a record: header, labels, image."""
    if isinstance(labels, (int, float)):
        return struct.pack("<IfQQ", 0, labels, number, 0) + encoded
    return struct.pack(f"<IfQQ{len(labels)}f", len(labels), 0, number, 0, *labels) + encoded


def write_records(folder, people, *, ranges=True, index=True, arrays=False, size=(112, 112), last_first=False):
    """A folder as insightface has it: train.rec, train.idx, property. `people`: one list of encoded photos each.

    ranges: record 0 and one record per person; arrays: two labels per photo; last_first: the order in the file is
    not that of the keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    photos = [(label, photo) for label, photos in enumerate(people) for photo in photos]
    data = {}
    for key, (label, photo) in enumerate(photos, start=1 if ranges else 0):
        data[key] = packed([label, 7.5] if arrays else float(label), key, photo)
    if ranges:
        first = len(photos) + 1
        data[0] = packed([first, first + len(people)], 0)
        start = 1
        for label, own in enumerate(people):
            data[first + label] = packed([start, start + len(own)], first + label)
            start += len(own)
    lines = []
    with (folder / "train.rec").open("wb") as file:
        for key in sorted(data, reverse=last_first):
            lines.append(f"{key}\t{file.tell()}\n")
            file.write(record(data[key]))
    if index:
        (folder / "train.idx").write_text("".join(lines))
    if size:
        (folder / "property").write_text(f"{len(people)},{size[0]},{size[1]}")
    return folder
