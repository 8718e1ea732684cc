"""`hfembed convert dlib`: generated files of dlib's serialization, damaged ones, and the public one against dlib."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from hfembed.convert.dlib import _DlibFile, _read, convert_dlib
from hfembed.errors import InputError
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from tests.convert.foreign_networks import convert, package_file, synthetic_crops

PUBLIC_FILE = ("face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat")
# channels and whether it strides, of the fourteen blocks
BLOCKS = [(32, False)] * 3 + [(64, True)] + [(64, False)] * 3 + [(128, True)] + [(128, False)] * 2
BLOCKS += [(256, True), (256, False), (256, False), (256, True)]


def integer(value):
    magnitude = abs(value).to_bytes(max((abs(value).bit_length() + 7) // 8, 1), "little")
    return bytes([len(magnitude) | (0x80 if value < 0 else 0)]) + magnitude


def number(value):
    mantissa, exponent = math.frexp(value)
    return integer(int(mantissa * 2**53)) + integer(exponent - 53)


def text(value):
    return integer(len(value)) + value.encode()


def shape(*sides):
    return b"".join(map(integer, [*sides, *[1] * (4 - len(sides))]))


def tensor(values):
    return integer(2) + shape(values.numel()) + values.float().numpy().astype("<f4").tobytes()


NO_TENSOR = integer(2) + shape(0, 0, 0, 0)
AFTER_A_LAYER = b"110" + NO_TENSOR * 3


class DlibNetwork:
    """Random weights: as a file, and as a function. `changes` are of the parts of the file, by name."""

    def __init__(self, **changes):
        self.convs, self.affines, self.before = [], [], 3
        self.convolution(32, 7)
        for channels, _ in BLOCKS:
            self.convolution(channels, 3)
            self.convolution(channels, 3)
        self.linear = torch.randn(256, 128) / 16
        self.changes = changes

    def convolution(self, channels, side):
        weight = torch.randn(channels, self.before, side, side) * (2 / (self.before * side * side)) ** 0.5
        self.convs.append((weight, 0.1 * torch.randn(channels)))
        self.affines.append((0.3 + 0.6 * torch.rand(channels), 0.1 * torch.randn(channels)))
        self.before = channels

    def layer(self, details, place=0):
        return self.changes.get(place, details) + AFTER_A_LAYER

    def con(self, index, stride):
        weight, bias = self.convs[index]
        side = weight.shape[-1]
        padding = 0 if stride == 2 else side // 2
        layout = b"".join(map(integer, (side, side, stride, stride, padding, padding)))
        parameters = tensor(torch.cat([weight.flatten(), bias]))
        parts = integer(1) + shape(*weight.shape) + integer(1) + shape(1, len(bias))
        details = text("con_4") + parameters + integer(len(bias)) + layout + parts + number(1) * 4
        gamma, beta = self.affines[index]
        parts = (integer(1) + shape(1, len(beta))) * 2
        affine = text("affine_") + tensor(torch.cat([gamma, beta])) + parts + integer(0)
        return self.layer(details, f"con {index}") + self.layer(affine, f"affine {index}")

    def file(self):
        relu = self.layer(text("relu_"), "relu")
        pool = b"".join(map(integer, (2, 2, 2, 2, 0, 0)))
        parts = [self.con(0, 2), relu, self.layer(text("max_pool_2") + b"".join(map(integer, (3, 3, 2, 2, 0, 0))))]
        versions = [3, 2, 2, 2]
        for index, (_, strides) in enumerate(BLOCKS):
            parts += [self.con(2 * index + 1, 2 if strides else 1), relu, self.con(2 * index + 2, 1)]
            versions += [1, 2, 2, 2, 2, 2]
            if strides:
                parts.append(self.layer(text("avg_pool_2") + pool))
                versions += [1, 1, 2]
            parts += [self.layer(text("add_prev_"), "sum"), relu]
            versions += [2, 2]
        parts.append(self.layer(text("avg_pool_2") + b"".join(map(integer, (0, 0, 1, 1, 0, 0)))))
        linear = integer(128) + integer(256) + tensor(self.linear) + integer(1) + shape(256, 128)
        linear += integer(1) + shape(0, 0, 0, 0) + integer(1) + number(1) * 4
        parts.append(self.layer(text("fc_2") + linear))
        versions += [2, 2]
        # the innermost layer's last value: samples per sample
        first = parts[0].index(AFTER_A_LAYER) + len(AFTER_A_LAYER)
        parts[0] = parts[0][:first] + integer(1) + parts[0][first:]
        mean = number(122.782) + number(117.001) + number(104.298)
        head = self.changes.get("loss", text("loss_metric_2") + number(0.04) + number(0.6))
        image = text("input_rgb_image_sized") + mean + self.changes.get("size", integer(150) * 2)
        versions = b"".join(map(integer, reversed(versions)))
        return integer(1) + head + self.changes.get("versions", versions) + image + b"".join(parts)

    def forward(self, pixels):
        """(B, 3, 150, 150) in [0, 255] -> (B, 128), as dlib defines the layers."""

        def con(x, index, stride=1):
            weight, bias = self.convs[index]
            x = F.conv2d(x, weight, bias, stride, 0 if stride == 2 else weight.shape[-1] // 2)
            gamma, beta = (values.view(-1, 1, 1) for values in self.affines[index])
            return gamma * x + beta

        x = (pixels - torch.tensor([122.782, 117.001, 104.298]).view(3, 1, 1)) / 256
        x = F.max_pool2d(F.relu(con(x, 0, 2)), 3, 2)
        for index, (_, strides) in enumerate(BLOCKS):
            y = con(F.relu(con(x, 2 * index + 1, 2 if strides else 1)), 2 * index + 2)
            if strides:
                x = F.avg_pool2d(x, 2)
            z = torch.zeros(len(x), *(max(pair) for pair in zip(x.shape[1:], y.shape[1:], strict=True)))
            for part in (x, y):
                z[:, : part.shape[1], : part.shape[2], : part.shape[3]] += part
            x = F.relu(z)
        return x.mean((2, 3)) @ self.linear


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DlibNetwork()


@pytest.fixture(scope="module")
def empty_model():
    config = FaceEmbedderConfig(trunk="dlib_resnet29", image_size=[150, 150], embedding_size=128, bn_neck=False)
    return FaceEmbedderModel(config)


@torch.no_grad()
def test_the_folder_gives_the_networks_embeddings(network, tmp_path):
    (tmp_path / "net.dat").write_bytes(network.file())
    assert "dlib_resnet29, embeddings of 128" in convert("dlib", tmp_path / "net.dat", tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    crops = synthetic_crops(processor)
    expected = network.forward(torch.from_numpy(crops).permute(0, 3, 1, 2).float())
    outputs = model(processor(list(crops)).pixel_values)
    torch.testing.assert_close(outputs.embeddings, F.normalize(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.norms, expected.norm(dim=1), rtol=1e-4, atol=0)
    assert torch.pdist(outputs.embeddings).min() > 1e-3
    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["license"] == "cc0-1.0" and "net.dat" in training["source"]


def read(content, model):
    return _read(_DlibFile(content, "net.dat"), model)


def con(weight=(32, 3, 7, 7), layout=(7, 7, 2, 2, 0, 0), name="con_4", parameters=None, filters=32):
    values = torch.zeros(math.prod(weight) + filters)
    parts = integer(1) + shape(*weight) + integer(1) + shape(1, filters)
    parameters = tensor(values) if parameters is None else parameters
    numbers = b"".join(map(integer, layout))
    return text(name) + parameters + integer(filters) + numbers + parts + number(1) * 4


def huge(*sides):
    return integer(2) + shape(*sides)


CHANGES = {
    "'loss_mmod' instead of loss_metric_": {"loss": text("loss_mmod")},
    "a name of 1,000,000,000 letters": {"loss": integer(10**9)},
    "a name of -1 letters": {"loss": integer(-1)},
    "no integer begins with 16": {"versions": b"\x10"},
    "version 9 instead of 1 or 2": {"versions": integer(9)},
    "images of \\[96, 96\\]": {"size": integer(96) * 2},
    "it ends too early": {"con 0": con(parameters=huge(1 << 30, 1 << 30, 1 << 30, 1 << 30))},
    "a tensor of shape": {"con 0": con(parameters=huge(1 << 40))},
    "shape \\[-1": {"con 0": con(parameters=huge(-1))},
    "parameters for shapes": {"con 0": con(parameters=tensor(torch.zeros(9)))},
    "non-finite numbers": {"con 0": con(parameters=tensor(torch.tensor([math.nan])))},
    "padding \\[7, 7, 2, 2, 3, 3\\]": {"con 0": con(layout=(7, 7, 2, 2, 3, 3))},
    "size mismatch": {"con 0": con(weight=(32, 1, 7, 7))},
    "'bn_con2' instead of affine_": {"affine 0": text("bn_con2")},
    "weights and 32 biases of 3 filters": {
        "con 0": con().replace(integer(32) + integer(7), integer(3) + integer(7), 1)
    },
    "no switch": {"relu": text("relu_2") + b"7"},
    "'prelu_' instead of": {"relu": text("prelu_")},
    "switched off": {"relu": text("relu_2") + b"1"},
}


@pytest.mark.parametrize("words", CHANGES)
def test_other_content_is_refused_in_one_line(words, network, empty_model):
    network.changes = CHANGES[words]
    try:
        content = network.file()
    finally:
        network.changes = {}
    with pytest.raises(InputError, match=words) as caught:
        read(content, empty_model)
    assert str(caught.value).startswith("net.dat") and "\n" not in str(caught.value)


def test_a_file_cut_anywhere_or_too_long_is_refused(network, empty_model):
    content = network.file()
    generator = np.random.default_rng(0)
    for length in [0, 1, 5, 100, *generator.integers(200, len(content), 40).tolist(), len(content) - 1]:
        with pytest.raises(InputError, match="damaged"):
            read(content[:length], empty_model)
    with pytest.raises(InputError, match="more follows"):
        read(content + b"1", empty_model)


def test_flipped_bits_are_an_error_in_one_line_or_another_network(network, empty_model):
    content = network.file()
    generator = np.random.default_rng(1)
    for _ in range(60):
        changed = bytearray(content)
        changed[int(generator.integers(0, 800))] ^= 1 << int(generator.integers(0, 8))
        try:
            read(bytes(changed), empty_model)
        except InputError as error:
            assert "\n" not in str(error)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "net.dat", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="net.dat has 1,099,511,627,776 bytes"):
        convert_dlib(str(tmp_path / "net.dat"), tmp_path / "out")


@pytest.fixture(scope="module")
def public_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dlib") / "out"
    convert_dlib(str(package_file(*PUBLIC_FILE)), folder)
    return folder


@torch.no_grad()
def test_the_public_file_on_real_crops(public_folder, real_crops):
    dlib = pytest.importorskip("dlib")
    network = dlib.face_recognition_model_v1(str(package_file(*PUBLIC_FILE)))
    crops = [np.asarray(Image.fromarray(crop).resize((150, 150))) for crop in real_crops]
    expected = torch.tensor(np.array([network.compute_face_descriptor(crop) for crop in crops]))
    model = AutoModel.from_pretrained(public_folder).eval()
    outputs = model(AutoImageProcessor.from_pretrained(public_folder)(crops).pixel_values)
    assert F.cosine_similarity(expected, outputs.embeddings).min() > 0.99999
    torch.testing.assert_close(outputs.norms.double(), expected.norm(dim=1), rtol=1e-5, atol=0)


# dlib's five points (corners of the eyes from right to left, base of the nose) in a face of unit size
DLIB_POINTS = [(0.8595675, 0.2134982), (0.6460605, 0.2289674), (0.1205751, 0.2137275), (0.3340851, 0.2290642)]
DLIB_POINTS += [(0.4901123, 0.6277975)]


@torch.no_grad()
@pytest.mark.parametrize(("scale", "degrees"), [(0.7, 5), (0.75, -20)])
def test_the_crop_is_dlibs_chip(scale, degrees, public_folder, real_crops):
    dlib = pytest.importorskip("dlib")
    network = dlib.face_recognition_model_v1(str(package_file(*PUBLIC_FILE)))
    model = AutoModel.from_pretrained(public_folder).eval()
    processor = AutoImageProcessor.from_pretrained(public_folder)
    turn = np.deg2rad(degrees)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def to_photo(points):  # in a chip of 150 pixels, its center at 75
        return (np.asarray(points) - 75) @ rotation.T + [56, 62]

    # whole pixels are all that dlib takes: points of a photo twice as large
    parts = np.round(2 * to_photo((np.array(DLIB_POINTS) + 0.25) / 1.5 * 150)).astype(int)
    landmarks = 2 * to_photo(np.array(processor.template) + 0.5)
    for crop in real_crops[:4]:
        photo = np.asarray(Image.fromarray(crop).resize((224, 224), Image.Resampling.BICUBIC))
        face = dlib.full_object_detection(dlib.rectangle(0, 0, 223, 223), [dlib.point(*part) for part in parts])
        chip = dlib.get_face_chip(photo, face, 150, 0.25)
        ours = processor.align(photo, landmarks)
        # the face itself: around it, dlib's rounded points turn the chip a little
        assert np.abs(ours.astype(int) - chip)[40:110, 40:110].mean() < 3
        expected = torch.tensor(np.array(network.compute_face_descriptor(chip)))
        embedding = model(processor(ours).pixel_values).embeddings[0]
        assert torch.cosine_similarity(expected, embedding, dim=0) > 0.995
