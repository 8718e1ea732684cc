"""The appearance autoencoder: latents fitted by least squares."""

import pytest
import torch
from transformers import AutoModel

from hfembed.models.appearance_autoencoder.configuration_appearance_autoencoder import AppearanceAutoencoderConfig
from hfembed.models.appearance_autoencoder.modeling_appearance_autoencoder import AppearanceAutoencoderModel
from tests.contract import ModelContract


def tiny_config(**fields):
    settings = {"num_channels": 1, "image_size": [16, 24], "widths": [8, 12, 16], "blocks_per_level": 0}
    return AppearanceAutoencoderConfig(
        **(settings | {"latent_channels": 14, "warp_latents": 6, "warp_grid": 4} | fields)
    )


def images(config, batch_size=6, seed=0):
    # the fit is as smooth as its images
    small = torch.rand(batch_size, config.num_channels, 3, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, size=config.image_size, mode="bicubic")


class TestAppearanceAutoencoder(ModelContract):
    base_class = AppearanceAutoencoderModel
    auto_classes = {AutoModel: AppearanceAutoencoderModel}
    typo = ("warp_latnts", "warp_latents")
    impossible = {
        "num_channels": 2,
        "image_size": [16, 20],
        "warp_latents": 99,
        "warp_grid": 1,
        "refinement_steps": 0,
        "loss_weights": {"mean_squared": float("nan")},
    }

    def config(self):
        return tiny_config(code_filters=True)

    def model(self, model_class):
        model = super().model(model_class)
        with torch.no_grad():  # they start at zero
            model.bottleneck.code.filters.add_(0.1 * model.bottleneck.code.basis.flip(0))
        return model

    def inputs(self, config, batch_size=3):
        return {"pixel_values": images(config, batch_size)}


@pytest.mark.parametrize("code_filters", [False, True])
def test_every_weight_learns(code_filters):
    torch.manual_seed(0)
    model = AppearanceAutoencoderModel(tiny_config(code_filters=code_filters)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    loss = model(images(model.config)).loss
    assert loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, f"{name} gets no gradient"


def test_latents_are_one_vector_for_images_of_one_size():
    config = tiny_config()
    model = AppearanceAutoencoderModel(config).eval()
    pixel_values = images(config)
    output, latents = model(pixel_values), model.encode(pixel_values)
    assert tuple(latents.shape[1:]) == (14, 1, 1) == config.latent_shape
    torch.testing.assert_close(output.reconstruction, model.decode(latents))
    torch.testing.assert_close(output.pooler_output, latents.flatten(1))
    with pytest.raises(ValueError, match="takes 16 x 24 images only, got 32 x 24"):
        model.encode(torch.zeros(1, 1, 32, 24))
    with pytest.raises(ValueError, match=r"latents must be \(batch, 14, 1, 1\)"):
        model.decode(torch.zeros(1, 14, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_and_a_batch_of_one(dtype):
    config = tiny_config()
    model = AppearanceAutoencoderModel(config).eval()
    expected = model(images(config, 1)).reconstruction
    output = model.to(dtype)(images(config, 1).to(dtype))
    torch.testing.assert_close(output.reconstruction.float(), expected, rtol=0, atol=0.02)


def test_without_a_warp_it_is_principal_components_until_detail_is_learned():
    torch.manual_seed(0)
    config = tiny_config(warp_latents=0, code_filters=True, detail=True, blocks_per_level=1)
    model = AppearanceAutoencoderModel(config).train()
    photos = images(config, 40)
    model.start_from_images(photos)
    flat = photos.flatten(1)
    centered = flat - flat.mean(0)
    components = torch.linalg.svd(centered, full_matrices=False)[2][:14]
    expected = (flat.mean(0) + centered @ components.T @ components).view_as(photos)
    torch.testing.assert_close(model(photos).reconstruction, expected, rtol=0, atol=1e-3)

    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(2):  # the correction's last layer starts at zero and hides the others from the first step
        optimizer.zero_grad()
        model(photos).loss.backward()
        optimizer.step()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == set()
    assert model.last_layer is not None and model.last_layer.grad.abs().max() > 0
    latents = model.eval().encode(photos)
    torch.testing.assert_close(model.decode(latents), model(photos).reconstruction)
    assert AppearanceAutoencoderModel(tiny_config()).last_layer is None


@pytest.mark.parametrize("fields", [{"warp_latents": 0}, {"detail": True}, {"warp_latents": 0, "detail": True}])
def test_without_a_warp_or_with_detail_it_reloads_exactly(tmp_path, fields):
    model = AppearanceAutoencoderModel(tiny_config(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    photos = images(model.config)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again(photos).reconstruction, model(photos).reconstruction)
