"""`hfembed export onnx`: files that onnxruntime runs for any batch, equal to torch."""

import json
import sys

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModel
from typer.testing import CliRunner

from hfembed.cli import app
from hfembed.errors import InputError
from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel
from hfembed.models.face_detector.configuration_face_detector import FaceDetectorConfig
from hfembed.models.face_detector.image_processing_face_detector import FaceDetectorImageProcessor
from hfembed.models.face_detector.modeling_face_detector import FaceDetectorModel
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.restoration_autoencoder.configuration_restoration_autoencoder import RestorationAutoencoderConfig
from hfembed.models.restoration_autoencoder.modeling_restoration_autoencoder import RestorationAutoencoderModel
from tests.checkpoint.checkpoints import write_checkpoint

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def export(folder, output):
    result = CliRunner().invoke(app, ["export", "onnx", str(folder), str(output)])
    assert result.exit_code == 0, result.output or result.exception
    return result.stdout


def save_face_embedder(folder, size=(64, 64), color="rgb", **fields):
    torch.manual_seed(0)
    config = FaceEmbedderConfig(image_size=list(size), embedding_size=24, **fields)
    model = FaceEmbedderModel(config)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() < 2 and tensor.is_floating_point():
                tensor.add_(0.5 * torch.rand_like(tensor))
    model.save_pretrained(folder)
    FaceImageProcessor(size=list(size), color=color, image_std=128 / 255).save_pretrained(folder)


def check(file, function, shape):
    """The file computes `function` for batches of one, two and five."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert isinstance(given.shape[0], str) and given.shape[1:] == list(shape)
    for batch_size in (1, 2, 5):
        values = np.random.default_rng(batch_size).standard_normal((batch_size, *shape), dtype=np.float32)
        with torch.no_grad():
            expected = function(torch.from_numpy(values)).numpy()
        (found,) = session.run(None, {given.name: values})
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_a_face_detector_is_its_three_networks(tmp_path):
    torch.manual_seed(0)
    FaceDetectorModel(FaceDetectorConfig()).save_pretrained(tmp_path / "saved")
    FaceDetectorImageProcessor().save_pretrained(tmp_path / "saved")
    export(tmp_path / "saved", tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "saved").eval()
    for name, shapes in (
        ("proposal", [(1, 3, 12, 12), (2, 3, 61, 80), (3, 3, 100, 33)]),
        ("refinement", [(1, 3, 24, 24), (5, 3, 24, 24)]),
        ("landmark", [(1, 3, 48, 48), (5, 3, 48, 48)]),
    ):
        session = onnxruntime.InferenceSession(tmp_path / "out" / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for shape in shapes:
            pixels = torch.randn(shape)
            found = session.run(None, {"pixel_values": pixels.numpy()})
            for ours, theirs in zip(getattr(model, name)(pixels), found, strict=True):
                torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["hfembed_yunet", "hfembed_retinaface"])
@torch.no_grad()
def test_a_detector_of_one_network_for_photos_of_any_size(model_type, tmp_path):
    write_checkpoint(model_type, tmp_path / "saved")
    export(tmp_path / "saved", tmp_path / "detector.onnx")
    model = AutoModel.from_pretrained(tmp_path / "saved").eval()
    session = onnxruntime.InferenceSession(tmp_path / "detector.onnx", providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 32, 64), (2, 3, 96, 32)):
        pixels = 255 * torch.rand(shape)
        for ours, theirs in zip(
            model.predict(pixels), session.run(None, {"pixel_values": pixels.numpy()}), strict=True
        ):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-3, rtol=1e-4)


def check_face_embedder(tmp_path, **fields):
    save_face_embedder(tmp_path / "saved", **fields)
    export(tmp_path / "saved", tmp_path / "face.onnx")
    model = AutoModel.from_pretrained(tmp_path / "saved")
    check(tmp_path / "face.onnx", model.embed, (3, *model.config.image_size))


@pytest.mark.slow
@pytest.mark.parametrize("mirror", ["concatenate", "none"])
def test_a_face_embedder_with_its_mirror(mirror, tmp_path):
    arguments = {"depths": [1, 1], "widths": [8, 16], "use_se": True}
    check_face_embedder(tmp_path, size=(24, 20), trunk="iresnet", trunk_arguments=arguments, mirror=mirror)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trunk", "size"),
    [
        *((trunk, (112, 112)) for trunk in ("iresnet18", "iresnet34", "iresnet50", "iresnet100", "vit_t")),
        ("mobilefacenet", (112, 96)),
        ("inception_resnet_v1", (160, 160)),
        ("sface", (112, 112)),
        ("dlib_resnet29", (150, 150)),
        *((f"timm/{name}", (64, 64)) for name in ("test_resnet", "test_vit", "test_convnext", "resnetblur18")),
        ("timm/swin_tiny_patch4_window7_224", (112, 112)),
        ("timm/mobilenetv3_small_050", (64, 64)),
    ],
)
def test_every_trunk(trunk, size, tmp_path):
    check_face_embedder(tmp_path, trunk=trunk, size=size)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"bottleneck": "dense", "variational": True}, {}])
def test_an_autoencoder_is_two_files(fields, tmp_path):
    torch.manual_seed(0)
    config = ConvAutoencoderConfig(image_size=[16, 16], widths=[4, 8], latent_channels=3, **fields)
    ConvAutoencoderModel(config).save_pretrained(tmp_path / "saved")
    ConvAutoencoderImageProcessor().save_pretrained(tmp_path / "saved")
    export(tmp_path / "saved", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"encoder.onnx", "decoder.onnx"}
    model = AutoModel.from_pretrained(tmp_path / "saved").eval()
    check(tmp_path / "out" / "encoder.onnx", model.encode, (3, 16, 16))
    check(tmp_path / "out" / "decoder.onnx", model.decode, config.latent_shape)


@pytest.mark.slow
def test_a_restoration_autoencoder_is_one_file(tmp_path):
    torch.manual_seed(0)
    config = RestorationAutoencoderConfig(image_size=[16, 16], widths=[4, 8], latent_channels=3)
    model = RestorationAutoencoderModel(config).eval()
    torch.nn.init.normal_(model.decoder.conv_out.weight)
    model.save_pretrained(tmp_path / "saved")
    ConvAutoencoderImageProcessor().save_pretrained(tmp_path / "saved")
    export(tmp_path / "saved", tmp_path / "denoise.onnx")
    check(tmp_path / "denoise.onnx", lambda values: model(values).reconstruction, (3, 16, 16))


def test_the_file_computes_the_embeddings_and_says_how_to_make_its_input(tmp_path):
    arguments = {"depths": [1], "widths": [4]}
    fields = {"trunk": "iresnet", "trunk_arguments": arguments, "mirror": "sum"}
    save_face_embedder(tmp_path / "saved", size=(24, 20), color="bgr", **fields)
    assert "face.onnx" in export(tmp_path / "saved", tmp_path / "face.onnx")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".onnx"] == ["face.onnx"]
    check(tmp_path / "face.onnx", AutoModel.from_pretrained(tmp_path / "saved").embed, (3, 24, 20))
    session = onnxruntime.InferenceSession(tmp_path / "face.onnx", providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert told["model_type"] == "hfembed_face_embedder" and json.loads(told["input_shape"]) == ["batch", 3, 24, 20]
    settings = json.loads(told["preprocessor"])
    # enough to make pixels without this package
    photo = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    assert settings["color"] == "bgr"
    pixels = (photo[:, :, ::-1] / 255 - settings["image_mean"]) / settings["image_std"]
    expected = AutoImageProcessor.from_pretrained(tmp_path / "saved")(photo).pixel_values[0]
    np.testing.assert_allclose(pixels.transpose(2, 0, 1), expected, atol=1e-5)


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    from hfembed.export.onnx import export_onnx

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r'onnxruntime: pip install "hfembed\[onnx\]"'):
        export_onnx(str(tmp_path), tmp_path / "face.onnx")


@pytest.mark.slow
def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch):
    import hfembed.export.onnx as module

    arguments = {"depths": [1], "widths": [4]}
    save_face_embedder(tmp_path / "saved", size=(16, 16), trunk="iresnet", trunk_arguments=arguments)
    monkeypatch.setattr(module, "TOLERANCE", 0.0)
    with pytest.raises(RuntimeError, match="differs from torch"):
        module.export_onnx(str(tmp_path / "saved"), tmp_path / "out" / "face.onnx")
    assert not list((tmp_path / "out").iterdir())


def test_words_have_no_network(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "hfembed_word2vec"}')
    result = CliRunner().invoke(app, ["export", "onnx", str(tmp_path), str(tmp_path / "words.onnx")])
    assert result.exit_code == 1 and "no network is exported" in str(result.exception)
