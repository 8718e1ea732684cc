"""The training loop of the package. It knows a model, a loss and batches, and nothing of faces or words."""

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker
from accelerate.utils import broadcast, is_tensorboard_available, parse_flag_from_env, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import BaseImageProcessor, PreTrainedModel

from hfembed.allocator import keep_freed_memory
from hfembed.atomic import atomic_write
from hfembed.errors import InputError
from hfembed.training.config import TrainingConfig
from hfembed.training.distributed import check_plain_ranks, ranks_without_device
from hfembed.training.optim import make_optimizer, make_schedule
from hfembed.training.run import PATIENT, TENSORBOARD_FOLDER, Run
from hfembed.training.samplers import ShardedBatchSampler
from hfembed.training.state import Checkpoints, Progress
from hfembed.training.sync_batch_norm import synchronize_batch_norms

# (model, batch[, discriminator])
ComputeLoss = Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]


class RankedPart(Protocol):
    """A part of the training that is not replicated: each rank holds and updates weights of its own."""

    def touched(self) -> torch.nn.Parameter:
        """The rank's weights that the step moves, with their gradient over all its micro-batches."""

    def squared_gradient_norm(self) -> torch.Tensor:
        """Over all ranks."""

    def step(self, learning_rate: float) -> None:
        """Move the weights."""

    def save(self, folder: Path) -> None:
        """Write the rank's part into a checkpoint's folder."""

    def load(self, folder: Path) -> None:
        """Take the rank's part from a checkpoint's folder, of any number of ranks."""


@dataclass(kw_only=True)
class Task:
    """What a family gives to the loop.

    Attributes:
        model: The model to train, on any device.
        processor: Saved with the model.
        compute_loss: (model, batch on the device) -> (scalar loss, metrics to log). The model is the wrapped one. Once
            the discriminator has started it is the third argument, wrapped too, and the sum holds its own loss.
        dataset: Maps the sampler's keys to items.
        sampler: Yields this rank's keys of one micro-batch; has `set_epoch` and `start_batch`.
        collate: List of items -> batch of tensors; None for torch's own.
        evaluate: Model in eval mode -> metrics. Called on the main process.
        evaluate_on_all_ranks: Call `evaluate` on every rank, with the same weights and buffers; it shares the work out
            and gives all of them the same metrics.
        write_results: Writes what `evaluate` measured last into the folder with that model.
        primary_metric: The metric of `evaluate` that decides which model is best.
        greater_is_better: Its direction.
        draw: (model in eval mode, path of a PNG): draws what the model does, as often as `evaluate`, on the main
            process.
        save_more: Writes what belongs to the model besides it and the processor into its folder.
        discriminator: Trained beside the model by an optimizer of its own, with the same settings but for its learning
            rate and a momentum of 0.5 for Adam; part of checkpoints, not of the result.
        discriminator_learning_rate: At its peak; 0 for the model's.
        discriminator_start: Steps before it is used.
        head: Weights that `compute_loss` has besides the model's, split over the ranks; they are trained by the same
            schedule, count in the gradient's norm, and are not part of the final model.
    """

    model: PreTrainedModel
    processor: BaseImageProcessor
    compute_loss: ComputeLoss
    dataset: Dataset
    sampler: ShardedBatchSampler
    collate: Callable[[list], dict[str, torch.Tensor]] | None
    evaluate: Callable[[PreTrainedModel], dict[str, float]] | None = None
    evaluate_on_all_ranks: bool = False
    write_results: Callable[[Path], None] | None = None
    primary_metric: str = "loss"
    greater_is_better: bool = True
    draw: Callable[[PreTrainedModel, Path], None] | None = None
    save_more: Callable[[Path], None] | None = None
    head: RankedPart | None = None
    discriminator: torch.nn.Module | None = None
    discriminator_learning_rate: float = 0.0
    discriminator_start: int = 0


@dataclass
class _Trained:
    """A network, its optimizer and its schedule, prepared by accelerate."""

    network: torch.nn.Module
    optimizer: Any
    schedule: Any


def choose_precision() -> str:
    """Choose bf16 where the hardware computes in it, else float32: emulated bf16 is several times slower.

    Returns:
        "bf16" on a GPU that has it and on CPUs with AVX512_BF16 or AMX, unless `ATEN_CPU_CAPABILITY` keeps torch from
        their instructions; "no" otherwise.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or parse_flag_from_env("ACCELERATE_USE_CPU"):
        instructions = torch.cpu.get_capabilities()
        has_bf16 = instructions.get("avx512_bf16") or instructions.get("amx_bf16")
        return "bf16" if has_bf16 and torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "no"
    is_supported = accelerator.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if is_supported else "no"


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """The accelerator of a run, and torch's threads and memory as the config and a CPU want them.

    The schedule is stepped by the loop, once per optimizer step: accelerate itself would step it once per rank.

    Raises:
        InputError: The batch of a step does not divide among the ranks, the device lacks the precision, or ranks are
            to share out the network.
    """
    check_plain_ranks()
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    is_auto = config.mixed_precision == "auto"
    if is_auto:
        config.mixed_precision = choose_precision()  # the run's identity and record hold what was chosen
    try:
        accelerator = Accelerator(
            gradient_accumulation_steps=config.accumulation_steps,
            mixed_precision=config.mixed_precision,
            cpu=ranks_without_device(),
            step_scheduler_with_optimizer=False,
            log_with=[_tracker(name, config.output_dir) for name in config.trackers] or None,
            project_dir=config.output_dir,
            kwargs_handlers=[PATIENT],
        )
    except ValueError as error:
        raise InputError(f"accelerate: {' '.join(str(error).split())}") from error
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    if is_auto:
        accelerator.print(f"mixed_precision auto: {config.mixed_precision.replace('no', 'float32')} on this machine")
    parts = accelerator.num_processes * config.accumulation_steps
    if config.batch_size % parts:
        raise InputError(
            f"batch_size {config.batch_size} does not divide among {accelerator.num_processes} ranks x "
            f"{config.accumulation_steps} gradient accumulation steps; choose a multiple of {parts}"
        )
    return accelerator


def _tracker(name: str, folder: str) -> Any:
    """A tracker for accelerate, whose TensorBoard would write to a folder of the project's name."""
    if name == "tensorboard" and is_tensorboard_available():
        return TensorBoardTracker(TENSORBOARD_FOLDER, folder)
    return name


def shard(config: TrainingConfig, accelerator: Accelerator) -> dict[str, int]:
    """The sampler's arguments for this rank: `batch_size` of a micro-batch, `seed`, `rank`, `world_size`."""
    return {
        "batch_size": config.batch_size // (accelerator.num_processes * config.accumulation_steps),
        "seed": config.seed,
        "rank": accelerator.process_index,
        "world_size": accelerator.num_processes,
    }


def train(run: Run, task: Task) -> None:
    """Train a model, resume exactly where a killed run stood, and leave the result in the run's folder.

    Everything random in a batch is a function of (seed, epoch, index), and the order of batches one of (seed, epoch).
    So the loop only has to restore weights, optimizer, schedule, the generators that dropout draws from, and the
    position in the epoch, to go on as if it had not been stopped; and one rank, several ranks and gradient
    accumulation see the same data.

    Raises:
        InputError: Not enough data for a full batch, a checkpoint of another run, a damaged checkpoint.
        FloatingPointError: The loss is no longer a finite number.
        OSError: The disk is full; earlier checkpoints are intact.
    """
    config, accelerator = run.config, run.accelerator
    assert isinstance(config, TrainingConfig)
    steps_per_epoch = len(task.sampler) // config.accumulation_steps
    if steps_per_epoch == 0:
        raise InputError(
            f"the training data does not fill one batch of {config.batch_size}; lower batch_size or add data"
        )
    total_steps = config.epochs * steps_per_epoch
    if config.max_steps:
        total_steps = min(total_steps, config.max_steps)
    if not run.identify(total_steps, steps_per_epoch=steps_per_epoch, **task.sampler.identity):
        return
    if config.sync_batch_norm and accelerator.num_processes > 1:
        synchronize_batch_norms(task.model, accelerator.device)
    if task.sampler.batch_size == 1 and any(isinstance(part, torch.nn.BatchNorm1d) for part in task.model.modules()):
        raise InputError(
            f"batch_size {config.batch_size} leaves one sample per rank and gradient accumulation step, and batch "
            "normalization needs two: raise batch_size, or lower accumulation_steps"
        )

    ema = None
    if config.ema_decay:
        ema = AveragedModel(task.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
        ema = ema.to(accelerator.device)
    optimizers = [make_optimizer(task.model, config)]
    networks: list[torch.nn.Module] = [task.model]
    if task.discriminator is not None:
        networks.append(task.discriminator)
        rate = task.discriminator_learning_rate
        optimizers.append(make_optimizer(task.discriminator, config, rate, adam_beta1=0.5))
    trained = [
        _Trained(*accelerator.prepare(network, optimizer, make_schedule(optimizer, config, total_steps)))
        for network, optimizer in zip(networks, optimizers, strict=True)
    ]
    model, schedule = trained[0].network, trained[0].schedule
    loader = DataLoader(
        task.dataset,
        batch_sampler=task.sampler,
        collate_fn=task.collate,
        num_workers=config.num_workers,
        persistent_workers=config.num_workers > 0,
        pin_memory=accelerator.device.type == "cuda",
        # its own generator: starting an epoch would draw from the one that dropout uses, and resuming would differ
        generator=torch.Generator(),
    )

    progress = Progress(micro_batches=accelerator.num_processes * config.accumulation_steps)
    accelerator.register_for_checkpointing(progress)
    if ema is not None:
        accelerator.register_for_checkpointing(ema)
    if (head := task.head) is not None:
        accelerator.register_save_state_pre_hook(lambda models, weights, folder: head.save(Path(folder)))
        accelerator.register_load_state_pre_hook(lambda models, folder: head.load(Path(folder)))
    checkpoints = Checkpoints(accelerator, run.checkpoints, config.keep_checkpoints, run.identity.write)
    set_seed(config.seed, device_specific=True)
    if config.resume:
        _resume(accelerator, checkpoints, progress)
    model_to_keep = cast(PreTrainedModel, accelerator.unwrap_model(model) if ema is None else ema.module)

    def save(folder: Path) -> None:
        model_to_keep.save_pretrained(folder)
        task.processor.save_pretrained(folder)
        if task.save_more is not None:
            task.save_more(folder)

    def save_measured(folder: Path) -> None:
        save(folder)
        if task.write_results is not None:
            task.write_results(folder)

    metrics: dict[str, float] = {}
    if progress.step < total_steps:
        log = _Log(config, accelerator, run.folder / "training_log.jsonl", progress)
        began = time.time() - progress.seconds
        with tqdm(
            total=total_steps * config.batch_size,
            initial=progress.step * config.batch_size,
            unit="img",
            unit_scale=True,
            desc="train",
            disable=not accelerator.is_main_process,
        ) as bar:
            for loss in _steps(config, accelerator, task, trained, loader, progress, total_steps):
                log.add(loss)
                if not accelerator.sync_gradients:
                    continue
                if ema is not None and not accelerator.optimizer_step_was_skipped:
                    ema.update_parameters(accelerator.unwrap_model(model))
                bar.update(config.batch_size)
                last = progress.step == total_steps
                if last or progress.step % config.log_every == 0:
                    bar.set_postfix(log.write(progress, schedule.get_last_lr()[0]))
                if last or _due(progress.step, config.evaluate_every):
                    if task.evaluate_on_all_ranks:
                        for buffer in model_to_keep.buffers():  # batch normalization's differ, as in the next step
                            broadcast(buffer)
                    if accelerator.is_main_process or task.evaluate_on_all_ranks:
                        model_to_keep.eval()
                        with torch.random.fork_rng(), torch.no_grad():
                            metrics = _evaluate(run, task, model_to_keep, progress.step, save_measured)
                    accelerator.wait_for_everyone()
                    if metrics:
                        log.record({"step": progress.step, **metrics})
                    model.train()
                if accelerator.is_main_process and not last and _due(progress.step, config.hub_every):
                    run.sharing.push_step(progress.step, save)
                if last or _due(progress.step, config.checkpoint_every):
                    log.suspend(progress)
                    progress.seconds = time.time() - began
                    checkpoints.save(progress.step)

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        model_to_keep.eval()
        run.finish(save_measured if metrics else save, progress.step, progress.seconds, metrics)
    accelerator.end_training()


def _steps(config, accelerator, task, trained: list[_Trained], loader, progress, total_steps):
    """Compute micro-batch after micro-batch to the end of the run; yield what each has to log."""
    accumulation = config.accumulation_steps
    steps_per_epoch = len(task.sampler) // accumulation
    networks = [part.network for part in trained]
    for network in networks:
        network.train()
    while progress.step < total_steps:
        task.sampler.set_epoch(progress.epoch)
        task.sampler.start_batch = progress.step_in_epoch * accumulation
        # micro-batches that do not fill a step at the end of an epoch are left out, as incomplete batches are
        for batch in itertools.islice(loader, (steps_per_epoch - progress.step_in_epoch) * accumulation):
            batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()}
            used = trained if progress.step >= task.discriminator_start else trained[:1]
            with accelerator.accumulate(*networks):
                with accelerator.autocast():
                    loss, details = task.compute_loss(networks[0], batch, *networks[1 : len(used)])
                accelerator.backward(loss)
                for part in used:
                    head = task.head if part is trained[0] else None
                    if accelerator.sync_gradients and config.max_grad_norm:
                        _clip_gradient(accelerator, part.network, head, config.max_grad_norm)
                    if accelerator.sync_gradients and head is not None:
                        head.step(part.schedule.get_last_lr()[0])
                    part.optimizer.step()
                    # in fp16 a step whose gradients overflow is skipped, and the schedule waits with it
                    if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                        part.schedule.step()
                    part.optimizer.zero_grad()
            if accelerator.sync_gradients:
                progress.step += 1
                progress.step_in_epoch += 1
                if progress.step_in_epoch == steps_per_epoch:
                    progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
            yield {"loss": loss.detach(), **details}
            if progress.step == total_steps:
                return


def _clip_gradient(accelerator: Accelerator, model: torch.nn.Module, head: RankedPart | None, max_norm: float) -> None:
    """Clip the norm of the whole gradient, the head's on all ranks included."""
    if head is None:
        accelerator.clip_grad_norm_(model.parameters(), max_norm)
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = (torch.nn.utils.get_total_norm(gradients).square() + head.squared_gradient_norm()).sqrt()
    torch.nn.utils.clip_grads_with_norm_([*model.parameters(), head.touched()], max_norm, norm)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _resume(accelerator: Accelerator, checkpoints: Checkpoints, progress: Progress) -> None:
    """Load the newest checkpoint, if there is one."""
    now = progress.micro_batches
    checkpoint = checkpoints.load_newest()
    if checkpoint is None:
        accelerator.print(f"no checkpoint in {checkpoints.folder} yet: starting from the beginning")
        return
    accelerator.print(f"resuming from {checkpoint}")
    if progress.micro_batches != now:
        accelerator.print(
            f"the checkpoint is of {progress.micro_batches} micro-batches per step (ranks x gradient accumulation "
            f"steps), this run has {now}: same data, but dropout and batch normalization see other parts of it"
        )
        progress.micro_batches = now


def _evaluate(
    run: Run, task: Task, model: PreTrainedModel, step: int, save: Callable[[Path], None]
) -> dict[str, float]:
    """Evaluate; on the main process draw, and keep the model when it is the best so far."""
    metrics: dict[str, float] = {}
    if task.evaluate is not None:
        metrics = task.evaluate(model)
    if not run.accelerator.is_main_process:
        return metrics
    if task.evaluate is not None:
        metric, best = metrics[task.primary_metric], run.best()[1].get(task.primary_metric)
        sign = 1 if task.greater_is_better else -1
        is_better = getattr(run.config, "keep_best", False) and (best is None or sign * metric > sign * best)
        run.accelerator.print(
            f"step {step}: {task.primary_metric} {metric:.3f}{' (best so far)' if is_better else ''}"
        )
        if is_better:
            numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
            run.save_best(step, save, {"step": step, **numbers})
    if task.draw is not None:
        path = run.folder / "pictures" / f"step_{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        task.draw(model, path)
    return metrics


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
            for name, value in dataclasses.asdict(config).items()
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
        stacked = torch.stack([self.sums[name].to(self.accelerator.device) for name in names]) / self.rounds
        means = dict(zip(names, self.accelerator.reduce(stacked, "mean").tolist(), strict=True))
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
