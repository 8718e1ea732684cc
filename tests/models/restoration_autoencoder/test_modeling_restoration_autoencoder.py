"""The restoration autoencoder: corrections of noisy images and of filled holes."""

import pytest
import torch
from transformers import AutoModel

from hfembed.models.restoration_autoencoder.configuration_restoration_autoencoder import RestorationAutoencoderConfig
from hfembed.models.restoration_autoencoder.modeling_restoration_autoencoder import RestorationAutoencoderModel
from tests.contract import ModelContract


def tiny_config(**fields):
    settings = {"num_channels": 1, "image_size": [16, 24], "widths": [8, 12, 16], "latent_channels": 3}
    return RestorationAutoencoderConfig(**(settings | fields))


def images(config, batch_size=6, seed=0):
    shape = (batch_size, config.num_channels, *config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class TestDenoisingAutoencoder(ModelContract):
    base_class = RestorationAutoencoderModel
    auto_classes = {AutoModel: RestorationAutoencoderModel}
    typo = ("inpaintin", "inpainting")
    impossible = {"image_size": [16, 20], "bottleneck": "warp", "bottleneck_size": 0, "loss_weights": {}}

    def config(self):
        return tiny_config(patch_size=1)

    def model(self, model_class):
        model = super().model(model_class)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():  # corrections start at zero
                    parameter.add_(0.1)
        return model

    def inputs(self, config, batch_size=3):
        return {"pixel_values": images(config, batch_size)}


class TestInpaintingAutoencoder(TestDenoisingAutoencoder):
    def config(self):
        return tiny_config(inpainting=True)

    def inputs(self, config, batch_size=3):
        mask = torch.zeros(batch_size, 1, *config.image_size, dtype=torch.bool)
        mask[:, :, 3:9, 10:20] = True
        return {"pixel_values": images(config, batch_size), "mask": mask}


class TestRestorationAutoencoder(TestInpaintingAutoencoder):
    def config(self):
        return tiny_config(num_channels=3, inpainting=True, fill="smooth", aligned_faces=True)


def test_one_model_removes_damage_and_fills_holes_at_any_size():
    torch.manual_seed(0)
    model = RestorationAutoencoderModel(tiny_config(inpainting=True, fill="smooth")).eval()
    photo = torch.rand(2, 1, 24, 40)
    mask = torch.zeros(2, 1, 24, 40, dtype=torch.bool)
    mask[:, :, 5:15, 8:20] = True
    assert torch.equal(model(photo).reconstruction, photo), "a new one changes nothing, without a mask"
    filled = model(photo, mask=mask).reconstruction
    assert torch.equal(filled[~mask], photo[~mask]) and not torch.equal(filled[mask], photo[mask])
    other = torch.where(mask, 0.9, photo)
    assert torch.equal(model(other, mask=mask).reconstruction, filled), "what lies in a hole does not matter"
    torch.nn.init.normal_(model.decoder.conv_out.weight, std=0.1)
    assert not torch.equal(model(photo, mask=mask).reconstruction[~mask], photo[~mask]), "the rest is corrected too"
    assert "fill.mean" not in model.state_dict() and model.config.removes_damage


def test_a_new_denoiser_changes_nothing_and_its_weights_learn():
    torch.manual_seed(0)
    config = tiny_config()
    model = RestorationAutoencoderModel(config).eval()
    noisy = images(config)
    output = model(noisy, targets=noisy + 0.1)
    torch.testing.assert_close(output.reconstruction, noisy)
    assert output.loss.item() == pytest.approx(0.01, rel=1e-3)
    with torch.no_grad():  # the last layer is zero: the others learn from the second step on
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.train()(noisy, targets=noisy.roll(1, 3)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, f"{name} gets no gradient"


@pytest.mark.parametrize("width", [8, 12])
def test_a_new_restorers_last_layer_sees_the_pixels(width):
    config = tiny_config(widths=[width, 12], inpainting=True, fill="smooth")
    model = RestorationAutoencoderModel(config).eval()
    photo = images(config)
    pixels = torch.nn.functional.pixel_unshuffle(photo - 0.5, 2)[:, : width // 2]
    shown = []
    model.decoder.conv_out.register_forward_pre_hook(lambda layer, inputs: shown.append(inputs[0]))
    model(photo)
    positive, negative = shown[0][:, :4], shown[0][:, width // 2 : width // 2 + 4]
    torch.testing.assert_close(positive - negative, 2 * pixels)


@pytest.mark.parametrize("inpainting", [False, True])
def test_training_needs_targets(inpainting):
    model = RestorationAutoencoderModel(tiny_config(inpainting=inpainting)).train()
    with pytest.raises(ValueError, match="training needs targets"):
        model(images(model.config))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("inpainting", [False, True])
def test_other_precisions_and_a_batch_of_one(dtype, inpainting):
    config = tiny_config(inpainting=inpainting)
    model = RestorationAutoencoderModel(config).eval()
    torch.nn.init.normal_(model.decoder.conv_out.weight, std=0.05)
    inputs = {"pixel_values": images(config, 1)}
    if inpainting:
        inputs["mask"] = torch.zeros(1, 1, 16, 24, dtype=torch.bool)
        inputs["mask"][:, :, 3:9, 10:20] = True
    expected = model(**inputs).reconstruction
    restored = model.to(dtype)(**inputs).reconstruction
    torch.testing.assert_close(restored.float(), expected, rtol=0, atol=0.02)
