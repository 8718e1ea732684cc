"""What every converter does: find a foreign file, read its tensors, report differences, write a complete folder."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import hf_hub_download, list_repo_files
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import BaseImageProcessor, PreTrainedModel

from hfembed.atomic import atomic_folder
from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.files import TRAINING_FILE
from hfembed.errors import InputError, first_line

_WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".onnx")
_COUNTER = "num_batches_tracked"
_ON_THE_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<file>.+))?")


def find_file(source: str, preferred: Iterable[str] = ()) -> Path:
    """The file that a user names, fetched from the Hub where it is there."""
    if Path(source).is_file():
        return Path(source)
    if Path(source).is_dir():
        names = [name for name in preferred if (Path(source) / name).is_file()]
        names += sorted(path.name for path in Path(source).iterdir() if path.is_file())
        return Path(source) / _choose(source, names, preferred, f"{source}/<file>")
    on_the_hub = _ON_THE_HUB.fullmatch(source)
    if not on_the_hub:
        raise InputError(f"{source}: no such file; a file on the Hub is written <owner>/<name>:<file>")
    repo, file = on_the_hub["repo"], on_the_hub["file"]
    if file and (file.startswith("/") or "\\" in file or ".." in file.split("/")):
        raise InputError(f"{source}: '{file}' is not a path inside a repository")
    try:
        file = file or _choose(source, sorted(list_repo_files(repo)), preferred, f"{repo}:<file>")
        return Path(hf_hub_download(repo, file))
    except InputError:
        raise
    except (OSError, ValueError) as error:  # no such repository, no such file, no network
        raise InputError(
            f"{source}: no such file, and it could not be fetched from the Hub: {first_line(error)}"
        ) from error


def find_beside(source: str, file: Path, name: str) -> Path | None:
    """A file of settings beside the weights, in their folder or repository; None where there is none.

    Raises:
        InputError: It could not be fetched from the Hub.
    """
    if Path(source).exists():
        folder = Path(source) if Path(source).is_dir() else file.parent
        return folder / name if (folder / name).is_file() else None
    repo = source.partition(":")[0]
    try:
        return Path(hf_hub_download(repo, name))
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{name} of {repo} could not be fetched from the Hub: {first_line(error)}") from error


@contextmanager
def reading(source: str | Path, layout: str) -> Iterator[None]:
    """Turn whatever a damaged file makes its reader stumble over into one line that names the file."""
    try:
        yield
    except (InputError, MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the machine, not of the file
            raise
        reason = first_line(error)
        is_named = str(source) in reason  # readers of ours name the file themselves
        raise InputError(reason if is_named else f"{source} is damaged, or no {layout}: {reason}") from error


def _choose(source: str, names: list[str], preferred: Iterable[str], way_out: str) -> str:
    for name in preferred:
        if name in names:
            return name
    weights = [name for name in names if name.endswith(_WEIGHT_SUFFIXES)]
    if len(weights) != 1:
        found = f"{len(weights)} files of weights ({', '.join(weights[:3])})" if weights else "no file of weights"
        raise InputError(f"{source} holds {found}: name one as {way_out}")
    return weights[0]


def read_state_dict(
    file: Path, source: str | None = None, under: Iterable[str] = ("state_dict", "net_state_dict")
) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, in the file's order. Nothing is unpickled.

    Reads safetensors, and torch.save's zip format and the older one without it.
    """
    source = source or str(file)
    try:
        if file.suffix == ".safetensors":
            loaded = load_file(file)
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"{source} holds more than tensors, and pickle files are not loaded; save the network's state_dict() "
            "alone with torch.save"
        ) from error
    except SafetensorError as error:
        raise InputError(f"{source} is damaged, or no safetensors file ({error}): fetch it again") from error
    except MemoryError:
        raise
    # what a damaged file makes the reader stumble over is anybody's guess: KeyError, IndexError, RuntimeError ...
    except Exception as error:
        raise InputError(
            f"{source} is damaged, or was not written by torch.save ({first_line(error)}); fetch it again"
        ) from error
    content: Any = loaded
    under = tuple(under)
    for name in under:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    if not isinstance(content, dict) or not content or not all(map(torch.is_tensor, content.values())):
        places = " or ".join(f"'{name}'" for name in under)
        raise InputError(f"{source} holds no state dict: tensors by name, alone or under {places}")
    tensors = {
        str(key).removeprefix("module."): value for key, value in content.items() if not str(key).endswith(_COUNTER)
    }
    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{source}: the weights contain non-finite numbers, in '{key}'")
    return tensors


def check_layout(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, Iterable[int]], source: str, layout: str
) -> None:
    """Refuse a file whose tensors are not those of the layout, by name and by shape."""
    shapes = {key: tuple(shape) for key, shape in shapes.items()}
    faults = {
        "missing": [key for key in shapes if key not in tensors],
        "unexpected": [key for key in tensors if key not in shapes],
        "of another shape": [
            f"{key} {tuple(tensors[key].shape)} instead of {shape}"
            for key, shape in shapes.items()
            if key in tensors and tuple(tensors[key].shape) != shape
        ],
    }
    listed = [
        f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for fault, names in faults.items()
        if names
    ]
    if listed:
        raise InputError(f"{source} is not {layout}: {'; '.join(listed)}")


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What a foreign file must give a model: its state dict without BatchNorm's counters of training steps."""
    return {key: value for key, value in model.state_dict().items() if not key.endswith(_COUNTER)}


def fill(model: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Give a model all its weights."""
    counters = model.state_dict().keys() - weights_of(model).keys()
    model.load_state_dict({key: torch.tensor(0) for key in counters} | dict(weights))


def write_checkpoint(
    destination: str | Path,
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    files: Iterable[Path],
    layout: str,
    note: str,
    license: str | None = None,
) -> None:
    """Write the folder that `from_pretrained` reads, atomically.

    It holds config.json, model.safetensors, preprocessor_config.json, training.json (where the weights come from) and
    README.md. `license` is the weights' license by its name on the Hub, where the source states one.
    """
    destination = Path(destination)
    named = ", ".join(f"`{file.name}` (sha256 `{hashlib.sha256(file.read_bytes()).hexdigest()}`)" for file in files)
    training = {
        "name": destination.resolve().name,
        "source": f"{named}, in the layout of {layout}",
        "note": note,
    }
    if license:
        training["license"] = license
    with atomic_folder(destination) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
        write_card(folder)
