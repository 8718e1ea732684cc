"""Validate a checkpoint's folder: everything `from_pretrained` needs is there, intact and finite."""

import dataclasses
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoImageProcessor, PreTrainedConfig, PreTrainedModel

import hfembed.auto  # noqa: F401  registers the models
from hfembed.checkpoint.files import CONFIG_FILE, PROCESSOR_FILE
from hfembed.checkpoint.fingerprint import PICKLES, StoredTensor, stored_tensors, weight_files
from hfembed.checkpoint.json_notes import read_json
from hfembed.errors import InputError, counted, first_line
from hfembed.models.autoencoder_config import upgrade_config
from hfembed.models.config_fields import WRITTEN_BY_TRANSFORMERS
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary

_ADAPTER_FILE = "adapter_config.json"
_IMAGE_FILES = {PROCESSOR_FILE: "the image processor"}
_WORD_FILES = {"tokenizer.json": "the words", "vocab_counts.safetensors": "the words' counts"}
# a float's exponent bits are all set where it is infinite or not a number
_EXPONENTS = {
    "F64": ("<u8", 0x7FF0 << 48),
    "F32": ("<u4", 0x7F80 << 16),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}


def read_config(folder: Path, name: str | None = None) -> PreTrainedConfig:
    """Read a checkpoint's config.json, strictly.

    Args:
        folder: The checkpoint's folder.
        name: What to call the checkpoint; the folder by default.

    Raises:
        InputError: It is missing or damaged, of a model of another library, or has unknown or impossible fields; or
            there is an `adapter_config.json`, with which transformers loads other weights than these.
    """
    name = name or str(folder)
    if (folder / _ADAPTER_FILE).exists():
        raise InputError(f"{name} holds {_ADAPTER_FILE}, with which transformers loads other weights; move it away")
    return parse_config(read_json(folder / CONFIG_FILE, name), name)


def parse_config(content: dict[str, Any], name: str) -> PreTrainedConfig:
    """Make a config of the contents of a config.json, as `read_config`."""
    model_type = content.get("model_type")
    if not str(model_type).startswith("hfembed_") or model_type not in CONFIG_MAPPING:
        ours = ", ".join(sorted(key for key in CONFIG_MAPPING if key.startswith("hfembed_")))
        raise InputError(f"{name}: unsupported model_type '{model_type}'; expected one of {ours}")
    try:
        content = upgrade_config(content)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    config_class: Any = CONFIG_MAPPING[content["model_type"]]
    known = {field.name for field in dataclasses.fields(config_class)} | WRITTEN_BY_TRANSFORMERS
    known |= {"torch_dtype", "transformers_version"}
    unknown = sorted(key for key in content if key not in known and not key.startswith("_"))
    if unknown:
        raise InputError(
            f"{name}: {CONFIG_FILE} has the unknown key '{unknown[0]}': of another version of hfembed, or misspelled"
        )
    with _possible(name):
        config: PreTrainedConfig = config_class.from_dict(content)
        architectures = config.architectures or []
        if not isinstance(architectures, list) or not all(isinstance(each, str) for each in architectures):
            raise ValueError(f"architectures must be names of classes, got {architectures!r}")
    return config


@contextmanager
def _possible(name: str | Path) -> Iterator[None]:
    """Turn whatever damaged fields make transformers and the models raise into one line."""
    try:
        yield
    except (MemoryError, InputError):
        raise
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(f"{name}: {CONFIG_FILE} describes no possible model: {reason}") from error


def check_weights(folder: Path, name: str | None = None) -> dict[str, tuple[int, ...]]:
    """Check the files with the weights: all there, all intact, every number finite, none in a pickle file.

    Args:
        folder: The checkpoint's folder.
        name: What to call the checkpoint; the folder by default.

    Returns:
        Name -> shape of every tensor.

    Raises:
        InputError: One of these is not so.
    """
    name = name or str(folder)
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(folder, name):
        tensors |= stored_tensors(file, name)
    for key, tensor in tensors.items():
        if not _is_finite(tensor):
            raise InputError(f"{name}: the weight {key} is not finite; train or fetch the model again")
    return {key: tensor.shape for key, tensor in tensors.items()}


def check_checkpoint(folder: str | Path) -> PreTrainedConfig:
    """Check that a folder is a complete checkpoint of a supported model, ready to be shared.

    Returns:
        The model's config.

    Raises:
        InputError: Something is missing, damaged, not finite, of another shape than the config says, or pickled.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    config = read_config(folder)
    shapes = check_weights(folder)
    architecture = (config.architectures or [""])[0]
    with _possible(folder), torch.device("meta"):
        model = _model_class(config, architecture, folder)(config)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing = sorted(expected.keys() - shapes.keys())
    if missing:
        raise InputError(
            f"{folder} lacks {counted(len(missing), 'weight')} of {architecture}, the first: {missing[0]}"
        )
    for key, shape in expected.items():
        if shapes[key] != shape:
            raise InputError(f"{folder}: {key} has the shape {shapes[key]}, and {CONFIG_FILE} says {shape}")
    companions = _WORD_FILES if config.model_type == "hfembed_word2vec" else _IMAGE_FILES
    for file, content in companions.items():
        if not (folder / file).is_file():
            raise InputError(f"{folder} lacks {file}: save {content} with the model")
    _check_companions(folder, config)
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickled:
        raise InputError(f"{folder} holds the pickle file {pickled[0]}: move it away, only safetensors are shared")
    return config


def _check_companions(folder: Path, config: PreTrainedConfig) -> None:
    """Read the processor or the words, which a loader would stumble over."""
    try:
        if config.model_type != "hfembed_word2vec":
            AutoImageProcessor.from_pretrained(folder)
        elif (words := len(Vocabulary.load(folder))) != config.vocab_size:
            raise InputError(f"{words} words do not fit {config.vocab_size} rows")
    except MemoryError:
        raise
    except Exception as error:  # whatever damaged settings make the libraries raise
        raise InputError(
            f"{folder}: the processor's settings or the words are damaged ({first_line(error)}); save them again"
        ) from error


def _model_class(config: PreTrainedConfig, architecture: str, folder: Path) -> type[PreTrainedModel]:
    """The class that config.json names; it stands beside the config's."""
    module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
    found = getattr(module, str(architecture), None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel) and found.config_class is type(config)):
        raise InputError(f"{folder}: {CONFIG_FILE} names the architecture '{architecture}', unknown to hfembed")
    return found


def _is_finite(tensor: StoredTensor) -> bool:
    if tensor.dtype not in _EXPONENTS:
        return True  # whole numbers
    dtype, exponent = _EXPONENTS[tensor.dtype]
    return not any(np.any(np.frombuffer(block, dtype) & exponent == exponent) for block in tensor.blocks())
