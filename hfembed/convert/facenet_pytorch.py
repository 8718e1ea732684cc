"""InceptionResnetV1 of facenet-pytorch, trained on VGGFace2 or CASIA-WebFace, as a face embedder folder."""

from pathlib import Path
from typing import Any

from hfembed.atomic import check_destination
from hfembed.convert.foreign_checkpoint import (
    check_layout,
    fill,
    find_file,
    read_state_dict,
    weights_of,
    write_checkpoint,
)
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification, FaceEmbedderModel

TRAINER = "timesler/facenet-pytorch"
# that trainer's BatchNorm, as TensorFlow's; the trunk's has the same, the one after the last layer torch's 1e-5
_FOREIGN_EPS, _OUR_EPS = 1e-3, 1e-5

# Eyes, nose and mouth corners in that network's training crops: MTCNN's box in 138 of 182 pixels, the middle 160 of
# them; median over 99 photos, made symmetric. The boxes were squeezed into squares, which no similarity can imitate.
_TEMPLATE = ((47.2, 65.0), (111.8, 65.0), (79.5, 93.9), (50.4, 114.6), (108.6, 114.6))

# our module -> its module
_MODULES = (
    {
        "trunk.stem.0": "conv2d_1a",
        "trunk.stem.1": "conv2d_2a",
        "trunk.stem.2": "conv2d_2b",
        "trunk.stem.4": "conv2d_3b",
        "trunk.stem.5": "conv2d_4a",
        "trunk.stem.6": "conv2d_4b",
        "trunk.stages.1.0": "mixed_6a",
        "trunk.stages.2.0": "mixed_7a",
        "trunk.stages.2.6": "block8",
        "projection": "last_linear",
        "norm": "last_bn",
        "classifier": "logits",
    }
    | {f"trunk.stages.0.{index}": f"repeat_1.{index}" for index in range(5)}
    | {f"trunk.stages.1.{index + 1}": f"repeat_2.{index}" for index in range(10)}
    | {f"trunk.stages.2.{index + 1}": f"repeat_3.{index}" for index in range(5)}
)


def convert_facenet_pytorch(
    source: str, destination: str | Path, overwrite: bool = False, classifier: bool = False
) -> FaceEmbedderModel | FaceEmbedderForClassification:
    """Turn facenet-pytorch's InceptionResnetV1 into a folder that `from_pretrained` reads."""
    check_destination(destination, overwrite)
    file = find_file(source)
    tensors = read_state_dict(file, source)
    people: dict[str, Any] = {}
    if classifier and "logits.weight" in tensors:
        people = {"num_labels": len(tensors["logits.weight"])}
    config = FaceEmbedderConfig(
        trunk="inception_resnet_v1", image_size=[160, 160], embedding_size=512, dropout=0.6, **people
    )
    model = FaceEmbedderForClassification(config) if classifier else FaceEmbedderModel(config)
    ours = weights_of(model)
    keys = {key: _foreign_key(key.removeprefix("embedder.")) for key in ours}
    shapes = {keys[key]: value.shape for key, value in ours.items()}
    # trained with a classifier, the file has one whether it is wanted or not
    if not classifier:
        shapes |= {key: tensors[key].shape for key in ("logits.weight", "logits.bias") if key in tensors}
    check_layout(tensors, shapes, source, f"an InceptionResnetV1 of {TRAINER}")

    weights = {key: tensors[theirs] for key, theirs in keys.items()}
    variance = "embedder.norm.running_var" if classifier else "norm.running_var"
    weights[variance] = weights[variance] + (_FOREIGN_EPS - _OUR_EPS)
    fill(model, weights)
    # (x - 127.5) / 128, fixed, as all that library's networks see faces
    processor = FaceImageProcessor(size=160, template=_TEMPLATE, image_mean=0.5, image_std=128 / 255)
    note = (
        "That trainer's data is VGGFace2 or CASIA-WebFace, by the file's name; its code is under the MIT license. It "
        "saw detector boxes, neither turned nor of the faces' own proportions: crops by five points show faces as "
        "large, and are not the same."
    )
    write_checkpoint(destination, model, processor, [file], TRAINER, note)
    return model


def _foreign_key(key: str) -> str:
    module = next(ours for ours in _MODULES if key.startswith(ours + "."))
    inside = key.removeprefix(module)
    if module.startswith("trunk."):
        inside = inside.replace(".branches.", ".branch").replace(".mix.", ".conv2d.").replace(".norm.", ".bn.")
    return _MODULES[module] + inside
