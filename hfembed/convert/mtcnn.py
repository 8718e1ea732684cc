"""The MTCNN weights of facenet-pytorch, as a face detector folder."""

from pathlib import Path

from torch import nn

from hfembed.atomic import check_destination
from hfembed.convert.foreign_checkpoint import check_layout, find_file, read_state_dict, write_checkpoint
from hfembed.errors import InputError
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

NOTE = (
    "That repository is under the MIT license. It has the weights from davidsandberg/facenet, and that one from the "
    "authors of MTCNN, who trained them on WIDER FACE and CelebA."
)


def convert_mtcnn(source: str, destination: str | Path, overwrite: bool = False) -> FaceDetectorModel:
    """Turn facenet-pytorch's pnet.pt, rnet.pt and onet.pt into a folder that `from_pretrained` reads."""
    check_destination(destination, overwrite)
    model = FaceDetectorModel(FaceDetectorConfig()).eval()
    files = []
    for name, (network, modules) in NETWORKS.items():
        if Path(source).exists() and not (Path(source) / name).is_file():
            raise InputError(f"{source} lacks {name}: give the folder that holds {', '.join(NETWORKS)}")
        files.append(find_file(str(Path(source) / name) if Path(source).exists() else f"{source}:{name}"))
        _fill(model.get_submodule(network), modules, files[-1])
    write_checkpoint(destination, model, FaceDetectorImageProcessor(), files, "timesler/facenet-pytorch", NOTE, "mit")
    return model


def _fill(network: nn.Module, modules: dict[str, str], file: Path) -> None:
    """Load a foreign file into one of our networks, when the two agree in every name and shape."""
    theirs = read_state_dict(file)
    ours = network.state_dict()
    names = {key: f"{modules[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}" for key in ours}
    shapes = {name: ours[key].shape for key, name in names.items()}
    check_layout(theirs, shapes, str(file), "a network of the MTCNN in timesler/facenet-pytorch")
    weights = {key: theirs[name] for key, name in names.items()}
    if "dense.weight" in weights:
        # there the last map (3 x 3) is read column by column, all channels of a pixel together
        weights["dense.weight"] = weights["dense.weight"].unflatten(1, (3, 3, -1)).permute(0, 3, 2, 1).flatten(1)
    network.load_state_dict(weights)


__all__ = ["convert_mtcnn"]
