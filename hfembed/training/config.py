"""Settings of a training run, and how they are read from a recipe and the command line."""

import argparse
import dataclasses
import difflib
import math
import re
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from hfembed.errors import InputError

Config = TypeVar("Config")
CHECKPOINT_BRANCH = "checkpoints"
RECIPES = Path(__file__).parents[1] / "recipes"


def setting(default: Any, help: str, changes_result: bool = True, was: str = "") -> Any:
    """A dataclass field of a recipe, or of what a recipe configures, with its help text.

    Args:
        default: Its default.
        help: The text that `--help` shows for it.
        changes_result: The trained model depends on it: a run is not resumed with another value.
        was: Its earlier name, which recipes and commands may still use.
    """
    metadata = {"help": help, "changes_result": changes_result, "was": was}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@strict
@dataclass(kw_only=True)
class RunConfig:
    """A run's folder, and where its models are pushed to."""

    output_dir: str = setting("outputs/run", "folder for the model, results, logs and checkpoints", False)
    resume: bool = setting(False, "continue the run in output_dir from its newest checkpoint", False)
    overwrite: bool = setting(False, "replace the model and the checkpoints in output_dir", False)
    keep_checkpoints: int = setting(2, "how many checkpoints to keep", False)
    push_to_hub: str = setting("", "repository on the Hub for the final model: owner/name; created if missing", False)
    hub_every: int = setting(
        0, f"also push to its branch '{CHECKPOINT_BRANCH}', at this interval, as checkpoint_every; 0 = never", False
    )
    hub_private: bool = setting(False, "make a new repository private", False)

    def check_sources(self) -> None:
        """Refuse data that is not there, before anything slow is imported or read; nothing by default.

        Raises:
            InputError: A source is missing.
        """

    named: typing.ClassVar[frozenset[str]] = frozenset()  # of an instance: the fields set by recipe and command line

    def validate_run(self) -> None:
        """Refuse what no run or push can have, before the training."""
        if not self.output_dir:
            raise ValueError("output_dir must not be empty")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other: continue the earlier run, or replace it")
        if self.keep_checkpoints < 1:
            raise ValueError(f"keep_checkpoints must be at least 1, not {self.keep_checkpoints}")
        if self.push_to_hub and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.push_to_hub):
            raise ValueError(f"push_to_hub: '{self.push_to_hub}' is not a valid repo id; expected owner/name")
        if self.hub_every < 0:
            raise ValueError(f"hub_every must not be negative, but is {self.hub_every}")
        if self.hub_every and not self.push_to_hub:
            raise ValueError("hub_every needs push_to_hub: the repository's name")


@strict
@dataclass(kw_only=True)
class TrainingConfig(RunConfig):
    """Settings of the training loop, the same for faces and images.

    A step is one update of the weights; learning rate, schedule, evaluation and checkpoints count in steps. The batch
    of a step is `batch_size` samples over all ranks and gradient accumulation steps together, so that a recipe means
    the same training on one CPU and on eight GPUs.
    """

    data_dir: str = setting("", "folder that relative data paths start from; empty: the working directory", False)
    seed: int = setting(0, "of the initial weights, the order of samples, augmentation and dropout")
    epochs: int = setting(10, "passes over the training data", False)
    max_steps: int = setting(0, "stop after this many steps whatever `epochs` says; 0 = no such limit", False)
    batch_size: int = setting(128, "samples per step, over all ranks and gradient accumulation steps together")
    accumulation_steps: int = setting(1, "gradient accumulation steps: micro-batches per step", False)
    optimizer: str = setting("sgd", "sgd (Nesterov momentum) or adamw")
    learning_rate: float = setting(0.1, "at its peak, per step")
    momentum: float = setting(0.9, "of sgd")
    adam_beta2: float = setting(0.999, "of adamw: decay of the squared gradients' mean")
    weight_decay: float = setting(5e-4, "on weight matrices and kernels, not on biases, norms and PReLU slopes")
    schedule: str = setting("cosine", "a schedule of transformers.get_scheduler: cosine, linear ...")
    warmup_steps: int = setting(0, "steps in which the learning rate rises from 0 to its peak")
    max_grad_norm: float = setting(5.0, "clip the gradient's norm to this; 0 = no clipping")
    ema_decay: float = setting(0.0, "evaluate and save an exponential moving average of the weights; 0 = none")
    sync_batch_norm: bool = setting(
        False, "batch normalization sees the batch of all ranks; without it a rank's own part"
    )
    mixed_precision: str = setting("no", "no (float32), bf16, fp16, or auto: bf16 where the hardware computes in it")
    num_workers: int = setting(0, "processes that prepare batches; 0 = in the training process", False)
    num_threads: int = setting(0, "threads of torch on the CPU, per rank; 0 = torch's own choice", False)
    log_every: int = setting(10, "steps between log lines", False)
    evaluate_every: int = setting(0, "steps between evaluations on the validation data; 0 = only at the end", False)
    checkpoint_every: int = setting(0, "steps between checkpoints to resume from; 0 = only at the end", False)
    keep_best: bool = setting(True, "the final model is the best on the validation data, not the last")
    trackers: list[str] = setting(["tensorboard"], "experiment trackers that accelerate knows by name", False)

    def validate_ranges(self) -> None:
        """Refuse values that no run can have."""
        for name in ("epochs", "batch_size", "accumulation_steps", "log_every"):
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
        """Refuse unknown names."""
        from transformers.trainer_utils import SchedulerType

        choices = {
            "optimizer": ["sgd", "adamw"],
            "mixed_precision": ["auto", "no", "bf16", "fp16"],
            "schedule": [schedule.value for schedule in SchedulerType],
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not '{getattr(self, name)}'")

    def path(self, source: str) -> str:
        """Where a source of this recipe is: below `data_dir` if it exists there, otherwise the path as given."""
        below = Path(self.data_dir) / source
        return str(below) if source and below.exists() else source


class _RecipeLoader(yaml.SafeLoader):
    """YAML 1.2 scalars: `no`, `on`, `12:30` and dates are text, `0755` is 755, and `1e-3` is a float."""

    yaml_implicit_resolvers: typing.ClassVar[dict] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _RecipeLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_RecipeLoader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise InputError(f"{message}; --help lists the fields")


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with the package.

    Raises:
        InputError: There is no such file and no such recipe.
    """
    packaged = RECIPES / f"{name.removesuffix('.yaml')}.yaml"
    if Path(name).is_file():
        return Path(name)
    if Path(name).name == name and packaged.is_file():
        return packaged
    if Path(name).parent.name == "recipes" and (RECIPES / f"{Path(name).stem}.yaml").is_file():
        print(f"{name}: no such file; using the recipe {Path(name).stem} of the package", file=sys.stderr)  # noqa: T201
        return RECIPES / f"{Path(name).stem}.yaml"
    near = difflib.get_close_matches(name, [path.stem for path in RECIPES.glob("*.yaml")], n=1)
    hint = f"did you mean '{near[0]}'?" if near else "`hfembed train --list` shows those of the package"
    raise InputError(f"{name}: no such recipe; {hint}")


def read_config(config_class: type[Config], arguments: Sequence[str] | None = None, description: str = "") -> Config:
    """Read a recipe named by `--config NAME_OR_PATH` and the `--field value` pairs that override it.

    Text fields take the text literally; other values are written as in YAML: `--learning_rate 1e-3`,
    `--depths "[1, 1, 1, 1]"`, and lists as several values too: `--depths 1 1 1 1`. `--resume` alone means true.
    `--weight-decay` is `--weight_decay`.

    Args:
        config_class: A strict dataclass whose fields were made with `setting`.
        arguments: The command line without the program's name; `sys.argv[1:]` when None.
        description: What `--help` says above the fields.

    Returns:
        The config, checked: every field known, of its type, and possible.

    Raises:
        InputError: The recipe is missing or not a YAML mapping, a field is unknown, of a wrong type, or impossible.
    """
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--config", metavar="NAME_OR_PATH", help="recipe: one of the package, or a YAML file")
    fields = {config_field.name: config_field for config_field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    for name, config_field in fields.items():
        # a switch may stand alone, a list takes any number of values, everything else takes one
        count: dict[str, Any] = {"nargs": "?", "const": "true"} if config_field.type is bool else {}
        if typing.get_origin(config_field.type) is list:
            count = {"nargs": "+"}
        names = [known for known in (name, config_field.metadata["was"]) if known]
        parser.add_argument(
            *dict.fromkeys(f"--{spelling}" for known in names for spelling in (known, known.replace("_", "-"))),
            dest=name,
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=f"{config_field.metadata['help']} (default: {default_of(config_field)})".replace("%", "%%"),
            **count,
        )
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        options = [given for given in unknown if given.startswith("--")] or unknown[:1]
        names = [given.split("=")[0].lstrip("-").replace("-", "_") for given in options]
        raise InputError(_unknown_fields(names, fields, "the command line"))
    values = _read_recipe(find_recipe(known.config), fields) if known.config else {}
    for name, value in vars(known).items():
        if name != "config":
            values[name] = _parse_argument(value, fields[name].type)
    return build_config(config_class, values)


def build_config(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Make a checked config from a mapping of field names to values.

    Raises:
        InputError: A field is unknown, of a wrong type, or has a value no run can have.
    """
    fields = {config_field.name: config_field for config_field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    if unknown := values.keys() - fields.keys():
        raise InputError(_unknown_fields(sorted(unknown), fields, "the config"))
    for name, value in values.items():
        values[name] = value = _as_declared(value, fields[name].type)
        if not _is_finite(value):
            raise InputError(f"config: {name} must be finite, not {value}")
    try:
        config = config_class(**values)
    except StrictDataclassError as error:
        # the strict dataclass wraps the reason in an outer 'Validation error for ...' line
        reason = error.__cause__
        text = str(reason) if isinstance(reason, (ValueError, TypeError)) else str(error)
        raise InputError(f"config: {' '.join(text.split())}") from None
    if isinstance(config, RunConfig):
        config.__dict__["named"] = frozenset(values)
    return config


def default_of(config_field: dataclasses.Field) -> Any:
    """A field's default value."""
    if config_field.default_factory is not dataclasses.MISSING:
        return config_field.default_factory()
    return config_field.default


def _unknown_fields(unknown: Sequence[str], fields: Iterable[str], where: str) -> str:
    told = []
    for name in unknown:
        # of several words one may be another family's: max_steps, max_words
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0.55 if "_" in name else 0.6)
        told.append(f"'{name}'" + (f" (did you mean '{near[0]}'?)" if near else ""))
    return f"unknown field{'s'[: len(told) > 1]} {', '.join(told)} in {where}; --help lists the fields"


def _read_recipe(file: Path, fields: dict[str, dataclasses.Field]) -> dict[str, Any]:
    try:
        loader = _RecipeLoader(file.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise InputError(f"recipe {file} must be a YAML mapping of fields to values")
        values: dict[str, Any] = {}
        renamed = {config_field.metadata["was"]: name for name, config_field in fields.items()}
        given = [(renamed.get(str(key.value) or None, str(key.value)), node) for key, node in root.value]
        if unknown := [name for name, _ in given if name not in fields]:
            raise InputError(_unknown_fields(unknown, fields, f"recipe {file}"))
        for name, node in given:
            if name in values:
                raise InputError(f"recipe {file} sets {name} twice")
            values[name] = _read_node(loader, node, fields[name].type)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"recipe {file} is not valid YAML: {' '.join(str(error).split())}") from None
    return values


def _read_node(loader: _RecipeLoader, node: yaml.Node, declared: Any) -> Any:
    """A value of a recipe; text fields take what is written, whatever YAML would make of it."""
    if declared is str and isinstance(node, yaml.ScalarNode):
        return "" if node.tag.endswith(":null") else node.value
    if declared == list[str] and isinstance(node, yaml.SequenceNode):
        return [_read_node(loader, item, str) for item in node.value]
    return loader.construct_object(node, deep=True)


def _parse_argument(value: str | list[str], declared: Any) -> Any:
    """A value from the command line; a list is written as one YAML list or as several values."""
    if declared is str:
        return value
    if isinstance(value, list):
        if len(value) == 1 and value[0].lstrip().startswith("["):
            return _parse_yaml(value[0], declared)
        return value if declared == list[str] else [_parse_yaml(item, Any) for item in value]
    return _parse_yaml(value, declared)


def _parse_yaml(text: str, declared: Any) -> Any:
    try:
        loader = _RecipeLoader(text)
        node = loader.get_single_node()
        return text if node is None else _read_node(loader, node, declared)
    except (yaml.YAMLError, RecursionError):
        return text


def _as_declared(value: Any, declared: Any) -> Any:
    """Read 1 and "1e-3" as floats and yes and no as switches where the field says so."""
    options = typing.get_args(declared) if isinstance(declared, types.UnionType) else (declared,)
    if float in options and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            return value
    if typing.get_origin(declared) is list and isinstance(value, list):
        return [_as_declared(item, typing.get_args(declared)[0]) for item in value]
    if declared is bool and isinstance(value, str):
        return {"yes": True, "on": True, "no": False, "off": False}.get(value.lower(), value)
    return value


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
