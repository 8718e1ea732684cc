"""The training loop of the package. It knows a model, a loss and batches, and nothing of faces or words."""

import itertools
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hfembed.atomic import atomic_folder, atomic_write
from hfembed.errors import InputError
from hfembed.training.config import TrainingConfig
from hfembed.training.optim import make_optimizer, make_schedule
from hfembed.training.samplers import KeyedBatchSampler
from hfembed.training.sharing import HubSharing
from hfembed.training.state import Checkpoints, Progress

ComputeLoss = Callable[[torch.nn.Module, dict[str, Any]], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """The accelerator of a run, and torch's threads as the config wants them.

    The schedule is stepped by the loop, once per optimizer step: accelerate itself would step it once per rank.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    return Accelerator(
        gradient_accumulation_steps=config.accumulation_steps,
        mixed_precision=config.mixed_precision,
        step_scheduler_with_optimizer=False,
        log_with=config.trackers or None,
        project_dir=config.output_dir,
    )


def samples_per_round(config: TrainingConfig, accelerator: Accelerator) -> int:
    """How many samples one rank sees in one accumulation round.

    Raises:
        InputError: The batch of a step does not divide evenly.
    """
    parts = accelerator.num_processes * config.accumulation_steps
    if config.batch_size % parts:
        raise InputError(
            f"batch_size {config.batch_size} does not divide among {accelerator.num_processes} ranks x "
            f"{config.accumulation_steps} accumulation steps; choose a multiple of {parts}"
        )
    return config.batch_size // parts


def train(
    config: TrainingConfig,
    accelerator: Accelerator,
    model: PreTrainedModel,
    compute_loss: ComputeLoss,
    dataset: Dataset,
    batch_sampler: KeyedBatchSampler,
    collate: Callable[[list], dict[str, torch.Tensor]],
    save: Callable[[PreTrainedModel, Path], None],
    evaluate: Callable[[PreTrainedModel], dict[str, float]] | None = None,
    primary_metric: str = "loss",
    greater_is_better: bool = True,
    draw: Callable[[PreTrainedModel, Path], None] | None = None,
    sharing: HubSharing | None = None,
) -> dict[str, float]:
    """Train `model`, resume exactly where a killed run stood, and leave the result in `config.output_dir`.

    Everything random in a batch is a function of (seed, epoch, index), and the order of batches one of (seed, epoch).
    So the loop only has to restore weights, optimizer, schedule, the generators that dropout draws from, and the place
    in the epoch, to go on as if it had not been stopped; and one rank, several ranks and accumulation see the same
    data.

    Args:
        config: The run.
        accelerator: From `make_accelerator`.
        model: The model to train, on any device.
        compute_loss: (model, batch on the device) -> (scalar loss, metrics to log). The model is the wrapped one.
        dataset: Maps the sampler's keys to items.
        batch_sampler: Yields this rank's keys of one accumulation round; has `set_epoch` and `start_batch`.
        collate: List of items -> batch of tensors.
        save: Writes model and what belongs to it into a folder. Called on the main process.
        evaluate: Model in eval mode -> metrics. Called on the main process.
        primary_metric: The metric of `evaluate` that decides which model is best.
        greater_is_better: Its direction.
        draw: (model in eval mode, path of a PNG): draws what the model does. As often as `evaluate`, on the main
            process.
        sharing: Pushes the model every `hub_every` steps, from the main process. The result, which gets its card
            later, is the caller's to push.

    Returns:
        The last evaluation's metrics (of the model that was kept), empty when there is none.

    Raises:
        InputError: No whole batch in the data, a checkpoint of another run in the way, a damaged checkpoint.
        FloatingPointError: The loss is no longer a finite number.
        OSError: The disk is full; earlier checkpoints are whole.
    """
    output_dir = Path(config.output_dir)
    rounds = config.accumulation_steps
    steps_per_epoch = len(batch_sampler) // rounds
    if steps_per_epoch == 0:
        raise InputError(
            f"the training data does not fill one batch of {config.batch_size}; lower batch_size or add data"
        )
    total_steps = config.epochs * steps_per_epoch
    if config.max_steps:
        total_steps = min(total_steps, config.max_steps)

    optimizer = make_optimizer(model, config)
    schedule = make_schedule(optimizer, config, total_steps)
    ema = None
    if config.ema_decay:
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
        ema = ema.to(accelerator.device)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    loader = DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        collate_fn=collate,
        num_workers=config.num_workers,
        persistent_workers=config.num_workers > 0,
        pin_memory=accelerator.device.type == "cuda",
        # its own generator: starting an epoch would draw from the one that dropout uses, and resuming would differ
        generator=torch.Generator(),
    )

    progress = Progress(num_processes=accelerator.num_processes)
    accelerator.register_for_checkpointing(progress)
    if ema is not None:
        accelerator.register_for_checkpointing(ema)
    checkpoints = Checkpoints(accelerator, output_dir, config.keep_checkpoints)
    set_seed(config.seed, device_specific=True)
    _start(config, accelerator, checkpoints, progress)
    log = _Log(config, accelerator, output_dir / "training_log.jsonl", progress)
    model_to_keep = accelerator.unwrap_model(model) if ema is None else ema.module
    metrics: dict[str, float] = {}

    with tqdm(
        total=total_steps * config.batch_size,
        initial=progress.step * config.batch_size,
        unit="img",
        unit_scale=True,
        desc="train",
        disable=not accelerator.is_main_process,
    ) as bar:
        model.train()
        while progress.step < total_steps:
            batch_sampler.set_epoch(progress.epoch)
            batch_sampler.start_batch = progress.step_in_epoch * rounds
            # rounds that do not fill a step at the end of an epoch are left out, as incomplete batches are
            for batch in itertools.islice(loader, (steps_per_epoch - progress.step_in_epoch) * rounds):
                batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()}
                with accelerator.accumulate(model):
                    with accelerator.autocast():
                        loss, details = compute_loss(model, batch)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and config.max_grad_norm:
                        accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
                    optimizer.step()
                    if accelerator.sync_gradients:
                        schedule.step()
                    optimizer.zero_grad()
                log.add({"loss": loss.detach(), **details})
                if not accelerator.sync_gradients:
                    continue
                if ema is not None:
                    ema.update_parameters(accelerator.unwrap_model(model))
                progress.step += 1
                progress.step_in_epoch += 1
                if progress.step_in_epoch == steps_per_epoch:
                    progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
                bar.update(config.batch_size)

                last = progress.step == total_steps
                if progress.step % config.log_every == 0 or last:
                    bar.set_postfix(log.write(progress, schedule.get_last_lr()[0]))
                if evaluate is not None and (last or _due(progress.step, config.evaluate_every)):
                    metrics = _evaluate(
                        config, accelerator, model_to_keep, evaluate, save, progress, primary_metric, greater_is_better
                    )
                    log.record({"step": progress.step, **metrics})
                    model.train()
                if draw is not None and (last or _due(progress.step, config.evaluate_every)):
                    _draw(accelerator, model_to_keep, draw, output_dir / "pictures" / f"step_{progress.step:08d}.png")
                    model.train()
                if sharing is not None and accelerator.is_main_process and not last:
                    if _due(progress.step, config.hub_every):
                        sharing.push_step(progress.step, partial(save, model_to_keep))
                if last or _due(progress.step, config.checkpoint_every):
                    log.suspend(progress)
                    checkpoints.save(progress.step)
                if last:
                    break

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        metrics = _finish(output_dir, model_to_keep, save) or metrics
    accelerator.end_training()
    return metrics


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _start(config: TrainingConfig, accelerator: Accelerator, checkpoints: Checkpoints, progress: Progress) -> None:
    """Load the newest checkpoint when told to; refuse to mix with an earlier run when not."""
    if not config.resume:
        if checkpoints.all():
            raise InputError(
                f"{checkpoints.folder} holds checkpoints of an earlier run; add --resume to go on, or choose another "
                "--output_dir"
            )
        return
    checkpoint = checkpoints.load_newest()
    if checkpoint is None:
        accelerator.print(f"no checkpoint in {checkpoints.folder} yet: starting from the beginning")
        return
    accelerator.print(f"resuming from {checkpoint}")
    if progress.num_processes != accelerator.num_processes:
        accelerator.print(
            f"the checkpoint is of {progress.num_processes} ranks, this run has {accelerator.num_processes}: "
            "same data, but dropout draws other numbers"
        )
        progress.num_processes = accelerator.num_processes


def _evaluate(
    config: TrainingConfig,
    accelerator: Accelerator,
    model: PreTrainedModel,
    evaluate: Callable[[PreTrainedModel], dict[str, float]],
    save: Callable[[PreTrainedModel, Path], None],
    progress: Progress,
    primary_metric: str,
    greater_is_better: bool,
) -> dict[str, float]:
    """Evaluate on the main process and keep the model when it is the best so far."""
    metrics: dict[str, float] = {}
    if accelerator.is_main_process:
        model.eval()
        with torch.random.fork_rng(), torch.no_grad():
            metrics = evaluate(model)
        metric = metrics[primary_metric]
        better = progress.best_metric is None or (
            metric > progress.best_metric if greater_is_better else metric < progress.best_metric
        )
        accelerator.print(f"step {progress.step}: {primary_metric} {metric:.3f}{' (best so far)' if better else ''}")
        if config.keep_best and better:
            progress.best_metric = metric
            with atomic_folder(Path(config.output_dir) / "best") as folder:
                save(model, folder)
                numbers = {"step": progress.step, **{k: v for k, v in metrics.items() if isinstance(v, (int, float))}}
                (folder / "validation.json").write_text(json.dumps(numbers, indent=2) + "\n")
    accelerator.wait_for_everyone()
    return metrics


def _draw(
    accelerator: Accelerator, model: PreTrainedModel, draw: Callable[[PreTrainedModel, Path], None], path: Path
) -> None:
    """Draw on the main process, without touching the random generators of the run."""
    if accelerator.is_main_process:
        model.eval()
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(), torch.no_grad():
            draw(model, path)
    accelerator.wait_for_everyone()


def _finish(output_dir: Path, model: PreTrainedModel, save: Callable[[PreTrainedModel, Path], None]) -> dict | None:
    """Put the model to keep into `output_dir`: the best one where evaluation chose one, else the last."""
    best = output_dir / "best"
    if not best.exists():
        if not (output_dir / "config.json").exists():
            model.eval()
            with atomic_folder(output_dir / ".final") as folder:
                save(model, folder)
            best = output_dir / ".final"
        else:
            return None
    for file in best.iterdir():
        file.replace(output_dir / file.name)
    best.rmdir()
    validation = output_dir / "validation.json"
    return json.loads(validation.read_text()) if validation.exists() else None


class _Log:
    """Means over the steps since the last line, into training_log.jsonl, the trackers and the progress bar."""

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, file: Path, progress: Progress):
        self.accelerator = accelerator
        self.file = file
        self.batch_size = config.batch_size
        self.sums = {name: torch.tensor(value) for name, value in progress.running.items() if name != "rounds"}
        self.rounds = int(progress.running.get("rounds", 0))
        self.step, self.time = progress.step, time.perf_counter()
        if accelerator.is_main_process:
            file.parent.mkdir(parents=True, exist_ok=True)
            # a resumed run repeats what was logged after its checkpoint
            kept = []
            if config.resume and file.exists():
                lines = file.read_text().splitlines(keepends=True)
                kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= progress.step]
            with atomic_write(file) as temporary:
                temporary.write_text("".join(kept))
        settings = {
            name: value if isinstance(value, (int, float, str, bool)) else json.dumps(value)
            for name, value in vars(config).items()
        }
        accelerator.init_trackers(Path(config.output_dir).name, config=settings)

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Add one round's values; nothing is read back from the device here."""
        for name, value in values.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name].to(value.device) + value if name in self.sums else value
        self.rounds += 1

    def write(self, progress: Progress, learning_rate: float) -> dict[str, str]:
        """Write one line of means over rounds and ranks.

        Returns:
            The numbers for the progress bar.

        Raises:
            FloatingPointError: The mean loss is not finite.
        """
        names = sorted(self.sums)
        means = torch.stack([self.sums[name].to(self.accelerator.device) for name in names]) / self.rounds
        means = dict(zip(names, self.accelerator.reduce(means, "mean").tolist(), strict=True))
        self.sums, self.rounds = {}, 0
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the loss is {means['loss']} at step {progress.step}; lower learning_rate, add warmup_steps, or clip "
                "with a smaller max_grad_norm"
            )
        now = time.perf_counter()
        speed = (progress.step - self.step) * self.batch_size / (now - self.time)
        self.step, self.time = progress.step, now
        line = {"step": progress.step, "epoch": progress.epoch, "learning_rate": learning_rate, **means}
        self.record(line | {"images_per_second": round(speed, 1)})
        return {name: f"{value:.4g}" for name, value in means.items()}

    def record(self, line: dict[str, Any]) -> None:
        """Append a line to the log file and hand its numbers to the trackers."""
        if not self.accelerator.is_main_process:
            return
        numbers = {name: value for name, value in line.items() if isinstance(value, (int, float))}
        with self.file.open("a") as log_file:
            log_file.write(json.dumps(numbers) + "\n")
        step = numbers["step"]
        self.accelerator.log({name: value for name, value in numbers.items() if name != "step"}, step=step)

    def suspend(self, progress: Progress) -> None:
        """Note the sums since the last line in `progress`, for a checkpoint.

        The ranks' sums become their mean here, in the running log too: one checkpoint then serves all ranks, and the
        next line is the same to the last digit whether the run was stopped in between or not.
        """
        self.sums = {name: self.accelerator.reduce(value, "mean") for name, value in sorted(self.sums.items())}
        progress.running = {name: value.item() for name, value in self.sums.items()}
        progress.running["rounds"] = self.rounds
