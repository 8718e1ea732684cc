"""Batches side by side in threads: on a CPU, networks of small layers use the cores better so than one by one."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
NumThreads = int | Literal["auto"]


def available_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def choose_threads(num_threads: NumThreads, device: torch.device | None = None) -> int:
    """How many threads "auto" stands for: one per core on a CPU, one where an accelerator does the work."""
    if num_threads != "auto":
        return num_threads
    return available_cores() if device is None or device.type == "cpu" else 1


def split_batches(count: int, batch_size: int, num_threads: int) -> list[slice]:
    """Batches of at most `batch_size` of `count` items, small enough that every thread has one."""
    size = max(min(batch_size, -(-count // max(num_threads, 1))), 1)
    return [slice(start, start + size) for start in range(0, count, size)]


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item], num_threads: int) -> Iterator[Result]:
    """Apply a function to each item in threads, in each of which torch uses one core; yield the results in order.

    Within a small layer two cores wait for each other; two batches side by side do not. With one thread the work is
    done in the calling one, by as many cores as torch is set to.
    """
    if num_threads <= 1:
        yield from map(function, items)
        return
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            yield from threads.map(function, items)
    finally:
        torch.set_num_threads(before)
