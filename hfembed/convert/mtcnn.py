"""The MTCNN weights of facenet-pytorch, as a face detector folder."""

import hashlib
import json
from pathlib import Path
from pickle import UnpicklingError

import torch

from hfembed.atomic import atomic_folder
from hfembed.errors import InputError
from hfembed.hub.card import TRAINING_FILE, write_card
from hfembed.models.face_detector.configuration_face_detector import FaceDetectorConfig
from hfembed.models.face_detector.image_processing_face_detector import FaceDetectorImageProcessor
from hfembed.models.face_detector.modeling_face_detector import FaceDetectorModel

# file -> our network, and our module -> its module
NETWORKS = {
    "pnet.pt": (
        "proposal",
        {
            **{f"conv{number}": f"conv{number}" for number in (1, 2, 3)},
            **{f"activation{number}": f"prelu{number}" for number in (1, 2, 3)},
            "face": "conv4_1",
            "box": "conv4_2",
        },
    ),
    "rnet.pt": (
        "refinement",
        {
            **{f"conv{number}": f"conv{number}" for number in (1, 2, 3)},
            **{f"activation{number}": f"prelu{number}" for number in (1, 2, 3, 4)},
            "dense": "dense4",
            "face": "dense5_1",
            "box": "dense5_2",
        },
    ),
    "onet.pt": (
        "landmark",
        {
            **{f"conv{number}": f"conv{number}" for number in (1, 2, 3, 4)},
            **{f"activation{number}": f"prelu{number}" for number in (1, 2, 3, 4, 5)},
            "dense": "dense5",
            "face": "dense6_1",
            "box": "dense6_2",
            "landmarks": "dense6_3",
        },
    ),
}


def convert_mtcnn(source: str | Path, destination: str | Path, overwrite: bool = False) -> FaceDetectorModel:
    """Turn facenet-pytorch's pnet.pt, rnet.pt and onet.pt into a folder that `from_pretrained` reads.

    The folder holds config.json, model.safetensors, preprocessor_config.json, training.json (where the weights come
    from) and README.md, and appears whole or not at all.

    Args:
        source: The folder with the three files.
        destination: The folder to write.
        overwrite: Replace what is there.

    Returns:
        The model.

    Raises:
        InputError: A file is missing, damaged, holds more than tensors, or others; the destination is taken.
        OSError: The folder cannot be written.
    """
    source, destination = Path(source), Path(destination)
    is_taken = destination.is_file() or (destination.is_dir() and any(destination.iterdir()))
    if is_taken and not overwrite:
        raise InputError(f"{destination} exists already: choose another folder, or replace it with --overwrite")
    missing = [name for name in NETWORKS if not (source / name).is_file()]
    if missing:
        raise InputError(f"{source} lacks {', '.join(missing)}: give the folder that holds {', '.join(NETWORKS)}")
    model = FaceDetectorModel(FaceDetectorConfig()).eval()
    for name, (network, modules) in NETWORKS.items():
        _fill(model.get_submodule(network), modules, source / name)
    digests = ", ".join(f"`{name}` (sha256 `{_digest(source / name)}`)" for name in NETWORKS)
    training = {
        "name": destination.resolve().name,
        "source": f"{digests}, files in the layout of timesler/facenet-pytorch",
        "note": "That repository is under the MIT licence; it took the weights from davidsandberg/facenet, which "
        "took them from the authors of MTCNN. They were trained on WIDER FACE and CelebA.",
    }
    with atomic_folder(destination) as folder:
        model.save_pretrained(folder)
        FaceDetectorImageProcessor().save_pretrained(folder)
        (folder / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
        write_card(folder)
    return model


def _fill(network: torch.nn.Module, modules: dict[str, str], file: Path) -> None:
    """Load a foreign file into one of our networks, when the two agree in every name and shape."""
    foreign = _read(file)
    weights = {}
    for key, ours in network.state_dict().items():
        module, _, parameter = key.rpartition(".")
        name = f"{modules[module]}.{parameter}"
        theirs = foreign.pop(name, None)
        if theirs is None or theirs.shape != ours.shape:
            found = "no such tensor" if theirs is None else f"shape {tuple(theirs.shape)}"
            raise InputError(f"{file} is no such network: {name} should have shape {tuple(ours.shape)}, {found}")
        if key == "dense.weight":
            # theirs reads the last map column by column, all channels of a pixel together; ours channel by channel
            channels = network.get_submodule(f"conv{max(int(name[4:]) for name in modules if name[:4] == 'conv')}")
            theirs = theirs.view(len(theirs), 3, 3, channels.out_channels).permute(0, 3, 2, 1).flatten(1)
        weights[key] = theirs
    if foreign:
        raise InputError(f"{file} is no such network: it also holds {', '.join(sorted(foreign)[:3])}")
    network.load_state_dict(weights)


def _read(file: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(f"{file} holds more than tensors, and nothing from outside is unpickled") from error
    except MemoryError:
        raise
    # what a damaged file makes the reader stumble over is anybody's guess: KeyError, IndexError, RuntimeError ...
    except Exception as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        raise InputError(f"{file} is damaged, or no file of torch.save ({reason}): fetch it again") from error
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise InputError(f"{file} holds no state dict: tensors by name")
    return content


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


__all__ = ["convert_mtcnn"]
