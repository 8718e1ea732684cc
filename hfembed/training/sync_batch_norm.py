"""Batch normalization by the batch of all ranks."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hfembed.errors import InputError
from hfembed.training.distributed import sum_over_ranks


class SyncBatchNorm(nn.SyncBatchNorm):
    """Torch's, which has no kernel for the CPU, and there the same in plain operations, in float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalize (B, C, ...); the ranks' batches must be of one size."""
        mean_so_far, variance_so_far, batches = self.running_mean, self.running_var, self.num_batches_tracked
        if input.device.type != "cpu" or not self.training:
            return super().forward(input)
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


def synchronize_batch_norms(model: nn.Module) -> None:
    """Turn the batch normalizations of a model into synchronized ones, in place; names of weights stay.

    Raises:
        InputError: The model has a kind of its own, which may do more than normalize.
    """
    for name, module in model.named_modules():
        is_plain = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d)
        if is_plain and module.affine and module.track_running_stats and module.momentum:
            module.__class__ = SyncBatchNorm
            module.process_group = None  # type: ignore[assignment]
        elif isinstance(module, _BatchNorm):
            raise InputError(f"sync_batch_norm: {name} is a {type(module).__name__}, which cannot be synchronized")
