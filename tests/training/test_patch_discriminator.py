"""A discriminator beside an autoencoder: losses and gradients against their definitions, written down naively."""

import pytest
import torch
import torch.nn.functional as F

from hfembed.errors import InputError
from hfembed.images.training.loss import AutoencoderLoss
from hfembed.images.training.recipe import AutoencoderTrainingConfig
from hfembed.images.training.train import check_discriminator
from hfembed.models.appearance_autoencoder.configuration_appearance_autoencoder import AppearanceAutoencoderConfig
from hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder import AppearanceAutoencoderModel
from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel
from hfembed.training.config import build_config
from hfembed.training.patch_discriminator import PatchDiscriminator, adaptive_weight, hinge_loss


def test_a_patch_is_70_pixels_and_its_verdict_independent_of_the_batch():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(3, 8)
    images = torch.rand(3, 3, 96, 96, requires_grad=True)
    logits = discriminator(images)
    torch.testing.assert_close(discriminator(images[1:2]), logits[1:2])
    # without normalization, which looks at the whole image, a verdict depends on its patch alone
    for number, layer in enumerate(discriminator.layers):
        if isinstance(layer, torch.nn.GroupNorm):
            discriminator.layers[number] = torch.nn.Identity()
    (slope,) = torch.autograd.grad(discriminator(images)[1, 0, 5, 5], images)
    rows, columns = (slope[1].abs().sum((0, axis)).nonzero().flatten() for axis in (2, 1))
    assert len(rows) == len(columns) == 70 and slope[[0, 2]].abs().max() == 0


def test_hinge_loss_and_adaptive_weight_against_loops():
    photos, reconstructions = torch.randn(2, 5, 1, 3, 3, generator=torch.Generator().manual_seed(0)).unbind()
    pairs = zip(photos.flatten().tolist(), reconstructions.flatten().tolist(), strict=True)
    expected = sum(max(0, 1 - photo) + max(0, 1 + made) for photo, made in pairs) / (2 * photos.numel())
    assert hinge_loss(photos, reconstructions).item() == pytest.approx(expected, rel=1e-5)
    first, second = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.4999])
    assert adaptive_weight(first, second).item() == pytest.approx(10, rel=1e-4)
    assert adaptive_weight(first, torch.zeros(2)).item() == 1e4


def test_gradients_are_those_of_the_weighted_sum():
    """Both networks' gradients, of one backward pass, against the sum of all parts written down."""
    torch.manual_seed(0)
    config = ConvAutoencoderConfig(image_size=[32, 32], widths=[8, 8], latent_channels=2, variational=True)
    model, discriminator = ConvAutoencoderModel(config).train(), PatchDiscriminator(3, 8)
    recipe = build_config(AutoencoderTrainingConfig, {"image_size": [32, 32], "discriminator_weight": 0.7})
    objective = AutoencoderLoss(recipe, torch.device("cpu"))
    objective.features = lambda images: [F.avg_pool2d(images, 2), images[:, :, ::3, ::3].square()]
    images = torch.rand(4, 3, 32, 32)
    batch = {"pixel_values": images, "targets": images}

    torch.manual_seed(1)  # of the draw of latents
    loss, figures = objective(model, batch, discriminator)
    loss.backward()
    gradients = [[weight.grad.clone() for weight in network.parameters()] for network in (model, discriminator)]

    torch.manual_seed(1)
    output = model(**batch)
    shown = [objective.features(value) for value in (output.reconstruction, images)]
    unit = [[part / (part.square().sum(1, keepdim=True) + 1e-8).sqrt() for part in maps] for maps in shown]
    perceptual = sum((ours - theirs).square().sum(1).mean() for ours, theirs in zip(*unit, strict=True))
    images_part = output.reconstruction_loss + recipe.perceptual_weight * perceptual
    verdict = -discriminator(output.reconstruction).mean()
    by_images, by_verdict = (
        torch.autograd.grad(part, model.decoder.conv_out.weight, retain_graph=True)[0].norm()
        for part in (images_part, verdict)
    )
    weight = 0.7 * (by_images / (by_verdict + 1e-4)).item()
    total = output.loss + recipe.perceptual_weight * perceptual + weight * verdict
    real, made = discriminator(images), discriminator(output.reconstruction.detach())
    own = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())
    torch.testing.assert_close(loss, total + own)
    assert figures["adversarial_weight"].item() == pytest.approx(weight, rel=1e-4)
    for network, part, got in zip((model, discriminator), (total, own), gradients, strict=True):
        for expected, value in zip(
            torch.autograd.grad(part, list(network.parameters()), retain_graph=True), got, strict=True
        ):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-7)


def test_recipes_that_cannot_have_a_discriminator_are_refused():
    fields = {"discriminator_weight": 0.5, "image_size": [32, 32]}
    for more, words in (({"mixed_precision": "fp16"}, "fp16"), ({"discriminator_width": 12}, "multiple of 8"),
                        ({"image_size": [16, 16]}, "at least 32 pixels")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            build_config(AutoencoderTrainingConfig, fields | more)
    model = AppearanceAutoencoderModel(AppearanceAutoencoderConfig(image_size=[32, 32], widths=[8], patch_size=4))
    with pytest.raises(InputError, match="does not learn from a discriminator"):
        check_discriminator(build_config(AutoencoderTrainingConfig, fields), model)
