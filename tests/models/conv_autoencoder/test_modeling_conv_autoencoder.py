"""The convolutional autoencoder: to latents and back, any size, variational."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from sklearn.decomposition import PCA
from transformers import AutoImageProcessor, AutoModel, pipeline

from hfembed.models.conv_autoencoder.configuration_conv_autoencoder import ConvAutoencoderConfig
from hfembed.models.conv_autoencoder.image_processing_conv_autoencoder import ConvAutoencoderImageProcessor
from hfembed.models.conv_autoencoder.modeling_conv_autoencoder import ConvAutoencoderModel, kl_divergence
from tests.contract import ModelContract


def tiny_config(**fields):
    settings = {"num_channels": 1, "image_size": [16, 24], "widths": [8, 12, 16], "latent_channels": 3}
    return ConvAutoencoderConfig(**(settings | fields))


def images(config, batch_size=6, size=None, seed=0):
    shape = (batch_size, config.num_channels, *(size or config.image_size))
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class AutoencoderContract(ModelContract):
    base_class = ConvAutoencoderModel
    auto_classes = {AutoModel: ConvAutoencoderModel}
    typo = ("latent_chanels", "latent_channels")
    impossible = {
        "num_channels": 2,
        "image_size": [16, 20],
        "widths": [],
        "patch_size": 0,
        "blocks_per_level": -1,
        "bottleneck": "linear",
        "bottleneck_size": "2",
        "latent_channels": 0,
        "kl_weight": -1.0,
        "architecture": "unet",
        "norm_groups": "4",
        "free_bits": -0.5,
        "latent_penalty": "l3",
        "quantizer": "lfq",
        "codebook_size": 1,
        "commitment_weight": -0.25,
        "quantizer_levels": 8,
        "latent_penalty_weight": -1,
        "loss_weights": {"perceptual": 1.0},
    }

    def inputs(self, config, batch_size=3):
        return {"pixel_values": images(config, batch_size)}


class TestConvAutoencoder(AutoencoderContract):
    def config(self):
        return tiny_config(blocks_per_level=2, latent_penalty="l1")


class TestDenseAutoencoder(AutoencoderContract):
    def config(self):
        return tiny_config(bottleneck="dense", num_channels=3, latent_channels=7)


class TestVariationalAutoencoder(AutoencoderContract):
    def config(self):
        return tiny_config(variational=True, bottleneck_size=2, image_size=[16, 32], free_bits=0.1)


class TestQuantizedAutoencoder(AutoencoderContract):
    def config(self):
        return tiny_config(quantizer="fsq", quantizer_levels=[8, 5, 5])


class TestVectorQuantizedAutoencoder(AutoencoderContract):
    def config(self):
        return tiny_config(quantizer="vq", codebook_size=7, commitment_weight=0.5)


class TestRoundingAutoencoder(AutoencoderContract):
    def config(self):
        return tiny_config(quantizer="rounding", rate_weight=0.2, qualities=[10, 14])


class TestAutoencoderKL(AutoencoderContract):
    def config(self):
        return kl_config(variational=True, quant_conv=True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"quantizer_levels": [8, 5]}, "one of each of the 3"),
        ({"quantizer_levels": [1]}, "from 2 to 256"),
        ({"quantizer_levels": []}, "one number from 2"),
        ({"variational": True}, "leave variational"),
        ({"quantizer": "vq", "latent_penalty": "l1"}, "leave variational"),
        ({"quantizer": "vq", "codebook_size": 65_537}, "codebook_size must be from 2 to 65536, got 65537"),
    ],
)
def test_impossible_quantizers_are_refused(fields, words):
    with pytest.raises(StrictDataclassError, match=words):
        tiny_config(**{"quantizer": "fsq"} | fields)


def test_a_quantized_model_has_levels_for_latents():
    model = ConvAutoencoderModel(tiny_config(quantizer="fsq", quantizer_levels=[8, 5, 2])).eval()
    latents = model.encode(images(model.config))
    counts = torch.tensor([4.0, 2.0, 1.0]).view(1, 3, 1, 1)
    assert torch.equal(latents * counts, (latents * counts).round())
    assert torch.equal(model(images(model.config)).latents, latents), "in training and in use"


@pytest.mark.parametrize(
    ("fields", "shape"),
    [({}, (2, 3)), ({"bottleneck": "dense"}, (1, 1)), ({"architecture": "autoencoder_kl", "norm_groups": 4}, (2, 3))],
)
def test_a_model_with_a_codebook_has_its_vectors_as_latents_and_its_losses(fields, shape):
    torch.manual_seed(0)
    model = ConvAutoencoderModel(tiny_config(quantizer="vq", codebook_size=5, commitment_weight=0.5, **fields)).eval()
    pixels, quantizer = images(model.config), model.vector_quantizer
    latents = model.encode(pixels)
    indices = quantizer.indices(latents)
    assert indices.shape[1:] == shape and torch.equal(quantizer.vectors(indices), latents)
    output = model.train()(pixels)
    assert torch.equal(output.latents, latents), "in training and in use"
    assert torch.equal(output.pooler_output, latents.flatten(1))
    expected = output.reconstruction_loss + 1.5 * output.codebook_loss
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    output.reconstruction_loss.backward()
    assert quantizer.codebook.grad is None, "the codebook learns by its own loss alone"
    assert all(parameter.grad.abs().max() > 0 for parameter in model.encoder.parameters()), "straight through"


def test_a_codebook_starts_as_latent_vectors_of_images():
    model = ConvAutoencoderModel(tiny_config(quantizer="vq", codebook_size=20))
    before = model.vector_quantizer.codebook.detach().clone()
    pixels = images(model.config, 2)  # 2 x 3 positions in each
    model.start_codebook(pixels)
    codebook = model.vector_quantizer.codebook.detach()
    assert model.train()(pixels).codebook_loss < 1e-10
    assert torch.equal(codebook[12:], before[12:]) and not torch.equal(codebook[:12], before[:12])
    ConvAutoencoderModel(tiny_config()).start_codebook(pixels)  # one without a codebook stays as it is


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"qualities": [10]}, r"qualities \[lowest, highest\]"),
        ({"qualities": [12, 10]}, "got conv, "),
        ({"qualities": [0, 41]}, "from 0 to 40"),
        ({"bottleneck": "dense"}, "got dense"),
        ({"rate_weight": -1.0}, "rate_weight"),
        ({"latent_penalty": "l1"}, "leave variational"),
    ],
)
def test_impossible_rounding_is_refused(fields, words):
    with pytest.raises(StrictDataclassError, match=words):
        tiny_config(**{"quantizer": "rounding"} | fields)


def test_a_model_that_rounds_pays_for_its_bits_in_training():
    torch.manual_seed(0)
    config = tiny_config(quantizer="rounding", rate_weight=0.5, qualities=[12, 12])
    model, pixels = ConvAutoencoderModel(config).train(), images(config)
    output = model(pixels)
    assert output.loss.item() == pytest.approx((output.reconstruction_loss + 0.5 * output.rate).item(), rel=1e-5)
    latents, step = model.encode(pixels), 2.0**-6 * pixels[0].numel() ** 0.5
    assert ((output.latents - latents).abs() <= 0.5 * step * 1.001).all() and not torch.equal(output.latents, latents)
    output.rate.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.encoder.parameters())
    written = [group.output_at.grad for group in model.entropy.groups]
    assert all(gradient.abs().max() > 0 for gradient in written)
    # a coarse step costs little
    config.qualities = [2, 2]
    assert model(pixels).rate < 0.5 * output.rate
    config.qualities = [12, 12]
    assert model.eval()(pixels, pixels).rate is None and torch.equal(model(pixels).latents, model.encode(pixels))
    with pytest.raises(ValueError, match="its image_size"):
        model.train()(torch.rand(1, config.num_channels, 32, 32))


def test_bits_are_counted_in_float32_in_mixed_precision_too():
    config = tiny_config(quantizer="rounding", qualities=[10, 14])
    model, kinds = ConvAutoencoderModel(config).train(), set()
    model.entropy.groups[-1].register_forward_hook(lambda *call: kinds.update(output.dtype for output in call[-1]))
    with torch.autocast("cpu", torch.bfloat16):
        model(images(config))
    assert kinds == {torch.float32}


def kl_config(**fields):
    return tiny_config(architecture="autoencoder_kl", widths=[8, 12], norm_groups=4, **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"norm_groups": 5}, "must be multiples of norm_groups, 5"),
        ({"bottleneck_size": 2}, "bottleneck_size must be 1"),
        ({"quant_conv": True, "bottleneck": "dense"}, "quant_conv is of a latent grid"),
    ],
)
def test_impossible_kl_networks_are_refused(fields, words):
    with pytest.raises(StrictDataclassError, match=words):
        tiny_config(**{"architecture": "autoencoder_kl", "widths": [8, 12], "norm_groups": 4} | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"bottleneck": "dense"},
        {"variational": True},
        {"architecture": "autoencoder_kl", "norm_groups": 4, "patch_size": 1, "quant_conv": True},
        {"architecture": "autoencoder_kl", "norm_groups": 4, "bottleneck": "dense"},
        {"latent_penalty": "l2"},
        {"quantizer": "fsq"},
        {"quantizer": "vq"},
    ],
)
def test_every_weight_learns(fields):
    torch.manual_seed(0)
    model = ConvAutoencoderModel(tiny_config(**fields)).train()
    loss = model(images(model.config)).loss
    assert loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, f"{name} gets no gradient"


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({}, (3, 2, 3)),
        ({"patch_size": 1, "widths": [4, 8]}, (3, 8, 12)),
        ({"bottleneck_size": 2, "image_size": [32, 16]}, (3, 2, 1)),
        ({"bottleneck": "dense", "latent_channels": 20}, (20, 1, 1)),
        ({"architecture": "autoencoder_kl", "norm_groups": 4, "patch_size": 1}, (3, 4, 6)),
        ({"architecture": "autoencoder_kl", "norm_groups": 4, "bottleneck": "dense"}, (3, 1, 1)),
    ],
)
def test_latents_are_what_the_config_says(fields, shape):
    config = tiny_config(**fields)
    model = ConvAutoencoderModel(config).eval()
    pixel_values = images(config)
    output = model(pixel_values)
    latents = model.encode(pixel_values)
    assert tuple(latents.shape[1:]) == shape == config.latent_shape
    assert output.pooler_output.shape == (6, config.num_latents)
    assert output.loss is None, "no targets, not training"
    assert output.reconstruction.shape == pixel_values.shape
    torch.testing.assert_close(output.reconstruction, model.decode(latents))
    torch.testing.assert_close(output.pooler_output, latents.flatten(1))


def test_any_size_that_the_stride_divides():
    config = tiny_config(bottleneck_size=2, image_size=[16, 32])
    model = ConvAutoencoderModel(config).eval()
    assert config.stride == 16
    output = model(images(config, 2, size=(48, 64)))
    assert output.reconstruction.shape == (2, 1, 48, 64) and output.latents.shape == (2, 3, 3, 4)
    with pytest.raises(ValueError, match=r"multiples of 16 for this model, got 24 x 32"):
        model(images(config, 2, size=(24, 32)))
    with pytest.raises(ValueError, match=r"\(batch, 1, height, width\) for this gray model, got \(2, 3, 16, 32\)"):
        model.encode(torch.zeros(2, 3, 16, 32))


def test_a_dense_bottleneck_takes_one_size():
    model = ConvAutoencoderModel(tiny_config(bottleneck="dense", latent_channels=20))
    with pytest.raises(ValueError, match="takes 16 x 24 images only, got 32 x 24"):
        model.encode(torch.zeros(1, 1, 32, 24))
    with pytest.raises(ValueError, match=r"latents must be \(batch, 20, 1, 1\)"):
        model.decode(torch.zeros(1, 20, 2, 3))


def test_learns_to_reconstruct():
    torch.manual_seed(0)
    model = ConvAutoencoderModel(tiny_config(latent_channels=8)).train()
    # blobs: two numbers of position and one of brightness
    x = torch.linspace(0, 1, 24)
    y = torch.linspace(0, 1, 16)[:, None]
    place = torch.rand(32, 3)[..., None, None]
    blobs = 0.5 + 0.5 * (place[:, 2] * torch.exp(-((x - place[:, 0]) ** 2 + (y - place[:, 1]) ** 2) / 0.02))[:, None]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(100):
        loss = model(blobs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2 * blobs.var()


def test_a_linear_start_is_the_pca_of_patches():
    torch.manual_seed(0)
    config = tiny_config(num_channels=3, patch_size=4, widths=[16], latent_channels=6, variational=True)
    model = ConvAutoencoderModel(config).eval()
    photos = images(config, 40) ** 2
    photos[:, 1] = photos[:, 0].roll(1, 2)  # something to be found
    model.start_from_patches(photos)
    height, width = config.image_size
    cut = [photos[:, :, y : y + 4, x : x + 4].reshape(40, -1) for y in range(0, height, 4) for x in range(0, width, 4)]
    pca = PCA(6).fit(torch.cat(cut).numpy())
    output = model(photos)
    for index, patch in enumerate(cut):
        y, x = 4 * (index // (width // 4)), 4 * (index % (width // 4))
        expected = torch.from_numpy(pca.inverse_transform(pca.transform(patch.numpy()))).float().view(40, 3, 4, 4)
        torch.testing.assert_close(output.reconstruction[:, :, y : y + 4, x : x + 4], expected, rtol=0, atol=1e-3)
    model.train()(photos).loss.backward()
    assert all(
        block.conv2.weight.grad.abs().max() > 0 for block in (*model.encoder.levels[0], *model.decoder.levels[0])
    )
    with pytest.raises(ValueError, match=r"a linear start needs .* widths \[8, 12, 16\]"):
        ConvAutoencoderModel(tiny_config()).start_from_patches(images(tiny_config()))


def test_variational_draws_in_training_and_takes_the_mean_otherwise():
    config = tiny_config(variational=True, free_bits=0.0, kl_weight=0.5)
    model = ConvAutoencoderModel(config)
    pixel_values = images(config)
    mean, log_variance = model.encode_distribution(pixel_values)
    torch.testing.assert_close(model.eval()(pixel_values).latents, mean)
    output = model.train()(pixel_values)
    assert not torch.allclose(output.latents, mean)
    torch.testing.assert_close(output.pooler_output, mean.flatten(1))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected, rtol=1e-4, atol=1e-5)
    divergence = expected.sum((1, 2, 3)).mean()
    torch.testing.assert_close(output.divergence, divergence, rtol=1e-4, atol=1e-5)
    # nats per value of the image
    expected_loss = output.reconstruction_loss + 0.5 * divergence / pixel_values[0].numel()
    torch.testing.assert_close(output.loss, expected_loss, rtol=1e-4, atol=1e-6)
    draws = torch.stack([model.sample(mean, log_variance) for _ in range(400)])
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.3)
    torch.testing.assert_close(draws.std(0), (0.5 * log_variance).exp(), rtol=0.25, atol=0)


def test_free_bits_cost_nothing():
    config = tiny_config(variational=True, free_bits=100.0, kl_weight=1.0)
    model = ConvAutoencoderModel(config).train()
    torch.manual_seed(0)
    gradient = torch.autograd.grad(
        (output := model(images(config))).loss - output.reconstruction_loss, model.bottleneck.to_latents.weight
    )[0]
    assert gradient.abs().max() == 0


@pytest.mark.parametrize(("penalty", "power"), [("l1", 1), ("l2", 2)])
def test_latent_penalty(penalty, power):
    config = tiny_config(latent_penalty=penalty, latent_penalty_weight=0.3)
    output = ConvAutoencoderModel(config).train()(images(config))
    expected = output.reconstruction_loss + 0.3 * output.latents.abs().pow(power).mean()
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(
    ("field", "family"),
    [("skip_connections", "RestorationAutoencoderConfig"), ("code_filters", "AppearanceAutoencoderConfig")],
)
def test_fields_of_the_separated_families_are_pointed_to(field, family):
    with pytest.raises(ValueError, match=f"'{field}': it belongs to {family}"):
        tiny_config(**{field: True})


@pytest.mark.parametrize("options", [{}, {"architecture": "autoencoder_kl", "norm_groups": 4}])
def test_gradient_checkpointing_changes_no_gradient_and_keeps_fewer_maps(options):
    config = tiny_config(variational=True, blocks_per_level=2, **options)
    results = []
    for is_checkpointed in (False, True):
        torch.manual_seed(0)
        model = ConvAutoencoderModel(config).train()
        if is_checkpointed:
            model.checkpoint_blocks()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda map, kept=kept: (kept.append(map.numel()), map)[1], lambda map: map
        ):
            model(images(config))
        loss = model(images(config)).loss
        results.append((sum(kept), loss, torch.autograd.grad(loss, list(model.parameters()))))
    (numbers, loss, gradients), (fewer, same_loss, same_gradients) = results
    assert fewer < 0.7 * numbers
    torch.testing.assert_close(same_loss, loss, rtol=0, atol=0)
    torch.testing.assert_close(same_gradients, gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_and_a_batch_of_one(dtype):
    config = tiny_config()
    model = ConvAutoencoderModel(config).eval()
    expected = model(images(config, 1)).reconstruction
    output = model.to(dtype)(images(config, 1))
    torch.testing.assert_close(output.reconstruction.float(), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(model.decode(model.encode(images(config, 1))), output.reconstruction)


def test_losses_are_summed_with_their_weights():
    weights = {"mean_squared": 2.0, "mean_absolute": 0.5, "ssim": 0.1, "ms_ssim": 0.05, "contrast": 0.3}
    config = tiny_config(loss_weights=weights)
    model = ConvAutoencoderModel(config).train()
    total = model(images(config)).loss
    parts = 0.0
    for name, weight in weights.items():
        model.config.loss_weights = {name: 1.0}
        parts += weight * model(images(config)).loss
    torch.testing.assert_close(total, parts)


def test_pipeline_gives_flat_latents(tmp_path):
    config = tiny_config()
    ConvAutoencoderModel(config).save_pretrained(tmp_path)
    ConvAutoencoderImageProcessor(size=config.image_size, color="gray").save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is ConvAutoencoderImageProcessor
    photos = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 60, 3), dtype=np.uint8)) for i in (0, 1)]
    features = pipeline("image-feature-extraction", model=str(tmp_path), image_processor=processor)
    vectors = features(photos, pool=True, batch_size=2, return_tensors=True)
    model = AutoModel.from_pretrained(tmp_path)
    expected = model.encode(processor(photos).pixel_values).flatten(1)
    torch.testing.assert_close(torch.cat(list(vectors)), expected, rtol=1e-4, atol=1e-5)
