"""What the config of every family is held to: known fields, finite numbers, bounded sizes, nothing to fetch or run."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from transformers import PreTrainedConfig

# keys that transformers and the Hub write into a config.json, or pass to a config, besides its declared fields
WRITTEN_BY_TRANSFORMERS = {
    "auto_map",
    "attn_implementation",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "per_layer_config",
    "quantization_config",
    "tie_word_embeddings",
}
# with these a config.json makes transformers read other files or run code; no family needs them
_REFUSED_KEYS = ("quantization_config", "transformers_weights", "use_kernels", "kernel_config")
_MAX_LABELS = 5_000_000
_MAX_DEPTH = 8
_DTYPES = ("float32", "float16", "bfloat16", "float64")


def check_fields(config: PreTrainedConfig, others: Mapping[str, Any]) -> None:
    """Refuse misspelled fields, numbers that are not finite, and keys that fetch or run something.

    To be called first in a config's `__post_init__`: `PreTrainedConfig` allocates by what it is given.

    Raises:
        ValueError: Names the field, and the nearest that exists. An unknown key of a config.json, which another
            version of transformers may have written, is let through unless it looks like a typo.
    """
    # every config.json names the transformers that wrote it, a config built in code does not
    from_file = config.transformers_version is not None
    inherited = {member.name for member in fields(PreTrainedConfig)}
    own = {member.name for member in fields(config)} - inherited
    names = own if from_file else own | inherited | {"num_labels"}
    kind = type(config).__name__
    for name, value in others.items():
        if name in _REFUSED_KEYS and value is not None:
            raise ValueError(f"{kind}: '{name}' is not allowed in the config; remove it")
        # a name with a slash is a repository with code
        if name.removeprefix("_").endswith("_implementation") and not (value is None or _is_plain_name(value)):
            raise ValueError(f"{kind}: '{name}' must be a plain name such as 'eager', got {value!r}")
        check_value(name, value)
        if name.startswith("_") or name in WRITTEN_BY_TRANSFORMERS or name in dir(PreTrainedConfig):
            continue
        nearest = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.8 if from_file else 0.0)
        if nearest:
            raise ValueError(f"{kind} has no field '{name}'; did you mean '{nearest[0]}'?")
    for name in own:
        check_value(name, getattr(config, name))
    for name, value in (("dtype", config.dtype), ("torch_dtype", others.get("torch_dtype"))):
        # transformers takes whatever torch has under that name
        if not (
            value is None or (isinstance(value, str | torch.dtype) and str(value).removeprefix("torch.") in _DTYPES)
        ):
            raise ValueError(f"{name} must be one of {', '.join(_DTYPES)}, got {value!r}")
    for name in ("id2label", "label2id"):
        value = others.get(name, getattr(config, name, None))
        if not (value is None or isinstance(value, Mapping)):
            raise ValueError(f"{name} must be a mapping, got {value!r}")
    num_labels = others.get("num_labels")
    if num_labels is not None and not (isinstance(num_labels, int) and 0 < num_labels <= _MAX_LABELS):
        raise ValueError(f"num_labels must be a number from 1 to {_MAX_LABELS:,}, got {num_labels!r}")


def check_value(name: str, value: Any, depth: int = 0) -> None:
    """Refuse what JSON can hold and no config means: NaN, infinity, integers beyond 64 bits, deep nesting.

    Raises:
        ValueError: Names the field.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must be a number of at most 64 bits, got one of {value.bit_length()}")
    if isinstance(value, Mapping | list | tuple):
        if depth == _MAX_DEPTH:
            raise ValueError(f"{name} is nested more than {_MAX_DEPTH} levels deep")
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            check_value(f"{name}[{key!r}]", item, depth + 1)


def check_sizes(config: PreTrainedConfig, limits: Mapping[str, int]) -> None:
    """Refuse sizes, or lists of sizes, that no network can have or no machine can hold.

    Args:
        limits: Field -> largest value; the smallest is 1. A field that is None is left alone.

    Raises:
        ValueError: Names the field.
    """
    for name, limit in limits.items():
        value = getattr(config, name)
        for size in value if isinstance(value, list | tuple) else [] if value is None else [value]:
            if not 1 <= size <= limit:
                raise ValueError(f"{name} must lie between 1 and {limit:,}, got {value}")


def _is_plain_name(value: Any) -> bool:
    return isinstance(value, str) and value.replace("_", "").isalnum()


__all__ = ["WRITTEN_BY_TRANSFORMERS", "check_fields", "check_sizes", "check_value"]
