"""What every converter does: find a foreign file, read its tensors, say what differs, write a whole folder."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import hf_hub_download, list_repo_files
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import BaseImageProcessor, PreTrainedModel

from hfembed.atomic import atomic_folder
from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.files import TRAINING_FILE
from hfembed.errors import InputError

_WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".onnx")
_COUNTER = "num_batches_tracked"
_ON_THE_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<file>.+))?")


def find_file(source: str, preferred: Iterable[str] = ()) -> Path:
    """The file that a user names, fetched from the Hub where it is there.

    Args:
        source: A file; `<owner>/<name>:<file>` in a Hub repository; or a folder or `<owner>/<name>`, where the file
            is the first of `preferred` that is there, else the only one that looks like weights.
        preferred: File names, the best first.

    Returns:
        The path on this machine.

    Raises:
        InputError: There is no such file, or several would do.
    """
    if Path(source).is_file():
        return Path(source)
    if Path(source).is_dir():
        names = [name for name in preferred if (Path(source) / name).is_file()]
        names += sorted(path.name for path in Path(source).iterdir() if path.is_file())
        return Path(source) / _choose(source, names, preferred, f"{source}/<file>")
    on_the_hub = _ON_THE_HUB.fullmatch(source)
    if not on_the_hub:
        raise InputError(f"there is no file {source}; one on the Hub is written <owner>/<name>:<file>")
    repo, file = on_the_hub["repo"], on_the_hub["file"]
    try:
        file = file or _choose(source, sorted(list_repo_files(repo)), preferred, f"{repo}:<file>")
        return Path(hf_hub_download(repo, file))
    except InputError:
        raise
    except (OSError, ValueError) as error:  # no such repository, no such file, no network
        raise InputError(
            f"{source} is no file here and could not be fetched from the Hub: {_first_line(error)}"
        ) from error


def find_beside(source: str, file: Path, name: str) -> Path | None:
    """A file of settings that belongs to the weights.

    Args:
        source: As given to `find_file`.
        file: What `find_file` found.
        name: Name of the wanted file, from the repository's root or from the folder of the weights.

    Returns:
        Its path, or None where there is none.

    Raises:
        InputError: The Hub could not be asked.
    """
    if Path(source).exists():
        folder = Path(source) if Path(source).is_dir() else file.parent
        return folder / name if (folder / name).is_file() else None
    repo = _ON_THE_HUB.fullmatch(source)["repo"]
    try:
        return Path(hf_hub_download(repo, name))
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{name} of {repo} could not be fetched from the Hub: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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

    Args:
        file: The file.
        source: What to call it in an error; the file's path unless given.
        under: Where trainers put the network when they save more beside it; the first that is there is taken.

    Returns:
        Tensors on the CPU; the names without `module.`, which torch.nn.DataParallel puts before them. BatchNorm's
        counters of training steps, which files of old versions of torch lack, are left out: nothing depends on them.

    Raises:
        InputError: The file is damaged, holds other objects than tensors, or no state dict.
    """
    source = source or str(file)
    try:
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"{source} holds more than tensors, and nothing from outside is unpickled: save the network's "
            "state_dict() alone with torch.save"
        ) from error
    except SafetensorError as error:
        raise InputError(f"{source} is damaged, or no safetensors file ({error}): fetch it again") from error
    except MemoryError:
        raise
    # what a damaged file makes the reader stumble over is anybody's guess: KeyError, IndexError, RuntimeError ...
    except Exception as error:
        raise InputError(
            f"{source} is damaged, or no file of torch.save ({_first_line(error)}): fetch it again"
        ) from error
    under = tuple(under)
    for name in under:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    if not isinstance(content, dict) or not content or not all(map(torch.is_tensor, content.values())):
        places = " or ".join(f"'{name}'" for name in under)
        raise InputError(f"{source} holds no state dict: tensors by name, alone or under {places}")
    return {key.removeprefix("module."): value for key, value in content.items() if not key.endswith(_COUNTER)}


def check_layout(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, Iterable[int]], source: str, layout: str
) -> None:
    """Refuse a file whose tensors are not those of the layout, by name and by shape.

    Args:
        tensors: The file's tensors by name.
        shapes: The layout's names and shapes.
        source: What to call the file.
        layout: What the file should be, with its article: "a MobileFaceNet of ...".

    Raises:
        InputError: They differ; says which are missing, unexpected and of another shape, the first three of each.
    """
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
    """Give a model all its weights.

    Args:
        model: Changed in place.
        weights: A tensor for each of `weights_of(model)`.

    Raises:
        RuntimeError: A key map forgot or invented a weight.
    """
    counters = model.state_dict().keys() - weights_of(model).keys()
    model.load_state_dict({key: torch.tensor(0) for key in counters} | dict(weights))


def write_checkpoint(
    destination: str | Path,
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    files: Iterable[Path],
    layout: str,
    note: str,
) -> None:
    """Write the folder that `from_pretrained` reads, whole or not at all.

    It holds config.json, model.safetensors, preprocessor_config.json, training.json (where the weights come from) and
    README.md.

    Args:
        destination: The folder; what is there is replaced.
        model: The converted model.
        processor: How the trainer showed images to it.
        files: The foreign files; their names and checksums are recorded.
        layout: Whose layout they have: the trainer's repository.
        note: What is known of the training data and the licence.

    Raises:
        OSError: The folder cannot be written.
    """
    destination = Path(destination)
    named = ", ".join(f"`{file.name}` (sha256 `{hashlib.sha256(file.read_bytes()).hexdigest()}`)" for file in files)
    training = {
        "name": destination.resolve().name,
        "source": f"{named}, in the layout of {layout}",
        "note": note,
    }
    with atomic_folder(destination) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
        write_card(folder)
