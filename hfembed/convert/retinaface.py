"""The RetinaFace weights of biubug6, as a face detector folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from hfembed.atomic import check_destination
from hfembed.convert.batch_norms import convolution, norm_shapes
from hfembed.convert.foreign_checkpoint import check_layout, find_file, read_state_dict, write_checkpoint
from hfembed.models.retinaface.configuration_retinaface import RetinaFaceConfig
from hfembed.models.retinaface.image_processing_retinaface import RetinaFaceImageProcessor
from hfembed.models.retinaface.modeling_retinaface import STAGES, RetinaFaceModel

# two repositories have weights of one layout, to be used with different activations and priors
Trainer = Literal["Face-Detector-1MB-with-landmark", "Pytorch_Retinaface"]
SETTINGS: dict[Trainer, RetinaFaceConfig] = {
    "Face-Detector-1MB-with-landmark": RetinaFaceConfig(),
    "Pytorch_Retinaface": RetinaFaceConfig(negative_slope=0.1, min_sizes=[[16, 32], [64, 128], [256, 512]]),
}
NOTE = "That repository is under the MIT license and trains on WIDER FACE."
_CONTEXT = {
    "near": "conv3X3",
    "shared.conv": "conv5X5_1",
    "middle": "conv5X5_2",
    "further.conv": "conv7X7_2",
    "far": "conv7x7_3",
}
# head -> numbers per prior, in our order
_HEADS = {"ClassHead": 2, "BboxHead": 4, "LandmarkHead": 10}


def convert_retinaface(
    source: str,
    destination: str | Path,
    overwrite: bool = False,
    trainer: Trainer = "Face-Detector-1MB-with-landmark",
) -> RetinaFaceModel:
    """Turn biubug6's `mobilenet0.25_Final.pth` into a folder that `from_pretrained` reads.

    Args:
        source: The file.
        destination: The folder.
        overwrite: Replace the folder if it exists.
        trainer: Which of biubug6's repositories the file is from; it does not say so itself.

    Raises:
        InputError: The source cannot be read, or is another network.
    """
    check_destination(destination, overwrite)
    file = find_file(source, ["mobilenet0.25_Final.pth"])
    theirs = read_state_dict(file)
    model = RetinaFaceModel(SETTINGS[trainer]).eval()
    ours = {key: value.shape for key, value in model.state_dict().items()}

    shapes: dict[str, tuple[int, ...]] = {}
    for name, conv, norm in _convolutions():
        shapes[f"{conv}.weight"] = tuple(ours[f"{name}.weight"])
        shapes |= norm_shapes(norm, len(model.get_parameter(f"{name}.bias")))
    priors, width = len(model.config.min_sizes[0]), model.config.feature_width
    for head, numbers in _HEADS.items():
        for level in range(3):
            shapes[f"{head}.{level}.conv1x1.weight"] = (priors * numbers, width, 1, 1)
            shapes[f"{head}.{level}.conv1x1.bias"] = (priors * numbers,)
    # the trunk's classifier, which some files still have
    theirs = {key: value for key, value in theirs.items() if not key.startswith("body.fc.")}
    check_layout(theirs, shapes, str(file), f"a RetinaFace of biubug6/{trainer}")

    weights: dict[str, torch.Tensor] = {}
    for name, conv, norm in _convolutions():
        weights[f"{name}.weight"], weights[f"{name}.bias"] = convolution(theirs, conv, norm)
    weights["stem.conv.weight"] = weights["stem.conv.weight"].flip(1)  # it was trained on BGR
    for level in range(3):
        for kind in ("weight", "bias"):
            # theirs are three layers with all priors in each, ours is one with all numbers of a prior together
            parts = [theirs[f"{head}.{level}.conv1x1.{kind}"].unflatten(0, (priors, -1)) for head in _HEADS]
            weights[f"heads.{level}.{kind}"] = torch.cat(parts, 1).flatten(0, 1)
    model.load_state_dict(weights)
    write_checkpoint(destination, model, RetinaFaceImageProcessor(), [file], f"biubug6/{trainer}", NOTE, "mit")
    return model


def _convolutions() -> Iterator[tuple[str, str, str]]:
    """Our convolution, the original's, and the BatchNorm behind it."""
    yield "stem.conv", "body.stage1.0.0", "body.stage1.0.1"
    for stage, blocks in enumerate(STAGES):
        for number in range(len(blocks)):
            # the original's stem is the first block of the first stage
            theirs = f"body.stage{stage + 1}.{number + (stage == 0)}"
            yield f"stages.{stage}.{2 * number}.conv", f"{theirs}.0", f"{theirs}.1"
            yield f"stages.{stage}.{2 * number + 1}.conv", f"{theirs}.3", f"{theirs}.4"
    for level in range(3):
        yield f"laterals.{level}.conv", f"fpn.output{level + 1}.0", f"fpn.output{level + 1}.1"
        for ours, name in _CONTEXT.items():
            yield f"contexts.{level}.{ours}", f"ssh{level + 1}.{name}.0", f"ssh{level + 1}.{name}.1"
    for level in range(2):
        yield f"merges.{level}.conv", f"fpn.merge{level + 1}.0", f"fpn.merge{level + 1}.1"


__all__ = ["Trainer", "convert_retinaface"]
