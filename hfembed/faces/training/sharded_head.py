"""A margin head for many people: its class weights are split over the ranks, and a step looks at some of them.

Partial FC: An et al. 2022, "Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs".
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.margin_softmax import sub_center_cosines
from hfembed.models.face_embedder.modeling_face_embedder import make_margin_softmax
from hfembed.training.config import TrainingConfig
from hfembed.training.distributed import (
    gather_labels,
    gather_with_gradient,
    is_distributed,
    maximum_over_ranks,
    sum_over_ranks,
)
from hfembed.training.keyed_randomness import keyed_generator
from hfembed.training.optim import make_optimizer

_BLOCK = 8192  # classes that are drawn at a time, whatever rank they lie on


def sample_classes(first: int, last: int, rate: float, seed: int, step: int) -> np.ndarray:
    """Draw the classes of a step: each with the same probability, independently of the others and of the ranks.

    Args:
        first: First class of the rank.
        last: One past its last class.
        rate: Probability of each.
        seed: Of the run.
        step: Of the run, in optimizer steps.

    Returns:
        Ascending class numbers int64 in [first, last).
    """
    parts = [np.empty(0, dtype=np.int64)]
    for block in range(first // _BLOCK, -(-last // _BLOCK)):
        draws = keyed_generator(seed, (step, block), stream=4).random(_BLOCK, dtype=np.float32)
        parts.append(block * _BLOCK + np.flatnonzero(draws < rate))
    classes = np.concatenate(parts)
    return classes[np.searchsorted(classes, first) : np.searchsorted(classes, last)]


class ShardedHead:
    """This rank's share of a margin head (`MarginSoftmax`), its optimizer, and the loss over all ranks.

    It stands outside of DistributedDataParallel: of everybody's weights, each rank holds and updates its own. A step
    computes the exact softmax over the classes of its labels, on whatever rank they lie, and over every other class
    with probability `sample_rate`. Only the rows of these classes have gradients and move, weight decay and momentum
    included. With a rate of 1 the training is that of the whole head on one rank. AdaFace's length statistics are
    those of all ranks' samples here. AdamW corrects its bias by the steps of the run, not of a row.

    Args:
        config: Names head, margins and embedding size; `head` is one of `MARGIN_HEADS`.
        people: Number of classes of all ranks.
        training: Optimizer and seed.
        sample_rate: In (0, 1].
        device: Where the weights lie.

    Attributes:
        first: First class of this rank.
        last: One past its last class.
        margin_softmax: The head, with the weights of these classes only.
    """

    def __init__(
        self,
        config: FaceEmbedderConfig,
        people: int,
        training: TrainingConfig,
        sample_rate: float = 1.0,
        device: torch.device | str = "cpu",
    ):
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)
        self.first, self.last = rank * people // ranks, (rank + 1) * people // ranks
        self.training, self.sample_rate = training, sample_rate
        self.steps = 0
        self.margin_softmax = make_margin_softmax(config, self.last - self.first).to(device)
        self.centers = self.margin_softmax.sub_centers
        self.weight = self.margin_softmax.weight
        self._fill()
        # written to, and not only reserved, so that too little memory is found at the start
        self.state = {name: torch.empty_like(self.weight).zero_() for name in _state_names(training)}
        self._parts: list[tuple[np.ndarray, nn.Parameter]] = []

    @torch.no_grad()
    def _fill(self) -> None:
        """Start from normal noise, the same on any number of ranks."""
        centers, size = self.centers, self.weight.shape[1]
        for block in range(self.first // _BLOCK, -(-self.last // _BLOCK)):
            generator = keyed_generator(self.training.seed, (0, block), stream=3)
            rows = 0.01 * generator.standard_normal((_BLOCK * centers, size), dtype=np.float32)
            first, last = max(self.first, block * _BLOCK), min(self.last, (block + 1) * _BLOCK)
            inside = rows[(first - block * _BLOCK) * centers : (last - block * _BLOCK) * centers]
            start = (first - self.first) * centers
            self.weight[start : start + len(inside)] = torch.from_numpy(inside)

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of all ranks' samples and the accuracy among the step's classes, as the training loop wants them.

        Args:
            model: The embedder, wrapped or not.
            batch: "pixel_values", "labels" and, for the head elasticface, "margin_noise".
        """
        labels = gather_labels(batch["labels"])
        classes = self._choose(labels.cpu().numpy())  # before the model runs, which the device need not wait for
        output = model(batch["pixel_values"])
        noise = gather_labels(batch["margin_noise"]) if "margin_noise" in batch else None
        return self._loss(output.embeddings, output.norms, labels, classes, noise)

    def _choose(self, labels: np.ndarray) -> np.ndarray:
        """This rank's classes of the step, ascending."""
        if self.sample_rate == 1:
            return np.arange(self.first, self.last)
        classes = sample_classes(self.first, self.last, self.sample_rate, self.training.seed, self.steps)
        own = np.unique(labels[(labels >= self.first) & (labels < self.last)])
        missing = np.setdiff1d(own, classes, assume_unique=True)
        return np.insert(classes, np.searchsorted(classes, missing), missing)

    def _loss(
        self,
        embeddings: torch.Tensor,
        norms: torch.Tensor,
        labels: torch.Tensor,
        classes: np.ndarray,
        noise: torch.Tensor | None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        embeddings = gather_with_gradient(embeddings, loss_in_parts=True)
        norms = gather_with_gradient(norms)
        cosines = sub_center_cosines(embeddings, self._part(classes), self.centers)
        # samples whose person lies on this rank, and the person's column
        is_here = (labels >= self.first) & (labels < self.last)
        rows = is_here.nonzero().squeeze(1)
        columns = torch.searchsorted(torch.from_numpy(classes).to(labels.device), labels[rows])
        targets = sum_over_ranks(cosines.new_zeros(len(labels)).index_put((rows,), cosines[rows, columns]))
        # on every rank the own class of every sample comes first, and is hidden among the rank's classes
        cosines = torch.cat([targets.unsqueeze(1), cosines], 1)
        hidden, nowhere = (rows, columns + 1), cosines.new_tensor(-torch.inf)
        logits = self.margin_softmax.margin_logits(cosines, norms, torch.zeros_like(labels), noise)
        logits = logits.index_put(hidden, nowhere)
        nearest = cosines.detach().index_put(hidden, nowhere).amax(1)
        highest, nearest = maximum_over_ranks(torch.stack([logits.amax(1), nearest]))
        powers = (logits - highest.unsqueeze(1)).exp()
        loss = (powers[:, 0] + sum_over_ranks(powers[:, 1:].sum(1))).log() + highest - logits[:, 0]
        accuracy = (targets >= nearest).float().mean()
        return loss.mean() + self.margin_softmax.penalty(norms), {"accuracy": accuracy}

    def _part(self, classes: np.ndarray) -> torch.Tensor:
        """The weights of some classes, a leaf that keeps its gradient until the step."""
        if self.sample_rate == 1:
            self._parts = [(classes, self.weight)]
        else:
            self._parts.append((classes, nn.Parameter(self.weight.detach()[self._rows(classes - self.first)])))
        return self._parts[-1][1]

    def _rows(self, places: np.ndarray) -> torch.Tensor:
        """The rows of classes that stand at these places: of all their centers."""
        first_rows = torch.from_numpy(places).to(self.weight.device) * self.centers
        return (first_rows.unsqueeze(1) + torch.arange(self.centers, device=first_rows.device)).flatten()

    @torch.no_grad()
    def touched(self) -> nn.Parameter:
        """The weights that the step moves, with their gradient over all its micro-batches."""
        if len(self._parts) > 1:
            classes = np.unique(np.concatenate([some for some, _ in self._parts]))
            whole = nn.Parameter(self.weight[self._rows(classes - self.first)])
            gradient = whole.grad = torch.zeros_like(whole)
            for some, part in self._parts:
                gradient.index_add_(0, self._rows(np.searchsorted(classes, some)), cast(torch.Tensor, part.grad))
            self._parts = [(classes, whole)]
        return self._parts[0][1]

    def squared_gradient_norm(self) -> torch.Tensor:
        """Of the weights of all ranks: a scalar."""
        return sum_over_ranks(cast(torch.Tensor, self.touched().grad).square().sum())

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move the weights that the step touched, by the optimizer of the recipe."""
        part = self.touched()
        rows = slice(None) if part is self.weight else self._rows(self._parts[0][0] - self.first)
        optimizer = make_optimizer(nn.ParameterList([part]), self.training)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        state = {name: values[rows] for name, values in self.state.items()}
        optimizer.state[part] = {"step": torch.tensor(float(self.steps)), **state}
        optimizer.step()
        if part is not self.weight:
            self.weight[rows] = part
            for name, values in state.items():
                self.state[name][rows] = values
        part.grad = None
        self._parts = []
        self.steps += 1

    def save(self, folder: Path) -> None:
        """Write this rank's share into a checkpoint's folder, which all ranks share."""
        tensors = {"weight": self.weight.detach(), **self.state, **dict(self.margin_softmax.named_buffers())}
        save_file(tensors, folder / f"head_{self.first:012d}.safetensors", {"steps": str(self.steps)})

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take this rank's share from a checkpoint's folder, whatever number of ranks wrote it.

        Raises:
            ValueError: The folder has the head of another recipe, or not all of it.
        """
        loaded = 0
        for file in sorted(folder.glob("head_*[0-9].safetensors")):
            with safe_open(file, "pt") as stored:
                began = int(file.stem.removeprefix("head_"))
                shape = stored.get_slice("weight").get_shape()
                first, last = max(self.first, began), min(self.last, began + shape[0] // self.centers)
                if first >= last:
                    continue
                ours = slice((first - self.first) * self.centers, (last - self.first) * self.centers)
                theirs = slice((first - began) * self.centers, (last - began) * self.centers)
                for name, values in {"weight": self.weight, **self.state}.items():
                    values[ours] = stored.get_slice(name)[theirs].to(values.device)
                for name, buffer in self.margin_softmax.named_buffers():
                    buffer.copy_(stored.get_tensor(name))
                self.steps = int(stored.metadata()["steps"])
                loaded += last - first
        if loaded != self.last - self.first:
            raise ValueError(f"it has {loaded:,} of the {self.last - self.first:,} people of this rank")


def _state_names(training: TrainingConfig) -> tuple[str, ...]:
    """What torch's optimizer keeps per weight."""
    if training.optimizer == "adamw":
        return ("exp_avg", "exp_avg_sq")
    return ("momentum_buffer",) if training.momentum else ()
