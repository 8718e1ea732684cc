"""Samples of aligned crops to batches for an identity-conditioned swap model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hfembed.faces.perceptual_networks import jitter_points
from hfembed.faces.swap.warping import WarpedPairs
from hfembed.training.keyed_randomness import keyed_generator

_STREAM = 6  # of `keyed_generator`


class IdentitySwapCollator:
    """Each sample is to be drawn as its own person, from a distorted crop, or as somebody else, from the crop itself.

    Which of both, as whom, and at which position the identity models look at the result, depends on the sample's key
    alone.

    Args:
        warp: Makes pairs of a distorted input and its target.
        num_people: Of the training.
        swap_share: Fraction of the samples that become somebody else.
        points: Five [x, y]: where landmarks lie in the crops.
        seed: Of the draws.
    """

    def __init__(
        self, warp: WarpedPairs, num_people: int, swap_share: float, points: Sequence[Sequence[float]], seed: int
    ) -> None:
        self.warp = warp
        self.num_people = num_people
        self.swap_share = swap_share
        self.points = np.asarray(points, dtype=np.float64)
        self.seed = seed

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Join samples, each with "pixels" uint8 (channels, height, width), "label" and "key".

        Returns:
            "pixel_values" and "targets" (B, channels, height, width) in [0, 1], "people" (B,) int64: as whom each
            is drawn, "swapped" (B,) bool, "strangers" (B,) int64: somebody else than the own person, "shares" and
            "choices" (B,) in [0, 1), "points" (B, 5, 2) float64.
        """
        keys = [sample["key"] for sample in samples]
        inputs, targets, _ = self.warp(torch.stack([sample["pixels"] for sample in samples]), keys)
        generators = [keyed_generator(self.seed, key, _STREAM) for key in keys]
        draws = np.stack([generator.random(4) for generator in generators])
        swapped = draws[:, 0] < self.swap_share
        steps = 1 + np.floor(draws[:, 1] * (self.num_people - 1)).astype(np.int64)
        labels = np.array([sample["label"] for sample in samples])
        strangers = (labels + steps) % self.num_people
        people = np.where(swapped, strangers, labels)
        points = np.concatenate([jitter_points(self.points, 1, generator) for generator in generators])
        is_swapped = torch.from_numpy(swapped)
        pixel_values = torch.where(is_swapped[:, None, None, None], targets, inputs)
        return {
            "pixel_values": pixel_values.contiguous(memory_format=torch.channels_last),
            "targets": targets,
            "people": torch.from_numpy(people),
            "swapped": is_swapped,
            "strangers": torch.from_numpy(strangers),
            "shares": torch.from_numpy(draws[:, 2]).float(),
            "choices": torch.from_numpy(draws[:, 3]).float(),
            "points": torch.from_numpy(points),
        }
