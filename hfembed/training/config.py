"""What a training run is told: the settings of the loop, and how they are read from a recipe and the command line."""

import argparse
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from hfembed.errors import InputError

Config = TypeVar("Config")
CHECKPOINT_BRANCH = "checkpoints"


def setting(default: Any, help: str) -> Any:
    """A dataclass field with the text that `--help` shows for it."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@strict
@dataclass(kw_only=True)
class SharingConfig:
    """Where a run's models go besides their folder."""

    push_to_hub: str = setting("", "repository on the Hub for the final model: owner/name; made where it is new")
    hub_every: int = setting(
        0, f"also push as often to its branch '{CHECKPOINT_BRANCH}', counted as checkpoints; 0 = never"
    )
    hub_private: bool = setting(False, "make a new repository private")

    def validate_sharing(self) -> None:
        """Refuse what no push can have, before the training."""
        if self.push_to_hub and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.push_to_hub):
            raise ValueError(f"push_to_hub must be a name on the Hub, owner/name, not '{self.push_to_hub}'")
        if self.hub_every < 0:
            raise ValueError(f"hub_every must not be negative, but is {self.hub_every}")
        if self.hub_every and not self.push_to_hub:
            raise ValueError("hub_every needs push_to_hub: the repository's name")


@strict
@dataclass(kw_only=True)
class TrainingConfig(SharingConfig):
    """Settings of the training loop, the same for faces and images.

    A step is one update of the weights; learning rate, schedule, evaluation and checkpoints count in steps. The batch
    of a step is `batch_size` samples over all ranks and accumulation rounds together, so that a recipe means the same
    training on one CPU and on eight GPUs.
    """

    output_dir: str = setting("outputs/run", "folder for the model, its results, pictures, logs and checkpoints")
    resume: bool = setting(False, "go on from the newest checkpoint in output_dir")
    seed: int = setting(0, "of the initial weights, the order of samples, augmentation and dropout")
    epochs: int = setting(10, "passes over the training data")
    max_steps: int = setting(0, "stop after this many steps whatever `epochs` says; 0 = no such limit")
    batch_size: int = setting(128, "samples a step, over all ranks and accumulation rounds together")
    accumulation_steps: int = setting(1, "rounds in which a step's batch is worked off")
    optimizer: str = setting("sgd", "sgd (Nesterov momentum) or adamw")
    learning_rate: float = setting(0.1, "at its peak, per step")
    momentum: float = setting(0.9, "of sgd")
    adam_beta2: float = setting(0.999, "of adamw: decay of the squared gradients' mean")
    weight_decay: float = setting(5e-4, "on weight matrices and kernels, not on biases, norms and PReLU slopes")
    schedule: str = setting("cosine", "a schedule of transformers.get_scheduler: cosine, linear ...")
    warmup_steps: int = setting(0, "steps in which the learning rate rises from 0 to its peak")
    max_grad_norm: float = setting(5.0, "clip the gradient's norm to this; 0 = no clipping")
    ema_decay: float = setting(0.0, "evaluate and save an exponential moving average of the weights; 0 = none")
    mixed_precision: str = setting("no", "no, bf16 or fp16")
    num_workers: int = setting(0, "processes that prepare batches; 0 = in the training process")
    num_threads: int = setting(0, "threads of torch on the CPU, per rank; 0 = torch's own choice")
    log_every: int = setting(10, "steps between log lines")
    evaluate_every: int = setting(0, "steps between evaluations on the validation data; 0 = only at the end")
    checkpoint_every: int = setting(0, "steps between checkpoints to resume from; 0 = only at the end")
    keep_checkpoints: int = setting(2, "how many checkpoints to keep")
    keep_best: bool = setting(True, "the final model is the one best on the validation data, not the last")
    trackers: list[str] = setting(["tensorboard"], "experiment trackers that accelerate knows by name")

    def validate_ranges(self) -> None:
        """Refuse values that no run can have."""
        for name in ("epochs", "batch_size", "accumulation_steps", "log_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "max_steps", "warmup_steps", "num_workers", "num_threads", "evaluate_every", "checkpoint_every",
            "weight_decay", "max_grad_norm",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        for name in ("ema_decay", "momentum", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by accumulation_steps {self.accumulation_steps}"
            )

    def validate_choices(self) -> None:
        """Refuse names that mean nothing."""
        from transformers.trainer_utils import SchedulerType

        choices = {
            "optimizer": ["sgd", "adamw"],
            "mixed_precision": ["no", "bf16", "fp16"],
            "schedule": [schedule.value for schedule in SchedulerType],
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not '{getattr(self, name)}'")


def read_config(config_class: type[Config], arguments: Sequence[str] | None = None, description: str = "") -> Config:
    """Read a recipe named by `--config FILE` and the `--field value` pairs that override it.

    Values on the command line are written as in YAML: `--learning_rate 1e-3`, `--depths "[1, 1, 1, 1]"`, and lists as
    several values too: `--depths 1 1 1 1`. `--resume` alone means true. `--weight-decay` is
    `--weight_decay`.

    Args:
        config_class: A strict dataclass whose fields were made with `setting`.
        arguments: The command line without the program's name; `sys.argv[1:]` when None.
        description: What `--help` says above the fields.

    Returns:
        The config, checked: every field known, of its type, and possible.

    Raises:
        InputError: The file is missing or no YAML mapping, a field is unknown, of a wrong type, or impossible.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", metavar="FILE", help="recipe: a YAML file of the fields below")
    for config_field in dataclasses.fields(config_class):
        # a switch may stand alone, a list takes any number of values, everything else takes one
        count = {"nargs": "?", "const": "true"} if config_field.type is bool else {}
        if typing.get_origin(config_field.type) is list:
            count = {"nargs": "+"}
        parser.add_argument(
            *dict.fromkeys((f"--{config_field.name}", f"--{config_field.name.replace('_', '-')}")),
            dest=config_field.name,
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=f"{config_field.metadata['help']} (default: {_default(config_field)})".replace("%", "%%"),
            **count,
        )
    known, unknown = parser.parse_known_args(arguments)
    names = [config_field.name for config_field in dataclasses.fields(config_class)]
    if unknown:
        raise InputError(
            _unknown_field(unknown[0].split("=")[0].lstrip("-").replace("-", "_"), names, "the command line")
        )
    values = _read_recipe(known.config, names) if known.config else {}
    declared = {config_field.name: config_field.type for config_field in dataclasses.fields(config_class)}
    values |= {name: _parse(value, declared[name]) for name, value in vars(known).items() if name != "config"}
    return build_config(config_class, values)


def build_config(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Make a checked config from a mapping of field names to values.

    Raises:
        InputError: A field is unknown, of a wrong type, or has a value no run can have.
    """
    fields = {config_field.name: config_field for config_field in dataclasses.fields(config_class)}
    for name, value in values.items():
        if name not in fields:
            raise InputError(_unknown_field(name, list(fields), "the config"))
        values[name] = _as_declared(value, fields[name].type)
    try:
        return config_class(**values)
    except StrictDataclassError as error:
        # the strict dataclass wraps the reason in an outer 'Validation error for ...' line
        reason = error.__cause__ or error
        raise InputError(f"config: {_one_line(error, reason)}") from None


def _default(config_field: dataclasses.Field) -> Any:
    if config_field.default_factory is not dataclasses.MISSING:
        return config_field.default_factory()
    return config_field.default


def _unknown_field(name: str, names: list[str], where: str) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "--help lists the fields"
    return f"unknown field '{name}' in {where}; {hint}"


def _read_recipe(file: str, names: list[str]) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"recipe {file} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"recipe {file} must be a YAML mapping of fields to values")
    for name in values:
        if name not in names:
            raise InputError(_unknown_field(str(name), names, f"recipe {file}"))
    return values


def _parse(value: str | list[str], declared: Any) -> Any:
    """A value from the command line; a list is written as one YAML list or as several values."""
    if isinstance(value, list):
        if len(value) == 1 and value[0].lstrip().startswith("["):
            return _parse(value[0], declared)
        # text stays as it is: YAML would take the folder 07256 for a number
        return value if declared == list[str] else [_parse(item, None) for item in value]
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _as_declared(value: Any, declared: Any) -> Any:
    """Read 1 and 1e-3 as floats and 2026 as text where the field says so; YAML 1.1 takes 1e-3 for text."""
    options = typing.get_args(declared) if isinstance(declared, types.UnionType) else (declared,)
    if float in options and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            return value
    if str in options and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return value


def _one_line(error: Exception, reason: BaseException) -> str:
    return (
        " ".join(str(reason).split()) if isinstance(reason, (ValueError, TypeError)) else " ".join(str(error).split())
    )
