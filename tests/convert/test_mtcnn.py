"""Converted MTCNN networks against the original's forward pass, written out by its own names."""

import os

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, AutoModel

from hfembed.convert.mtcnn import convert_mtcnn
from hfembed.errors import InputError

# name -> shape, in the files of facenet-pytorch
SHAPES = {
    "pnet.pt": {"conv1": (10, 3, 3, 3), "conv2": (16, 10, 3, 3), "conv3": (32, 16, 3, 3)}
    | {"prelu1": (10,), "prelu2": (16,), "prelu3": (32,), "conv4_1": (2, 32, 1, 1), "conv4_2": (4, 32, 1, 1)},
    "rnet.pt": {"conv1": (28, 3, 3, 3), "conv2": (48, 28, 3, 3), "conv3": (64, 48, 2, 2), "dense4": (128, 576)}
    | {
        "prelu1": (28,),
        "prelu2": (48,),
        "prelu3": (64,),
        "prelu4": (128,),
        "dense5_1": (2, 128),
        "dense5_2": (4, 128),
    },
    "onet.pt": {"conv1": (32, 3, 3, 3), "conv2": (64, 32, 3, 3), "conv3": (64, 64, 3, 3), "conv4": (128, 64, 2, 2)}
    | {"prelu1": (32,), "prelu2": (64,), "prelu3": (64,), "prelu4": (128,), "prelu5": (256,), "dense5": (256, 1152)}
    | {"dense6_1": (2, 256), "dense6_2": (4, 256), "dense6_3": (10, 256)},
}


def write_foreign_files(folder):
    generator = torch.Generator().manual_seed(0)
    for file, shapes in SHAPES.items():
        weights = {}
        for name, shape in shapes.items():
            fan_in = torch.Size(shape[1:]).numel()
            weights[f"{name}.weight"] = torch.randn(shape, generator=generator) / fan_in**0.5
            if not name.startswith("prelu"):
                weights[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
        torch.save(weights, folder / file)
    return folder


def original_forward(folder, file, pixels):
    """The outputs of the original's heads, by name."""
    weights = torch.load(folder / file, weights_only=True)
    pools = {"pnet.pt": {1: (2, 2)}, "rnet.pt": {1: (3, 2), 2: (3, 2)}, "onet.pt": {1: (3, 2), 2: (3, 2), 3: (2, 2)}}

    def layer(name, hidden):
        operation = F.conv2d if weights[f"{name}.weight"].ndim == 4 else F.linear
        return operation(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"])

    heads = [name for name in SHAPES[file] if "_" in name]
    hidden, number = pixels, 1
    while f"conv{number}.weight" in weights:
        hidden = F.prelu(layer(f"conv{number}", hidden), weights[f"prelu{number}.weight"])
        if number in pools[file]:
            hidden = F.max_pool2d(hidden, *pools[file][number], ceil_mode=True)
        number += 1
    dense = [name for name in SHAPES[file] if name.startswith("dense") and "_" not in name]
    if dense:
        hidden = layer(dense[0], hidden.permute(0, 3, 2, 1).flatten(1))
        hidden = F.prelu(hidden, weights[f"prelu{number}.weight"])
    return [layer(head, hidden) for head in heads]


def assert_same_numbers(folder, model, atol):
    generator = torch.Generator().manual_seed(1)
    for network, file, side in ((model.proposal, "pnet.pt", 41), (model.refinement, "rnet.pt", 24)):
        pixels = torch.randn(3, 3, side, side, generator=generator)
        face, box = original_forward(folder, file, pixels)
        scores, shifts = network(pixels)
        torch.testing.assert_close(scores, face.softmax(1)[:, 1], rtol=0, atol=atol)
        torch.testing.assert_close(shifts, box, rtol=0, atol=atol)
    pixels = torch.randn(3, 3, 48, 48, generator=generator)
    face, box, points = original_forward(folder, "onet.pt", pixels)
    scores, shifts, landmarks = model.landmark(pixels)
    torch.testing.assert_close(scores, face.softmax(1)[:, 1], rtol=0, atol=atol)
    torch.testing.assert_close(shifts, box, rtol=0, atol=atol)
    torch.testing.assert_close(landmarks[..., 0], points[:, :5], rtol=0, atol=atol)
    torch.testing.assert_close(landmarks[..., 1], points[:, 5:], rtol=0, atol=atol)


@torch.no_grad()
def test_the_converted_networks_give_the_original_numbers(tmp_path):
    write_foreign_files(tmp_path)
    convert_mtcnn(tmp_path, tmp_path / "detector")
    model = AutoModel.from_pretrained(tmp_path / "detector").eval()
    assert_same_numbers(tmp_path, model, 1e-5)
    assert AutoImageProcessor.from_pretrained(tmp_path / "detector").max_pixels > 0
    assert "pnet.pt" in (tmp_path / "detector" / "README.md").read_text()


@pytest.mark.data
@torch.no_grad()
def test_the_published_weights_give_the_original_numbers(research_data, tmp_path):
    source = research_data / "weights" / "mtcnn_facenet_pytorch"
    convert_mtcnn(source, tmp_path / "detector")
    assert_same_numbers(source, AutoModel.from_pretrained(tmp_path / "detector").eval(), 1e-5)


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(InputError, match="lacks pnet.pt: give the folder"):
        convert_mtcnn(tmp_path, tmp_path / "detector")
    write_foreign_files(tmp_path)
    weights = torch.load(tmp_path / "rnet.pt", weights_only=True)

    def refused(match):
        with pytest.raises(InputError, match=match):
            convert_mtcnn(tmp_path, tmp_path / "detector")
        assert not (tmp_path / "detector").exists()

    torch.save(weights | {"conv3.weight": torch.zeros(64, 48, 3, 3)}, tmp_path / "rnet.pt")
    refused(r"rnet.pt is not .*1 of another shape \(conv3.weight \(64, 48, 3, 3\) instead of \(64, 48, 2, 2\)\)")
    torch.save(weights | {"conv9.weight": torch.zeros(1)}, tmp_path / "rnet.pt")
    refused(r"rnet.pt is not .*1 unexpected \(conv9.weight\)")
    torch.save({"weights": os.getcwd}, tmp_path / "rnet.pt")
    refused("rnet.pt holds more than tensors")
    (tmp_path / "rnet.pt").write_bytes(b"\x80")
    refused("rnet.pt is damaged")


def test_a_taken_folder_is_not_overwritten(tmp_path):
    write_foreign_files(tmp_path)
    convert_mtcnn(tmp_path, tmp_path / "detector")
    with pytest.raises(InputError, match="already exists"):
        convert_mtcnn(tmp_path, tmp_path / "detector")
    convert_mtcnn(tmp_path, tmp_path / "detector", overwrite=True)
