"""The gathered loss of two real processes has the gradient of one process with the whole batch."""

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from hfembed.training.distributed import gather_labels, gather_with_gradient
from tests.fork_server import fork_server, free_port

WORLD_SIZE = 2


def make_batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    return pixels, torch.tensor([0, 1, 0, 1, 1, 2, 2, 0])


def make_model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).double()


def pairwise_loss(embeddings, labels):
    """Any loss in which every sample meets every other."""
    distance = torch.cdist(embeddings, embeddings).square()
    same = labels[:, None] == labels[None, :]
    return (distance * same + torch.relu(1 - distance) * ~same).mean()


def run_rank(rank, port, folder):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD_SIZE)
    assert dist.get_world_size() == WORLD_SIZE
    pixels, labels = (part.chunk(WORLD_SIZE)[rank] for part in make_batch())
    model = torch.nn.parallel.DistributedDataParallel(make_model())
    all_labels = gather_labels(labels)
    loss = pairwise_loss(gather_with_gradient(model(pixels)), all_labels)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    torch.save({"loss": loss.detach(), "labels": all_labels, "gradients": gradients}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.multiprocess
def test_two_ranks_have_the_gradient_of_one(tmp_path):
    fork_server()
    start_processes(run_rank, (free_port(), str(tmp_path)), nprocs=WORLD_SIZE, start_method="forkserver")

    pixels, labels = make_batch()
    model = make_model()
    loss = pairwise_loss(model(pixels), labels)
    loss.backward()
    for rank in range(WORLD_SIZE):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result["labels"].tolist() == labels.tolist()
        torch.testing.assert_close(result["loss"], loss.detach(), rtol=1e-12, atol=0)
        for parameter, gradient in zip(model.parameters(), result["gradients"], strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-14)


def test_one_process_passes_through():
    embeddings = torch.ones(2, 3, requires_grad=True)
    assert gather_with_gradient(embeddings) is embeddings
    labels = torch.tensor([0, 1])
    assert gather_labels(labels) is labels
