"""The entropy model of a codec: fitted to an autoencoder's latents, bit-identical on every machine.

An encoder and a decoder must agree on every probability, but floating-point sums depend on threads, batch sizes and
libraries. The network therefore computes with integers (Balle et al., "Integer Networks for Data Compression with
Latent-Variable Models", 2019): weights and activations are rounded to fixed-point numbers, stored as float64; their
sums are exact in any order as long as they stay below 2 ** 53. The remaining operations are single products,
quotients and square roots, which IEEE 754 defines to the bit.
"""

import copy
import hashlib
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import nn

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.errors import InputError
from hfembed.models.conv_autoencoder.entropy_network import (
    LEAST_DEVIATION,
    EntropyNetwork,
    GroupNetwork,
    Stage,
    quality_input,
)

_PREFIX = "entropy."
_HIDDEN = (1, 512)  # smallest and largest number of hidden channels in a file
_WEIGHT_BITS, _VALUE_BITS = 12, 10  # fractional bits
_LARGEST_WEIGHT, _LARGEST_INPUT, _LARGEST_HIDDEN = 2**18, 2**16, 2**20  # (2**18 * 2**20) * 2**13 terms < 2**53
_PER_OCTAVE = 16  # deviations in the table
_OCTAVES = (-16, 16)
_BATCH = 16
_LEARNING_RATE = 2e-3


class EntropyModel:
    """Predicts means and standard deviations of an autoencoder's rounded latents, stage by stage, bit-identically.

    Attributes:
        network: The fitted network, in float32.
        fingerprint: The sha256 of its tensors.
    """

    def __init__(self, network: EntropyNetwork):
        self.network = network.cpu().eval().requires_grad_(False)
        self._groups = [_IntegerGroup(group) for group in network.groups]  # type: ignore[arg-type]
        self.center, self.scale = (tensor.double().cpu() for tensor in (network.center, network.scale))
        self.colors = network.colors.cpu()
        digest = hashlib.sha256()
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode() + np.ascontiguousarray(tensor.float().numpy()).tobytes())
        self.fingerprint = digest.digest()

    @torch.no_grad()
    def predict(
        self, values: torch.Tensor, stage: Stage, steps: torch.Tensor, quality: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predict the numbers of a stage from those that are decoded before it.

        Args:
            values: (C, h, w) float64, the latents decoded so far; values that are not decoded yet are ignored.
            stage: One of `network.stages()`.
            steps: (C, 1, 1) float64, the quantization steps, positive.
            quality: The quality that these steps belong to.

        Returns:
            Means and standard deviations in steps, float64, one per number of the stage: channel by channel, row by
            row.
        """
        own = slice(stage.first, stage.last)
        known = (values[: stage.last] - self.center[: stage.last]) / self.scale[: stage.last]
        known[own] *= self.colors[0] if stage.color else 0
        mean, log_deviation = self._groups[stage.group](known, stage.color, quality)
        is_now = self.colors[stage.color]
        scale = self.scale[own] / steps[own]
        means = (self.center[own] / steps[own] + mean * scale)[:, is_now]
        deviations = (_DEVIATIONS[log_deviation] * scale)[:, is_now]
        deviations = (deviations * deviations + LEAST_DEVIATION**2).sqrt()
        return means.flatten().numpy(), deviations.flatten().numpy()

    @classmethod
    def fit(
        cls,
        latents: torch.Tensor,
        steps: dict[int, torch.Tensor],
        are_levels: bool = False,
        start: EntropyNetwork | None = None,
        num_steps: int = 1500,
        seed: int = 0,
    ) -> "EntropyModel":
        """Learn from the latents of training images; one network serves all qualities.

        Args:
            latents: (N, C, h, w).
            steps: Quality -> quantization steps (C, 1, 1).
            are_levels: The latents are whole multiples of the steps already.
            start: Continue from this network; by default from one Gaussian per number.
            num_steps: Optimizer steps, of 16 images each.

        Raises:
            InputError: The latents are not a grid.
        """
        latents = latents.float().cpu()
        qualities = torch.tensor(list(steps), dtype=torch.float32)
        table = torch.stack(list(steps.values())).float()
        if latents[0, 0].numel() < 2:
            raise InputError("an entropy model is for latents that are a grid; these are a vector")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if start is None:
                network = _one_gaussian_for_each(latents)
            else:
                network = copy.deepcopy(start)
            network.float().cpu().train().requires_grad_(True)
            optimizer = torch.optim.AdamW(network.parameters(), _LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
            for _ in range(num_steps):
                part = latents[torch.randint(len(latents), (_BATCH,))]
                rows = torch.randint(len(steps), (len(part),))
                _, bits = network(part, table[rows], qualities[rows], are_levels)
                optimizer.zero_grad()
                (bits.mean() / part[0].numel()).backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
        return cls(network)

    def tensors(self) -> dict[str, np.ndarray]:
        """The network's tensors by name, to be stored beside the latent statistics."""
        return {_PREFIX + name: tensor.numpy() for name, tensor in self.network.state_dict().items()}

    @classmethod
    def load(cls, checkpoint: str | Path | Checkpoint, shape: tuple[int, int, int]) -> "EntropyModel | None":
        """Read the entropy model of latents (C, h, w) beside a checkpoint; None where there is none.

        Raises:
            InputError: The file is damaged, or its network is of other latents.
        """
        path = Checkpoint.resolve(checkpoint).latent_statistics
        if path is None:
            return None
        try:
            with safe_open(path, "pt") as file:
                names = [name for name in file.keys() if name.startswith(_PREFIX)]  # noqa: SIM118
                if not names:
                    return None
                hidden = file.get_slice(f"{_PREFIX}groups.0.quality").get_shape()
                if len(hidden) != 1 or not _HIDDEN[0] <= hidden[0] <= _HIDDEN[1]:
                    raise ValueError(f"a network of {hidden} channels")
                network = EntropyNetwork(shape, hidden[0])
                expected = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
                found = {name.removeprefix(_PREFIX): file.get_slice(name).get_shape() for name in names}
                if found != expected:
                    raise ValueError(f"its entropy model is not of latents {shape}")
                # other types would overflow float32, or know no smallest number
                if kinds := {file.get_slice(name).get_dtype() for name in names} - {"F32"}:
                    raise ValueError(f"its entropy model has numbers of type {min(kinds)}")
                tensors = {name: file.get_tensor(_PREFIX + name) for name in expected}
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}): measure the latents again") from error
        if not all(tensor.isfinite().all() for tensor in tensors.values()) or tensors["scale"].min() <= 0:
            raise InputError(f"{path} is damaged (a number is not finite): measure the latents again")
        network.load_state_dict(tensors)
        return cls(network)


class _IntegerGroup:
    """A `GroupNetwork` that computes with integers."""

    def __init__(self, group: GroupNetwork):
        layers = (group.read, group.mix, group.write)
        self.weights = [_whole(layer.weight.detach().double()) for layer in layers]
        self.biases = [_fixed(layer.bias.detach().double())[:, None, None] for layer in layers]  # type: ignore[union-attr]
        self.hidden_at, self.output_at = (x.detach().double() for x in (group.hidden_at, group.output_at))
        self.quality = group.quality.detach().double()[:, None, None]

    def __call__(self, known: torch.Tensor, color: int, quality: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Known channels (last, h, w) -> means (n, h, w) and rows (n, h, w) of the table of deviations."""
        limit = _LARGEST_INPUT
        hidden = torch.floor(known * 2**_VALUE_BITS + 0.5).clamp(-limit, limit)
        at_quality = self.hidden_at[color] + quality_input(torch.tensor(quality, dtype=torch.float64)) * self.quality
        shifts = (_fixed(at_quality), torch.zeros(()), _fixed(self.output_at))
        for weight, bias, shift in zip(self.weights, self.biases, shifts, strict=True):
            sums = F.conv2d(hidden[None], weight, padding=weight.shape[2] // 2)[0] + bias + shift
            output = torch.floor(sums / 2**_WEIGHT_BITS)
            hidden = output.clamp(0, _LARGEST_HIDDEN)
        mean, log_deviation = output.clamp(-(2**20), 2**20).chunk(2)
        low, high = (octave * _PER_OCTAVE for octave in _OCTAVES)
        row = torch.floor(log_deviation * _PER_OCTAVE / 2**_VALUE_BITS + 0.5).clamp(low, high) - low
        return mean / 2**_VALUE_BITS, row.long()


def _whole(weight: torch.Tensor) -> torch.Tensor:
    return torch.floor(weight * 2**_WEIGHT_BITS + 0.5).clamp(-_LARGEST_WEIGHT, _LARGEST_WEIGHT)


def _fixed(values: torch.Tensor) -> torch.Tensor:
    """Fixed-point numbers at the scale of a product of weights and activations."""
    return torch.floor(values * 2 ** (_WEIGHT_BITS + _VALUE_BITS) + 0.5).clamp(-(2.0**44), 2.0**44)


def _table_of_deviations() -> torch.Tensor:
    """2 ** (i / 16), rounded so coarsely that the exponential of every library gives the same numbers."""
    fractions = [round(2 ** (part / _PER_OCTAVE) * 2**20) for part in range(_PER_OCTAVE)]
    rows = range(_OCTAVES[0] * _PER_OCTAVE, _OCTAVES[1] * _PER_OCTAVE + 1)
    values = [math.ldexp(fractions[row % _PER_OCTAVE], row // _PER_OCTAVE - 20) for row in rows]
    return torch.tensor(values, dtype=torch.float64)


_DEVIATIONS = _table_of_deviations()


def _one_gaussian_for_each(latents: torch.Tensor) -> EntropyNetwork:
    """A network that predicts each number's mean and standard deviation over the images."""
    network = EntropyNetwork(latents.shape[1:])
    deviation, center = torch.std_mean(latents, (0, 2, 3), keepdim=True)
    network.center.copy_(center[0])
    network.scale.copy_(torch.where(deviation > 0, deviation, 1)[0])
    deviations, means = torch.std_mean((latents - network.center) / network.scale, 0)
    for group, (first, last) in zip(network.groups, network.bounds, strict=True):
        assert isinstance(group, GroupNetwork)
        nn.init.zeros_(group.write.weight)
        nn.init.zeros_(group.write.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            logs = torch.log2(deviations[first:last].clamp(min=1e-3))
            group.output_at.copy_(torch.cat([means[first:last], logs]))
    return network
