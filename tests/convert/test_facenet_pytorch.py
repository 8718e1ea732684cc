"""`hfembed convert facenet-pytorch`: a generated file with the keys of the public ones (VGGFace2, CASIA-WebFace)."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from hfembed.convert import facenet_pytorch
from hfembed.convert.facenet_pytorch import convert_facenet_pytorch
from hfembed.convert.foreign_checkpoint import weights_of
from hfembed.errors import InputError
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification
from tests.convert.foreign_networks import Reference, StateDict, check_equal, convert

# the branches of each kind of block: channels in, then (channels out, kernel height, kernel width) a layer
BLOCKS = {
    "repeat_1": (256, [[(32, 1, 1)], [(32, 1, 1), (32, 3, 3)], [(32, 1, 1), (32, 3, 3), (32, 3, 3)]]),
    "mixed_6a": (256, [[(384, 3, 3)], [(192, 1, 1), (192, 3, 3), (256, 3, 3)]]),
    "repeat_2": (896, [[(128, 1, 1)], [(128, 1, 1), (128, 1, 7), (128, 7, 1)]]),
    "mixed_7a": (
        896,
        [[(256, 1, 1), (384, 3, 3)], [(256, 1, 1), (256, 3, 3)], [(256, 1, 1), (256, 3, 3), (256, 3, 3)]],
    ),
    "repeat_3": (1792, [[(192, 1, 1)], [(192, 1, 1), (192, 1, 3), (192, 3, 1)]]),
}
STEM = {
    "conv2d_1a": (3, 32, 3),
    "conv2d_2a": (32, 32, 3),
    "conv2d_2b": (32, 64, 3),
    "conv2d_3b": (64, 80, 1),
    "conv2d_4a": (80, 192, 3),
    "conv2d_4b": (192, 256, 3),
}
REPEATS = {"repeat_1": 5, "repeat_2": 10, "repeat_3": 5}


def blocks():
    """Name and kind of each block, in the network's order."""
    for index in range(5):
        yield f"repeat_1.{index}", "repeat_1"
    yield "mixed_6a", "mixed_6a"
    for index in range(10):
        yield f"repeat_2.{index}", "repeat_2"
    yield "mixed_7a", "mixed_7a"
    for index in range(5):
        yield f"repeat_3.{index}", "repeat_3"
    yield "block8", "repeat_3"


def layer_names(name, kind):
    """The layers of each branch; a branch of one layer has no index, except in mixed_7a."""
    for number, layers in enumerate(BLOCKS[kind][1]):
        single = len(layers) == 1
        yield [f"{name}.branch{number}" + ("" if single else f".{index}") for index in range(len(layers))], layers


def facenet_state_dict(people):
    state = StateDict()

    def unit(key, channels, out, height, width):
        state.conv(f"{key}.conv", out, channels, height, width)
        state.norm(f"{key}.bn", out)

    for key, (channels, out, side) in STEM.items():
        unit(key, channels, out, side, side)
    for name, kind in blocks():
        channels = BLOCKS[kind][0]
        for names, layers in layer_names(name, kind):
            before = channels
            for key, (out, height, width) in zip(names, layers, strict=True):
                unit(key, before, out, height, width)
                before = out
        if not name.startswith("mixed"):
            width = sum(layers[-1][0] for layers in BLOCKS[kind][1])
            state.conv(f"{name}.conv2d", channels, width, 1, 1)
            state[f"{name}.conv2d.bias"] = 0.1 * torch.randn(channels)
    state.linear("last_linear", 512, 1792, bias=False)
    state.norm("last_bn", 512)
    # TensorFlow's eps is a hundred times torch's: variances this small show which one was used
    state["last_bn.running_var"] *= 1e-3
    state.linear("logits", people, 512)
    return state


class Facenet(Reference):
    """Inception-ResNet-v1 from Szegedy et al. 2016 as that library has it: BatchNorm's eps 0.001, blocks scaled."""

    def unit(self, x, key, stride=1, padding=None):
        return torch.relu(self.norm(self.conv(x, f"{key}.conv", stride, padding), f"{key}.bn", eps=1e-3))

    def __call__(self, x):
        x = self.unit(x, "conv2d_1a", 2, 0)
        x = self.unit(x, "conv2d_2a", 1, 0)
        x = self.unit(x, "conv2d_2b")
        x = torch.max_pool2d(x, 3, 2)
        x = self.unit(x, "conv2d_3b")
        x = self.unit(x, "conv2d_4a", 1, 0)
        x = self.unit(x, "conv2d_4b", 2, 0)
        scale = {"repeat_1": 0.17, "repeat_2": 0.10, "repeat_3": 0.20}
        for name, kind in blocks():
            mixed = kind.startswith("mixed")
            branches = []
            for names, _ in layer_names(name, kind):
                y = x
                for key in names:
                    # the last layer of a reducing branch halves the map
                    y = self.unit(y, key, 2, 0) if mixed and key == names[-1] else self.unit(y, key)
                branches.append(y)
            if mixed:
                x = torch.cat([*branches, torch.max_pool2d(x, 3, 2)], 1)
            else:
                y = self.conv(torch.cat(branches, 1), f"{name}.conv2d")
                x = x + y if name == "block8" else torch.relu(x + scale[kind] * y)
        return self.norm(self.linear(x.mean((2, 3)), "last_linear"), "last_bn", eps=1e-3)


def test_every_weight_has_its_name_and_shape_in_the_file():
    with torch.device("meta"):
        state = facenet_state_dict(people=7)
        config = FaceEmbedderConfig(
            trunk="inception_resnet_v1", image_size=[160, 160], embedding_size=512, num_labels=7
        )
        ours = weights_of(FaceEmbedderForClassification(config))
    named = {facenet_pytorch._foreign_key(key.removeprefix("embedder.")): value.shape for key, value in ours.items()}
    assert named == {key: value.shape for key, value in state.items() if not key.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    torch.manual_seed(0)
    state = facenet_state_dict(people=7)
    folder = tmp_path_factory.mktemp("facenet")
    torch.save(OrderedDict(state), folder / "vggface2.pt")
    assert "inception_resnet_v1" in convert("facenet-pytorch", folder / "vggface2.pt", folder / "out")
    return state, folder


@pytest.mark.slow  # a network of 23 million weights
def test_the_folder_gives_the_original_networks_embeddings(converted):
    state, folder = converted
    check_equal(folder / "out", Facenet(state), (160, 160), std=128)


@torch.no_grad()
@pytest.mark.slow  # a network of 23 million weights
def test_the_classifier_stays_when_asked_for(converted):
    state, folder = converted
    convert("facenet-pytorch", folder / "vggface2.pt", folder / "people", "--classifier")
    check_equal(folder / "people", Facenet(state), (160, 160), std=128)
    pixels = torch.rand(2, 3, 160, 160)
    model = AutoModelForImageClassification.from_pretrained(folder / "people")
    reference = Facenet(state)
    torch.testing.assert_close(
        model(pixels).logits, reference.linear(reference(pixels), "logits"), atol=1e-3, rtol=1e-4
    )


@pytest.mark.slow  # a network of 23 million weights
def test_a_file_without_its_classifier_converts_unless_it_is_asked_for(converted, tmp_path):
    state, _ = converted
    torch.save(OrderedDict((key, value) for key, value in state.items() if "logits" not in key), tmp_path / "net.pt")
    convert_facenet_pytorch(str(tmp_path / "net.pt"), tmp_path / "out")
    with pytest.raises(InputError, match=r"2 missing \(logits"):
        convert_facenet_pytorch(str(tmp_path / "net.pt"), tmp_path / "people", classifier=True)


@pytest.mark.slow  # a network of 23 million weights
def test_another_network_is_refused_with_what_differs(converted, tmp_path):
    state, _ = converted
    state = OrderedDict(state)
    del state["block8.conv2d.bias"]
    state["last_linear.weight"] = torch.zeros(128, 1792)
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(InputError) as caught:
        convert_facenet_pytorch(str(tmp_path / "net.pt"), tmp_path / "out")
    assert "1 missing (block8.conv2d.bias)" in str(caught.value)
    assert "last_linear.weight (128, 1792) instead of (512, 1792)" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.data
def test_on_real_photos(converted, research_data):
    import io
    import tarfile

    from PIL import Image

    state, folder = converted
    photos = []
    with tarfile.open(research_data / "lfw" / "lfw-a.tgz") as archive:
        while len(photos) < 4:
            member = archive.next()
            if member.name.endswith(".jpg"):
                photo = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")
                photos.append(np.asarray(photo.crop((45, 45, 205, 205))))
    check_equal(folder / "out", Facenet(state), (160, 160), std=128, photos=np.stack(photos))
