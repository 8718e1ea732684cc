"""Batch normalization by the batch of all ranks."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hfembed.errors import InputError
from hfembed.training.distributed import sum_over_ranks


class CpuSyncBatchNorm(_BatchNorm):
    """What `torch.nn.SyncBatchNorm` does on GPUs alone, in plain operations and in float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalize (B, C, ...); the ranks' batches must be of one size."""
        mean_so_far, variance_so_far, batches = self.running_mean, self.running_var, self.num_batches_tracked
        if not self.training:
            return F.batch_norm(input, mean_so_far, variance_so_far, self.weight, self.bias, eps=self.eps)
        assert mean_so_far is not None and variance_so_far is not None and batches is not None and self.momentum
        values = input.float()
        others = [dimension for dimension in range(input.ndim) if dimension != 1]
        shape = [1 if dimension in others else -1 for dimension in range(input.ndim)]
        count = sum_over_ranks(torch.tensor(float(input.numel() // input.shape[1])))
        mean = sum_over_ranks(values.sum(others), loss_in_parts=True) / count
        centered = values - mean.view(shape)
        variance = sum_over_ranks(centered.square().sum(others), loss_in_parts=True) / count
        with torch.no_grad():
            batches.add_(1)
            mean_so_far.lerp_(mean, self.momentum)
            variance_so_far.lerp_(variance * count / (count - 1), self.momentum)
        normalized = centered * (variance + self.eps).rsqrt().view(shape)
        return (normalized * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)


def synchronize_batch_norms(model: nn.Module, device: torch.device) -> None:
    """Turn the batch normalizations of a model into synchronized ones, in place; names of weights stay.

    Args:
        model: Its modules change their class.
        device: Where it will be trained.

    Raises:
        InputError: The model has a kind of its own, which may do more than normalize.
    """
    for name, module in model.named_modules():
        is_plain = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d)
        if is_plain and module.affine and module.track_running_stats and module.momentum:
            module.__class__ = CpuSyncBatchNorm if device.type == "cpu" else nn.SyncBatchNorm
            module.process_group = None  # type: ignore[assignment]  # all ranks
        elif isinstance(module, _BatchNorm):
            raise InputError(f"sync_batch_norm: {name} is a {type(module).__name__}, which cannot be synchronized")
