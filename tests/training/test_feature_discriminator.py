"""A discriminator that judges by a frozen network's features."""

import pytest
import torch

from hfembed.errors import InputError
from hfembed.faces.discriminators import make_discriminator
from hfembed.images.training.recipe import AutoencoderTrainingConfig
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.training.config import build_config
from hfembed.training.feature_discriminator import FeatureDiscriminator
from hfembed.training.optim import make_optimizer
from hfembed.training.patch_discriminator import PatchDiscriminator, hinge_loss


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("embedder")
    FaceEmbedderModel(FaceEmbedderConfig(trunk="mobilefacenet", embedding_size=32)).save_pretrained(folder)
    FaceImageProcessor(size=112).save_pretrained(folder)
    return folder


def recipe(**fields):
    return build_config(
        AutoencoderTrainingConfig,
        {"image_size": [64, 64], "discriminator_weight": 0.5, "discriminator_width": 8} | fields,
    )


def test_the_recipe_chooses_what_is_judged(embedder):
    assert make_discriminator(recipe(discriminator_weight=0.0), 3, [64, 64]) is None
    assert isinstance(make_discriminator(recipe(), 3, [64, 64]), PatchDiscriminator)
    config = recipe(discriminator_network=str(embedder), discriminator_layers=[0, 2])
    discriminator = make_discriminator(config, 3, [64, 64])
    assert isinstance(discriminator, FeatureDiscriminator)
    # 32 x 32 places of the stem are halved twice, 8 x 8 of the second stage are few enough
    assert discriminator(torch.rand(2, 3, 64, 64)).shape == (2, 8 * 8 + 8 * 8)
    with pytest.raises(InputError, match=r"no features \[0, 9\]"):
        make_discriminator(recipe(discriminator_network=str(embedder), discriminator_layers=[0, 9]), 3, [64, 64])


def test_only_the_heads_learn_and_a_verdict_is_of_its_image_alone(embedder):
    torch.manual_seed(0)
    config = recipe(discriminator_network=str(embedder), discriminator_layers=[0], optimizer="adamw")
    discriminator = make_discriminator(config, 3, [64, 64]).train()
    kept = {name: value.clone() for name, value in discriminator.features.state_dict().items()}
    images = torch.rand(4, 3, 64, 64)
    torch.testing.assert_close(discriminator(images[1:2]), discriminator(images)[1:2], rtol=1e-4, atol=1e-5)
    optimizer = make_optimizer(discriminator, config, 1e-2)
    made = images * torch.linspace(0, 1, 64)
    losses = []
    for _ in range(60):
        loss = hinge_loss(discriminator(images), discriminator(made))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 < 0.9 < losses[0]
    assert all(torch.equal(value, kept[name]) for name, value in discriminator.features.state_dict().items())
