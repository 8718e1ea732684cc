"""Batches side by side in threads: networks of small layers use the cores of a CPU better so than one by one."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item], num_threads: int) -> Iterator[Result]:
    """Apply a function to each item, several at a time; torch works on one core in each thread meanwhile.

    Within a small layer two threads wait for each other; two batches side by side do not.

    Args:
        function: What to do; must not depend on what other threads do.
        items: What to do it to.
        num_threads: How many threads; with one, the work is done in this thread, by as many cores as torch is set to.

    Yields:
        The results, in the order of the items.
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
