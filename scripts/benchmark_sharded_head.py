"""Memory and step time of a margin head that is split over ranks, by people and sample_rate.

python scripts/benchmark_sharded_head.py --people 1000000 --size 512 --rates 0.1 1.0 --output sharded_head.json
python scripts/benchmark_sharded_head.py --people 10000000 --size 128 --rates 0.02 --output sharded_head_10m.json

One process per rank, over gloo on the CPU. Embeddings and labels are drawn; there is no network, so that a step is the
head's: gather, forward, backward, clipping, update. Peak memory is the rank's resident memory beyond what its imports
take; the fastest step counts, for other work on the machine only ever slows; processor time is given too.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from hfembed.atomic import atomic_write
from hfembed.faces.training.recipe import FaceTrainingConfig
from hfembed.faces.training.sharded_head import ShardedHead
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderOutput


class Passing(torch.nn.Module):
    """Takes features for pixels."""

    def forward(self, features: torch.Tensor) -> FaceEmbedderOutput:
        """Map (B, D) -> embeddings and norms."""
        return FaceEmbedderOutput(
            embeddings=torch.nn.functional.normalize(features), norms=torch.linalg.vector_norm(features, dim=1)
        )


def resident(name: str) -> int:
    """VmRSS or VmHWM (the peak) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def run_rank(rank: int, options: argparse.Namespace, rate: float, store: str) -> None:
    """Train the head for some steps on one rank; write what it took beside the store."""
    torch.set_num_threads(options.threads)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=options.ranks)
    config = FaceEmbedderConfig(embedding_size=options.size, head=options.head)
    training = FaceTrainingConfig(head=options.head, sample_rate=rate, sharded_head=True)
    generator = torch.Generator().manual_seed(rank)
    local = options.batch // options.ranks
    imports = resident("VmRSS")
    head = ShardedHead(config, options.people, training, rate)
    seconds, cpu_seconds = [], []
    for _ in range(options.steps):
        batch = {
            "pixel_values": torch.randn(local, options.size, generator=generator).requires_grad_(),
            "labels": torch.randint(options.people, (local,), generator=generator),
        }
        dist.barrier()
        began, cpu_began = time.perf_counter(), time.process_time()
        loss, _ = head(Passing(), batch)
        loss.backward()
        torch.nn.utils.clip_grads_with_norm_([head.touched()], 5.0, head.squared_gradient_norm().sqrt())
        head.step(0.1)
        dist.barrier()
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
    own = head.weight.numel() * 4 * (1 + len(head.state))
    peak = resident("VmHWM") - imports
    figures: dict[str, Any] = {
        "weights_and_momentum_gb": own / 1e9,
        "imports_gb": imports / 1e9,
        "peak_gb": peak / 1e9,
        "peak_over_weights_and_momentum": peak / own,
        "step_seconds": min(seconds),
        "step_cpu_seconds": min(cpu_seconds),
        "loss": loss.item(),
    }
    Path(f"{store}.{rank}").write_text(json.dumps(figures))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Measure each rate in processes of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=512, help="dimensions of an embedding")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="photos per step, over all ranks")
    parser.add_argument("--head", default="arcface")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch, per rank")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    results: dict[str, Any] = {
        name: str(value) if name == "output" else value for name, value in vars(options).items()
    }
    for rate in options.rates:
        store = options.output.absolute().with_suffix(f".{rate}.store")
        start_processes(run_rank, (options, rate, str(store)), nprocs=options.ranks, start_method="spawn")
        files = [Path(f"{store}.{rank}") for rank in range(options.ranks)]
        results[f"sample_rate {rate}"] = [json.loads(file.read_text()) for file in files]
        for file in (store, *files):
            file.unlink(missing_ok=True)
        print(f"sample_rate {rate}: {results[f'sample_rate {rate}']}")
    with atomic_write(options.output) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
