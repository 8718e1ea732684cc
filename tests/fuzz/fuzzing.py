"""Mutations of bytes and of JSON, and the loop that tries them: read or refused in one line, in bounded memory.

By default each test tries a fixed number of mutations from a fixed seed. FUZZ_SECONDS=60 tries new ones for that long
in each test instead, and prints the seed with which a failure is found again (FUZZ_SEED).
"""

import json
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hfembed.errors import _expected

MEMORY = 2 << 30  # bytes that a case may take beyond what the process has
HOSTILE = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "a" * 100_000, "\0", "../../etc/passwd", "/etc/passwd", "https://example.com/x", "é\ud800", "auto",
    [], {}, [[]], [None], [float("nan")] * 5, {"": ""}, {"url": "https://example.com"}, [0] * 10_000, "cuda",
]  # fmt: skip


def mutate_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip a bit, or overwrite, delete, insert, repeat, zero or cut off bytes; up to three times."""
    for _ in range(rng.integers(1, 4)):
        if not content:
            break
        at, other = sorted(int(place) for place in rng.integers(len(content), size=2))
        head, tail = content[:at], content[at + 1 :]
        content = (
            head + bytes([content[at] ^ 1 << int(rng.integers(8))]) + tail,
            head + rng.bytes(int(rng.integers(1, 9))) + tail,
            head + content[at + int(rng.integers(1, 9)) :],
            head + rng.bytes(int(rng.integers(1, 9))) + content[at:],
            content[:other] + content[at:],
            head + b"\0" * (other - at) + content[other:],
            head,
            content + rng.bytes(int(rng.integers(1, 9))),
        )[rng.integers(8)]
    return content


def mutate_json(value: Any, rng: np.random.Generator) -> Any:
    """Replace, delete, add, rename or nest something at a random depth."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        changed = dict(value)
        key = list(value)[rng.integers(len(value))]
        action = rng.integers(8)
        if action == 0:
            del changed[key]
        elif action == 1:
            changed[f"{key}_"] = changed.pop(key)
        elif action == 2:
            changed[str(HOSTILE[rng.integers(len(HOSTILE))])[:50]] = HOSTILE[rng.integers(len(HOSTILE))]
        else:
            changed[key] = mutate_json(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = int(rng.integers(len(value)))
        new = ([], [value[place]] * 2, [mutate_json(value[place], rng)])[rng.integers(3)]
        return [*value[:place], *new, *value[place + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return value * float(rng.choice([-1, 0, 0.5, 2, 1e3, 1e9]))
    if isinstance(value, str) and rng.random() < 0.3:
        return value[: rng.integers(len(value) + 1)] + chr(int(rng.integers(1, 300)))
    return HOSTILE[rng.integers(len(HOSTILE))]


def mutate_json_text(value: Any, rng: np.random.Generator) -> bytes:
    """A JSON file: mostly one that parses, sometimes one that does not, or one that nests deeply."""
    text = json.dumps(mutate_json(value, rng)).encode("utf-8", "surrogatepass")
    choice = rng.random()
    if choice < 0.02:
        return b"[" * 100_000
    return mutate_bytes(text, rng) if choice < 0.2 else text


def fuzz(name: str, count: int, try_case: Callable[[np.random.Generator], None]) -> Counter:
    """Try mutations: each is read, or refused with an error that a command reports in one line.

    Args:
        name: What is fuzzed, for the report.
        count: How many mutations by default.
        try_case: Makes a mutation with a generator and reads it.

    Returns:
        How many were "read" and "refused".
    """
    seconds = float(os.environ.get("FUZZ_SECONDS", 0))
    seed = int(os.environ.get("FUZZ_SEED", time.time_ns() % 2**32 if seconds else 0))
    outcomes: Counter = Counter()
    start = time.monotonic()
    for number in _numbers(count, start + seconds if seconds else None):
        try:
            with _bounded_memory():
                try_case(np.random.default_rng([seed, number]))
            outcomes["read"] += 1
        except Exception as error:
            if isinstance(error, MemoryError) or _expected(error) is None:
                raise AssertionError(f"{name}: mutation {number} of FUZZ_SEED={seed}") from error
            outcomes["refused"] += 1
    print(f"{name}: {dict(outcomes)} in {time.monotonic() - start:.1f} s (FUZZ_SEED={seed})")
    return outcomes


def put(path: Path, content: bytes) -> Path:
    """Write a file and return its path."""
    path.write_bytes(content)
    return path


def _numbers(count: int, end: float | None) -> Iterator[int]:
    number = 0
    while number < count if end is None else time.monotonic() < end:
        yield number
        number += 1


@contextmanager
def _bounded_memory() -> Iterator[None]:
    old, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (old, hard))
