"""What made the embeddings of an index: embeddings of two models, or of one in two settings, must not be compared."""

import hashlib
import re
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Origin:
    """The model and the settings that embeddings come from.

    Attributes:
        weights: From `fingerprint_tensors`; None where it is not known.
    """

    model: str | None = None
    weights: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: PreTrainedModel, **settings: Any) -> "Origin":
        """The origin of embeddings that `model`, loaded in the precision of its checkpoint, makes."""
        weights = fingerprint_tensors(model.base_model)
        return cls(shareable_name(str(model.config.name_or_path)), weights, settings)

    def difference(self, other: "Origin") -> str | None:
        """What makes embeddings of two origins incomparable, in words; None where nothing that is known does."""
        if self.weights and other.weights:
            if self.weights != other.weights:
                return f"its weights are {self._said}, the model's are {other._said}"
        elif self.model and other.model and self.model != other.model:
            return f"its model is {self.model}, not {other.model}"
        for name in sorted(self.settings.keys() & other.settings.keys()):
            if self.settings[name] != other.settings[name]:
                return f"its {name} is {self.settings[name]!r}, the model's is {other.settings[name]!r}"
        return None

    @property
    def _said(self) -> str:
        short = (self.weights or "")[:12]
        return f"{short} ({self.model})" if self.model else short


def shareable_name(name: str | None) -> str | None:
    """A model's name if it has the form of a Hub id; None for other paths, which are nobody else's business."""
    return name if name and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?", name) else None


def fingerprint_tensors(module: nn.Module) -> str:
    """The sha256 of a module's parameters and buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def checksum_tensors(module: nn.Module) -> tuple[int, ...]:
    """A number per parameter and buffer that changes with any of its values, however they are written.

    It takes a pass over the memory, far less than a fingerprint; autograd's version counters miss writes to `.data`.
    """
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    tensors = chain(module.parameters(), module.buffers())
    sums = [tensor.detach().view(bits[tensor.element_size()]).sum(dtype=torch.int64) for tensor in tensors]
    return tuple(torch.stack(sums).tolist()) if sums else ()
