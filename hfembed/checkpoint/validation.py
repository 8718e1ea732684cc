"""Whether a folder is a whole checkpoint: everything `from_pretrained` needs, nothing that is not what it says."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, PreTrainedConfig

import hfembed.auto  # registers the models
from hfembed.errors import InputError
from hfembed.models.autoencoder_config import upgrade_config

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# what transformers writes into a config.json besides the fields of the class
_WRITTEN_BY_TRANSFORMERS = {
    "attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "model_type", "per_layer_config",
    "quantization_config", "tie_word_embeddings", "torch_dtype", "transformers_version",
}  # fmt: skip

_IMAGE_FILES = {"preprocessor_config.json": "the image processor"}
_WORD_FILES = {"tokenizer.json": "the words", "vocab_counts.safetensors": "the words' counts"}


def read_config(folder: Path, name: str | None = None) -> PreTrainedConfig:
    """Read a checkpoint's config.json, strictly.

    Args:
        folder: The checkpoint's folder.
        name: What to call the checkpoint; the folder where there is none.

    Returns:
        The config.

    Raises:
        InputError: It is missing or damaged, of a model of another library, or has unknown or impossible fields.
    """
    name = name or str(folder)
    content = _read_json(folder / CONFIG_FILE, name)
    model_type = content.get("model_type")
    if not str(model_type).startswith("hfembed_") or model_type not in CONFIG_MAPPING:
        raise InputError(f"{name} holds a model of type {model_type}, which is none of hfembed's")
    try:
        content = upgrade_config(content)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    config_class = CONFIG_MAPPING[content["model_type"]]
    known = {field.name for field in dataclasses.fields(config_class)} | _WRITTEN_BY_TRANSFORMERS
    unknown = sorted(key for key in content if key not in known and not key.startswith("_"))
    if unknown:
        raise InputError(
            f"{name}: {CONFIG_FILE} has the unknown key '{unknown[0]}': of another version of hfembed, or misspelt"
        )
    try:
        return config_class.from_dict(content)
    except (StrictDataclassError, ValueError, TypeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(f"{name}: {CONFIG_FILE} describes no possible model: {reason}") from error


def check_weights(folder: Path, name: str | None = None) -> dict[str, tuple[int, ...]]:
    """Check the files with the weights: all there, all whole, none pickled.

    Args:
        folder: The checkpoint's folder.
        name: What to call the checkpoint; the folder where there is none.

    Returns:
        Name -> shape of every tensor.

    Raises:
        InputError: A file is missing or truncated, or there are pickled weights only.
    """
    name = name or str(folder)
    files = {WEIGHTS_FILE}
    if (folder / INDEX_FILE).exists():
        files = set(_read_json(folder / INDEX_FILE, name).get("weight_map", {}).values())
    elif not (folder / WEIGHTS_FILE).exists():
        refuse_pickles([file.name for file in folder.iterdir()], name)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(files):
        if not (folder / file).is_file():
            raise InputError(f"{name} lacks {file}")
        try:
            with safe_open(folder / file, "pt") as tensors:
                shapes |= {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{name}: {file} is truncated or damaged ({error}); write or fetch it again") from error
    return shapes


def refuse_pickles(files: Iterable[str], name: str) -> None:
    """Refuse a checkpoint whose weights are pickled, and not in safetensors too.

    Args:
        files: Names of the checkpoint's files.
        name: What to call the checkpoint.

    Raises:
        InputError: That is so.
    """
    files = sorted(files)
    pickled = [file for file in files if file.endswith(PICKLES)]
    if pickled and not any(file.endswith(".safetensors") for file in files):
        raise InputError(
            f"{name} has its weights in {pickled[0]}, and nothing from outside is unpickled: `hfembed convert` knows "
            "some such files"
        )


def check_checkpoint(folder: str | Path) -> PreTrainedConfig:
    """Check that a folder is a whole checkpoint of one of our models, ready to be shared.

    Args:
        folder: The folder.

    Returns:
        The model's config.

    Raises:
        InputError: Something is missing, damaged, of another shape than the config says, or pickled.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    config = read_config(folder)
    shapes = check_weights(folder)
    architecture = (config.architectures or [""])[0]
    if architecture not in hfembed.__all__:
        raise InputError(
            f"{folder}: {CONFIG_FILE} names the architecture '{architecture}', which hfembed does not have"
        )
    with torch.device("meta"):
        expected = {
            key: tuple(value.shape) for key, value in getattr(hfembed, architecture)(config).state_dict().items()
        }
    missing = sorted(expected.keys() - shapes.keys())
    if missing:
        raise InputError(f"{folder} lacks {len(missing)} weights of {architecture}, the first: {missing[0]}")
    for key, shape in expected.items():
        if shapes[key] != shape:
            raise InputError(f"{folder}: {key} has the shape {shapes[key]}, and {CONFIG_FILE} says {shape}")
    companions = _WORD_FILES if config.model_type == "hfembed_word2vec" else _IMAGE_FILES
    for file, content in companions.items():
        if not (folder / file).is_file():
            raise InputError(f"{folder} lacks {file}: save {content} with the model")
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickled:
        raise InputError(f"{folder} holds the pickled file {pickled[0]}: move it away, only safetensors are shared")
    return config


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{name} lacks {path.name}") from None
    except ValueError as error:
        raise InputError(f"{name}: {path.name} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{name}: {path.name} is not a JSON object")
    return content
