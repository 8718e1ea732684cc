"""Random numbers that belong to a sample: a function of (seed, epoch, index), whatever else is drawn."""

from collections.abc import Sequence

import numpy as np


def keyed_generator(seed: int, key: Sequence[int], stream: int = 0) -> np.random.Generator:
    """One generator per (seed, epoch, index, repetition): Philox turns numbered blocks into noise.

    Args:
        seed: Of the run.
        key: (epoch, index) or (epoch, index, repetition).
        stream: Uses that must not share their draws have different numbers: 0 augmentation, 1 corruption, 2 margins,
            3 class weights, 4 sampled classes, 5 the order of a stream.

    Returns:
        The generator; the same arguments always give the same draws.
    """
    epoch, index, repetition = (*key, 0)[:3]
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, repetition, index, epoch]))
