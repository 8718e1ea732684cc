"""What frozen networks make of reconstructions."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from hfembed.errors import InputError
from hfembed.faces.perceptual_networks import FaceEmbeddings, TimmFeatures, load_features
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.training.perceptual_loss import embedding_distance, feature_distance


def test_feature_distance_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(2, 3, 4, 5, generator=generator), torch.randn(2, 6, 2, 2, generator=generator)]
    theirs = [torch.randn(feature.shape, generator=generator) for feature in ours]
    expected = 0.0
    for x, y, weight in zip(ours, theirs, (0.5, 2.0), strict=True):
        distances = [
            (x[b, :, i, j] / x[b, :, i, j].norm() - y[b, :, i, j] / y[b, :, i, j].norm()).square().sum()
            for b in range(2) for i in range(x.shape[2]) for j in range(x.shape[3])
        ]  # fmt: skip
        expected += weight * torch.stack(distances).mean()
    torch.testing.assert_close(feature_distance(ours, theirs, (0.5, 2.0)), expected)


def test_embedding_distance_is_one_minus_the_cosine():
    x, y = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(embedding_distance(x, y), 1 - F.cosine_similarity(x, y).mean())


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_at_zero_and_at_equality_are_finite(value):
    features = torch.full((2, 3, 4, 4), value, requires_grad=True)
    feature_distance([features], [torch.full((2, 3, 4, 4), value)], [1.0]).backward()
    assert features.grad.isfinite().all()
    embeddings = torch.full((2, 3), value, requires_grad=True)
    embedding_distance(embeddings, torch.full((2, 3), value)).backward()
    assert embeddings.grad.isfinite().all()


def test_features_of_a_timm_network(tmp_path):
    torch.manual_seed(0)
    pretrained = timm.create_model("test_resnet", pretrained=False)
    torch.save(pretrained.state_dict(), tmp_path / "weights.pt")
    features = TimmFeatures("test_resnet", [1, 2], str(tmp_path / "weights.pt"))
    reconstruction = torch.rand(2, 1, 32, 32, requires_grad=True)
    maps = features(reconstruction)
    direct = timm.create_model("test_resnet", pretrained=False, features_only=True, out_indices=(1, 2))
    direct.load_state_dict(features.network.state_dict())
    settings = pretrained.pretrained_cfg
    mean, std = (torch.tensor(settings[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    for ours, expected in zip(maps, direct.eval()((reconstruction.expand(-1, 3, -1, -1) - mean) / std), strict=True):
        torch.testing.assert_close(ours, expected)
    feature_distance(maps, [feature.detach() + 1 for feature in maps], [1.0, 1.0]).backward()
    assert reconstruction.grad.abs().max() > 0 and all(not p.requires_grad for p in features.parameters())
    with pytest.raises(InputError, match="no features"):
        TimmFeatures("test_resnet", [1, 9], str(tmp_path / "weights.pt"))


@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
def test_features_of_a_face_embedder_are_what_its_stages_give(tmp_path, color):
    torch.manual_seed(0)
    channels = 1 if color == "gray" else 3
    config = FaceEmbedderConfig(
        trunk="iresnet", trunk_arguments={"depths": [1, 1], "widths": [8, 12]}, image_size=[32, 32],
        num_channels=channels,
    )  # fmt: skip
    embedder, processor = FaceEmbedderModel(config).eval(), FaceImageProcessor(size=[32, 32], color=color)
    embedder.save_pretrained(tmp_path / "embedder")
    processor.save_pretrained(tmp_path / "embedder")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    photos = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    images = (pixels / 255).requires_grad_()
    hidden = processor(photos, landmarks=[processor.template] * 2).pixel_values  # as its own processor reads photos
    expected = []
    for stage in (embedder.trunk.stem, *embedder.trunk.stages):
        hidden = stage(hidden)
        expected.append(hidden)
    maps = load_features(str(tmp_path / "embedder"), [2, 0])(images)
    for ours, theirs in zip(maps, (expected[2], expected[0]), strict=True):
        # gray is rounded to whole numbers there
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.06 if color == "gray" else 1e-4)
    maps[0].sum().backward()
    assert images.grad.abs().max() > 0
    with pytest.raises(InputError, match="no features .3. of the trunk iresnet: it has 3, from 0"):
        load_features(str(tmp_path / "embedder"), [3])


def test_embeddings_of_crops_are_those_of_aligned_faces():
    """The crop is warped as the embedder's own processor would align it."""
    torch.manual_seed(0)
    config = FaceEmbedderConfig(
        trunk="iresnet", trunk_arguments={"depths": [1], "widths": [8]}, image_size=[32, 28], num_channels=1
    )
    processor = FaceImageProcessor(size=[32, 28], color="gray")
    embedder = FaceEmbedderModel(config).eval()
    points = np.array([[22.0, 25.0], [41.0, 23.0], [32.0, 36.0], [25.0, 46.0], [40.0, 45.0]])
    smooth = F.interpolate(torch.rand(1, 1, 8, 8), size=64, mode="bicubic").clamp(0, 1)
    photo = Image.fromarray(smooth[0, 0].mul(255).round().to(torch.uint8).numpy())
    expected = embedder(processor(photo, landmarks=points).pixel_values).embeddings
    crop = torch.from_numpy(np.array(photo))[None, None].float() / 255
    ours = FaceEmbeddings(embedder, processor, points)(crop)
    assert F.cosine_similarity(ours, expected).item() > 0.98
    torch.testing.assert_close(FaceEmbeddings(embedder, processor, points + 9)(crop, points[None]), ours)
