"""The head that is split over ranks against the whole one, and against a softmax over the classes of a step."""

import itertools

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.multiprocessing import start_processes

from hfembed.faces.training.recipe import FaceTrainingConfig
from hfembed.faces.training.sharded_head import ShardedHead, sample_classes
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.margin_softmax import MARGIN_HEADS, sub_center_cosines
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderOutput, make_margin_softmax
from hfembed.training.loop import _clip_gradient
from hfembed.training.optim import make_optimizer
from tests.fork_server import fork_server, free_port

PEOPLE, SIZE, BATCH, STEPS = 11, 6, 8, 3
RANKS = (1, 2, 4)
CASES = [*((head, 1.0, "sgd") for head in MARGIN_HEADS), ("arcface", 1.0, "adamw"), ("subcenter_arcface", 0.4, "sgd")]


class Embedder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(5, SIZE)
        torch.nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(0))
        torch.nn.init.zeros_(self.layer.bias)

    def forward(self, pixels):
        features = 3 * self.layer(pixels)
        return FaceEmbedderOutput(embeddings=F.normalize(features), norms=torch.linalg.vector_norm(features, dim=1))


def settings(head, optimizer, **more):
    config = FaceEmbedderConfig(embedding_size=SIZE, head=head, scale=8.0, norm_range=[2.0, 20.0], norm_penalty=2.0)
    return config, FaceTrainingConfig(optimizer=optimizer, learning_rate=0.05, weight_decay=0.1, head=head, **more)


def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        yield {
            "pixel_values": torch.randn(BATCH, 5, generator=generator),
            "labels": torch.randint(PEOPLE, (BATCH,), generator=generator),
            "margin_noise": torch.randn(BATCH, generator=generator),
        }


def train_sharded(head, rate, optimizer, rank, ranks, accumulation=1):
    """Losses, the embedder's weights and this rank's share of the head after some steps with clipping."""
    config, training = settings(head, optimizer)
    model = Embedder() if ranks == 1 else torch.nn.parallel.DistributedDataParallel(Embedder())
    sharded = ShardedHead(config, PEOPLE, training, rate)
    optimizer = make_optimizer(model, training)
    losses = []
    for batch in batches():
        parts = [{name: value.chunk(ranks)[rank] for name, value in batch.items()}]
        if accumulation > 1:
            parts = [{name: value.chunk(accumulation)[part] for name, value in batch.items()} for part in range(2)]
        for part in parts:
            loss, _ = sharded(model, part)
            (loss / accumulation).backward()
        _clip_gradient(None, model, sharded, 1.0)
        sharded.step(training.learning_rate)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    weights = [parameter.detach() for parameter in model.parameters()]
    return losses, weights, sharded


def train_whole(head, optimizer, classes_of_step=None):
    """The same without ranks, on a head that looks at some classes in a step, or at all."""
    config, training = settings(head, optimizer)
    model, whole = Embedder(), make_margin_softmax(config, PEOPLE)
    centers = whole.sub_centers
    whole.weight.data.copy_(ShardedHead(config, PEOPLE, training).weight.data)
    optimizer = make_optimizer(torch.nn.ModuleList([model, whole]), training)
    losses = []
    for step, batch in enumerate(batches()):
        classes = torch.arange(PEOPLE)
        if classes_of_step is not None:
            classes = torch.unique(torch.cat([classes_of_step[step], batch["labels"]]))
        untouched = np.setdiff1d(np.arange(PEOPLE), classes)
        rows = (untouched[:, None] * centers + np.arange(centers)).ravel()
        before = whole.weight.data[rows].clone(), optimizer.state[whole.weight].get("momentum_buffer")
        output = model(batch["pixel_values"])
        used = whole.weight.unflatten(0, (-1, centers))[classes].flatten(0, 1)
        cosines = sub_center_cosines(output.embeddings, used, centers)
        labels = torch.searchsorted(classes, batch["labels"])
        logits = whole.margin_logits(cosines, output.norms, labels, batch["margin_noise"])
        loss = F.cross_entropy(logits, labels) + whole.penalty(output.norms)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), whole.weight], 1.0)
        momentum = None if before[1] is None else before[1][rows].clone()
        optimizer.step()
        optimizer.zero_grad()
        whole.weight.data[rows] = before[0]  # only what the step looked at moves
        if len(rows):
            optimizer.state[whole.weight]["momentum_buffer"][rows] = 0.0 if momentum is None else momentum
        losses.append(loss.item())
    return losses, [parameter.detach() for parameter in model.parameters()], whole


def run_rank(rank, ports, folder):
    torch.set_num_threads(1)
    for ranks, port in zip(RANKS, ports, strict=True):
        if rank >= ranks:
            continue
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
        for number, case in enumerate(CASES):
            losses, weights, sharded = train_sharded(*case, rank, ranks)
            shares = dict(sharded.margin_softmax.named_buffers())
            result = {"losses": losses, "weights": weights, "head": sharded.weight.detach(), **shares}
            torch.save(result, f"{folder}/{number}_{ranks}_{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()


@pytest.mark.multiprocess
def test_the_head_of_any_number_of_ranks_is_the_whole_head(tmp_path):
    fork_server()
    ports = [free_port() for _ in RANKS]
    start_processes(run_rank, (ports, str(tmp_path)), nprocs=max(RANKS), start_method="forkserver")
    for (number, (head, rate, optimizer)), ranks in itertools.product(enumerate(CASES), RANKS):
        drawn = [torch.from_numpy(sample_classes(0, PEOPLE, rate, 0, step)) for step in range(STEPS)]
        losses, weights, whole = train_whole(head, optimizer, None if rate == 1 else drawn)
        results = [torch.load(tmp_path / f"{number}_{ranks}_{rank}.pt", weights_only=True) for rank in range(ranks)]
        message = f"{head} at {ranks} ranks, sample_rate {rate}"
        for result in results:
            assert result["losses"] == pytest.approx(losses, rel=1e-5), message
            torch.testing.assert_close(result["weights"], weights, rtol=1e-4, atol=1e-6, msg=message)
            for name, buffer in whole.named_buffers():
                torch.testing.assert_close(result[name], buffer, msg=message)
        shares = torch.cat([result["head"] for result in results])
        torch.testing.assert_close(shares, whole.weight.detach(), rtol=1e-4, atol=1e-6, msg=message)


def test_accumulation_adds_up_what_its_micro_batches_touch():
    # with a rate of 1 the micro-batches compare with the same classes as the whole batch
    for rate in (1.0, 0.999999):
        _, weights, head = train_sharded("arcface", 1.0, "sgd", 0, 1)
        _, accumulated_weights, accumulated = train_sharded("arcface", rate, "sgd", 0, 1, accumulation=2)
        torch.testing.assert_close(accumulated_weights, weights, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(accumulated.weight, head.weight, rtol=1e-4, atol=1e-6)


def test_sampled_classes_are_those_of_the_step_on_any_rank():
    whole = sample_classes(0, 50_000, 0.1, 3, 7)
    assert len(whole) == pytest.approx(5000, rel=0.05) and (np.diff(whole) > 0).all()
    parts = [
        sample_classes(first, last, 0.1, 3, 7) for first, last in itertools.pairwise([0, 1, 20_000, 20_000, 50_000])
    ]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(sample_classes(0, 50_000, 0.1, 3, 8), whole)


def test_a_share_is_loaded_by_another_number_of_ranks(tmp_path, monkeypatch):
    def head(rank, ranks):
        monkeypatch.setattr("hfembed.faces.training.sharded_head.is_distributed", lambda: True)
        monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)
        monkeypatch.setattr("torch.distributed.get_world_size", lambda: ranks)
        config, training = settings("subcenter_arcface", "sgd")
        return ShardedHead(config, PEOPLE, training, 0.5)

    whole = head(0, 1)
    assert torch.equal(torch.cat([head(rank, 3).weight for rank in range(3)]), whole.weight), "the same start"
    whole.weight.data.normal_()
    whole.state["momentum_buffer"].normal_()
    whole.steps = 5
    (tmp_path / "one").mkdir()
    (tmp_path / "three").mkdir()
    whole.save(tmp_path / "one")
    thirds = [head(rank, 3) for rank in range(3)]
    for third in thirds:
        third.load(tmp_path / "one")
        third.save(tmp_path / "three")
    halves = [head(rank, 2) for rank in range(2)]
    for half in halves:
        half.load(tmp_path / "three")
        assert half.steps == 5
    assert torch.equal(torch.cat([half.weight for half in halves]), whole.weight)
    assert torch.equal(torch.cat([half.state["momentum_buffer"] for half in halves]), whole.state["momentum_buffer"])
    (tmp_path / "three" / "head_000000000000.safetensors").unlink()
    with pytest.raises(ValueError, match="2 of the 5 people"):
        halves[0].load(tmp_path / "three")
