"""The start of a warped code from what a face embedder looks at."""

import numpy as np
import torch
import torch.nn.functional as F

from hfembed.faces.perceptual_networks import FaceEmbeddings
from hfembed.images.training.identity_start import start_from_identity
from hfembed.models.appearance_autoencoder.configuration_appearance_autoencoder import AppearanceAutoencoderConfig
from hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder import AppearanceAutoencoderModel
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

POINTS = np.array([[5.0, 5.0], [11.0, 5.0], [8.0, 8.0], [6.0, 11.0], [10.0, 11.0]])


def network(kind):
    config = FaceEmbedderConfig(
        trunk="iresnet", trunk_arguments={"depths": [1], "widths": [8]}, image_size=[32, 32], num_channels=1
    )
    return kind(FaceEmbedderModel(config), FaceImageProcessor(size=[32, 32], color="gray"), POINTS)


class Patch(FaceEmbeddings):
    """Sees a few pixels alone."""

    def forward(self, pixel_values, points=None):
        assert points.shape == (len(pixel_values), 5, 2)
        return pixel_values[:, 0, 4:6, 4:7].flatten(1)


def start(images, weight, seed=0):
    torch.manual_seed(0)
    config = AppearanceAutoencoderConfig(
        num_channels=1, image_size=[16, 16], patch_size=4, widths=[8], blocks_per_level=0,
        latent_channels=18, warp_latents=2, warp_grid=2, code_filters=True,
    )  # fmt: skip
    model = AppearanceAutoencoderModel(config).train()
    model.bottleneck.code.start_from_images(images / 255)
    torch.nn.init.zeros_(model.bottleneck.code.fields)  # nothing moves in these images
    processor = ConvAutoencoderImageProcessor(size=[16, 16], color="gray")
    start_from_identity(model, processor, network(Patch), images, weight, num_slopes=200, seed=seed)
    return model.eval()


def test_what_the_network_sees_is_kept_at_the_cost_of_the_rest():
    generator = torch.Generator().manual_seed(0)
    images = F.interpolate(torch.rand(500, 1, 4, 4, generator=generator), size=16, mode="bicubic")
    images[:, :, 4:6, 4:7] += 0.2 * torch.randn(500, 1, 2, 3, generator=generator)
    images = images.clamp(0, 1)  # 16 large movements and 6 small ones, for 16 numbers
    train, held_out = images[:400].mul(255).round().to(torch.uint8), images[400:]
    models = [start(train, weight) for weight in (0.0, 30.0, 30.0)]
    with torch.no_grad():
        errors = [model(held_out).reconstruction - held_out for model in models[:2]]
    seen = [error[:, :, 4:6, 4:7].square().mean() for error in errors]
    whole = [error.square().mean() for error in errors]
    assert seen[1] < 0.25 * seen[0]
    assert whole[0] < whole[1]
    first, again = models[1:]
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))


def test_jittered_points_are_similar_and_near():
    points = network(FaceEmbeddings).jittered_points(200, np.random.default_rng(0))
    sides = np.linalg.norm(points - np.roll(points, 1, axis=1), axis=2)
    expected = np.linalg.norm(POINTS - np.roll(POINTS, 1, axis=0), axis=1)
    ratios = sides / expected
    np.testing.assert_allclose(ratios, ratios[:, :1].repeat(5, axis=1), rtol=1e-9)
    assert 0.93 < ratios.min() < 0.96 and 1.04 < ratios.max() < 1.08
    assert np.abs(points - POINTS).max() < 4
    edges = points[:, 1] - points[:, 0]
    turns = np.rad2deg(np.arctan2(edges[:, 1], edges[:, 0]))
    assert -7 < turns.min() < -5 and 5 < turns.max() < 7


def test_a_gray_network_looks_at_color_crops_as_pillow_converts_them():
    color = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    luma = (color * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    gray = network(FaceEmbeddings)
    torch.testing.assert_close(gray(color), gray(luma))
