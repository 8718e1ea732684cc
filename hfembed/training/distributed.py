"""Collect the batches of all ranks, with exact gradients: for losses that compare every sample with every other."""

import torch
import torch.distributed as dist


def is_distributed() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        ctx.batch_size = tensor.shape[0]
        return _gather(tensor)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous().clone()  # all_reduce writes in place, and autograd may still need its own
        dist.all_reduce(gradient, op=dist.ReduceOp.SUM)
        start = dist.get_rank() * ctx.batch_size
        return gradient[start : start + ctx.batch_size]


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate a tensor of all ranks along dimension 0; gradients flow back to the rank each row came from.

    When every rank computes the whole loss on the result, each rank's rows receive the sum of all ranks' gradients:
    under DistributedDataParallel, which averages over the ranks, parameters get exactly the gradient of one process
    that holds the whole batch. (Gathering without gradient and putting the own rows back gives 1 / world_size of it.)

    Args:
        tensor: (B, ...) float; B must be the same on every rank.

    Returns:
        (world_size * B, ...), in the order of the ranks; the tensor itself when there is only one process.
    """
    return _GatherWithGradient.apply(tensor) if is_distributed() else tensor


def gather_labels(labels: torch.Tensor) -> torch.Tensor:
    """Concatenate labels of all ranks along dimension 0, in the same order as `gather_with_gradient`.

    Args:
        labels: (B,), any type without gradient; B must be the same on every rank.

    Returns:
        (world_size * B,); the tensor itself when there is only one process.
    """
    return _gather(labels) if is_distributed() else labels


def _gather(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)
