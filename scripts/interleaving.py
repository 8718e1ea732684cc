"""Speeds of variants of one thing, measured so that other load on the machine disturbs all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Name = TypeVar("Name")


def interleaved(
    variants: Mapping[Name, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[Name, float]:
    """Median seconds of each variant, of CPU time by default; they take turns, after one round to warm up."""
    seconds: dict[Name, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, run in variants.items():
            start = clock()
            run()
            if round_:
                seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}
