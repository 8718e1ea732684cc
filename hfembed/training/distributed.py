"""What ranks share: tensors with exact gradients, for losses that compare all samples, and the work of evaluation."""

import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from hfembed.errors import InputError

Key = TypeVar("Key")
Value = TypeVar("Value")

PATIENCE = timedelta(days=2)  # ranks wait for one that evaluates, or whose part takes longer


def is_distributed() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_first_rank() -> bool:
    """Whether this process is the only rank, or the first."""
    return not is_distributed() or dist.get_rank() == 0


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: torch.Tensor, factor: int) -> torch.Tensor:
        ctx.batch_size, ctx.factor = tensor.shape[0], factor
        return _gather(tensor)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradient.contiguous().clone()  # all_reduce writes in place, and autograd may still need its own
        dist.all_reduce(gradient, op=dist.ReduceOp.SUM)
        start = dist.get_rank() * ctx.batch_size
        return gradient[start : start + ctx.batch_size] * ctx.factor, None


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: torch.Tensor, loss_in_parts: bool) -> torch.Tensor:
        ctx.loss_in_parts = loss_in_parts
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        if ctx.loss_in_parts:
            gradient = gradient.contiguous().clone()
            dist.all_reduce(gradient)
        return gradient, None


def gather_with_gradient(tensor: torch.Tensor, loss_in_parts: bool = False) -> torch.Tensor:
    """Concatenate a tensor of all ranks along dimension 0; gradients flow back to the rank each row came from.

    When every rank computes the whole loss on the result, each rank's rows receive the sum of all ranks' gradients:
    under DistributedDataParallel, which averages over the ranks, parameters get exactly the gradient of one process
    that holds the whole batch. (Gathering without gradient and putting the own rows back gives 1 / world_size of it.)

    Args:
        tensor: (B, ...) float; B must be the same on every rank.
        loss_in_parts: Every rank computes only its own part of the loss's gradient by the result, and the parts are to
            be added up: under DistributedDataParallel they then need a factor of world_size.

    Returns:
        (world_size * B, ...), in the order of the ranks; the tensor itself when there is only one process.
    """
    if not is_distributed():
        return tensor
    return _GatherWithGradient.apply(tensor, dist.get_world_size() if loss_in_parts else 1)


def sum_over_ranks(tensor: torch.Tensor, loss_in_parts: bool = False) -> torch.Tensor:
    """Add up a tensor of all ranks; each rank's gradient is that by the sum.

    For a sum from which every rank computes the same loss: the gradient is then the same on every rank too, and is not
    added up again. (Shoeybi et al. 2019, "Megatron-LM", section 3, the function g.)

    Args:
        tensor: Float, of the same shape on every rank.
        loss_in_parts: Every rank computes a part of the loss from the sum, such as that of its own samples: the ranks'
            gradients are added up.

    Returns:
        The sum; the tensor itself when there is only one process.
    """
    return _SumOverRanks.apply(tensor, loss_in_parts) if is_distributed() else tensor


def maximum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Elementwise maximum of a tensor of all ranks, without gradient."""
    tensor = tensor.detach()
    if is_distributed():
        tensor = tensor.clone()
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def check_plain_ranks() -> None:
    """Refuse a launcher's settings by which ranks share out the network itself.

    Raises:
        InputError: Names the setting.
    """
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise InputError(
                f"accelerate's {name} is not supported: every rank holds the whole network. Launch without it "
                "(--multi_gpu); the class weights of many people are split by sharded_head"
            )


def ranks_without_device() -> bool:
    """Whether several ranks were started where torch sees no device: accelerate has to be told, or each is alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def check_shared_folder(folder: Path) -> None:
    """Refuse a folder that is not one and the same for all ranks, as on machines without a common disk.

    Call on every rank; the first one makes the folder.

    Raises:
        InputError: On every rank, naming the ranks that have another folder.
    """
    if not is_distributed():
        return
    token = folder / f".ranks-{gather_objects(secrets.token_hex(8))[0]}"
    if is_first_rank():
        with suppress(OSError):  # whoever writes there next will say what is wrong
            folder.mkdir(parents=True, exist_ok=True)
            token.touch()
    dist.barrier()
    is_there = gather_objects(token.exists())
    others = [rank for rank, found in enumerate(is_there) if not found]
    if is_first_rank():
        token.unlink(missing_ok=True)
    if is_there[0] and others:
        raise InputError(
            f"{folder} is another folder for rank{'s'[: len(others) > 1]} {', '.join(map(str, others))} than for rank "
            "0: choose an --output_dir that all machines share"
        )


def join_ranks() -> tuple[bool, torch.device | None]:
    """Join the other ranks, where a launcher (`accelerate launch`, torchrun) has started several.

    Returns:
        Whether this rank is the one that writes and speaks, and its device; None where it is alone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return True, None
    state = PartialState(cpu=ranks_without_device(), timeout=PATIENCE)
    return state.is_main_process, state.device


def leave_ranks() -> None:
    """Leave the process group that `join_ranks` joined, if any."""
    if is_distributed():
        dist.barrier()
        dist.destroy_process_group()


def own_rows(count: int) -> list[int]:
    """This rank's part of the rows 0 to count - 1, as many on every rank: the last ranks take some from the start too.

    Args:
        count: Rows of all ranks, at least 1.
    """
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)
    each = -(-count // ranks)
    return [row % count for row in range(rank * each, (rank + 1) * each)]


def gather_rows(values: torch.Tensor, count: int) -> torch.Tensor:
    """Join what each rank computed of its `own_rows(count)`: (count, ...), on every rank.

    Args:
        values: (rows of this rank, ...), on a device that the process group can send from.
    """
    return _gather(values)[:count] if is_distributed() else values


def gather_arrays(arrays: Sequence[np.ndarray], count: int, device: torch.device) -> list[np.ndarray]:
    """As `gather_rows`, of several arrays (rows of this rank, ...); the process group can send from the device."""
    return [gather_rows(torch.from_numpy(part).to(device), count).cpu().numpy() for part in arrays]


def gather_dicts(values: dict[Key, Value]) -> dict[Key, Value]:
    """Join a dictionary of each rank, on every rank."""
    return {key: value for part in gather_objects(values) for key, value in part.items()}


def gather_objects(values: Any) -> list[Any]:
    """Collect a picklable value of each rank, in their order, on every rank."""
    if not is_distributed():
        return [values]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, values)
    return found


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
