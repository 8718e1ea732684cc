"""The face swap model as its users meet it: every decoder, masks, unknown people, the losses."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity as reference_ssim
from transformers import AutoImageProcessor, AutoModel, pipeline

from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_swap.configuration_face_swap import FaceSwapConfig
from hfembed.models.face_swap.modeling_face_swap import FaceSwapModel, reconstruction_loss
from hfembed.models.structural_similarity import structural_similarity
from tests.contract import ModelContract


def tiny_config(**fields):
    settings = {
        "people": ["anna", "bert", "carl"],
        "image_size": 16,
        "encoder_widths": [6, 8],
        "decoder_widths": [8, 6],
        "latent_size": 10,
    }
    return FaceSwapConfig(**(settings | fields))


def images(config, batch_size=6, seed=0):
    shape = (batch_size, config.num_channels, config.image_size, config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class TestDenseFaceSwap(ModelContract):
    base_class = FaceSwapModel
    head_classes = (FaceSwapModel,)
    auto_classes = {AutoModel: FaceSwapModel}
    typo = ("latent_sise", "latent_size")
    impossible = {
        "people": ["anna", "anna"],
        "image_size": 18,
        "num_channels": 2,
        "encoder_widths": [],
        "decoder_widths": [8],
        "latent_size": 0,
        "residual_blocks": -1,
        "bottleneck": "none",
        "dssim_weight": 1.5,
        "mask_weight": -1,
    }

    def config(self):
        return tiny_config(predict_mask=True, dssim_weight=0.3)

    def inputs(self, config, batch_size=3):
        return {"pixel_values": images(config, batch_size), "labels": torch.arange(batch_size) % len(config.people)}

    def labeled_inputs(self, config):
        masks = images(config, 6, seed=2)[:, :1]
        return {**self.inputs(config, 6), "target_pixel_values": images(config, 6, seed=1), "target_masks": masks}


class TestConvolutionalFaceSwap(TestDenseFaceSwap):
    impossible = {}

    def config(self):
        return tiny_config(bottleneck="convolution", num_channels=1, residual_blocks=2, predict_mask=True)


def test_each_face_goes_through_the_decoder_of_its_label():
    config = tiny_config()
    model = FaceSwapModel(config).eval()
    pixels = images(config)
    labels = torch.tensor([2, 0, 0, 1, 2, 0])
    with torch.no_grad():
        output = model(pixels, labels)
        for row, label in enumerate(labels.tolist()):
            alone = model.decoders[label](model.encoder(pixels[row : row + 1]))
            torch.testing.assert_close(output.reconstruction[row : row + 1], alone)
    assert output.mask is None and output.loss is None
    assert 0 <= output.reconstruction.min() and output.reconstruction.max() <= 1


def test_a_training_step_without_somebody_is_refused():
    # under distributed training the other ranks would wait for that decoder's gradients
    config = tiny_config()
    with pytest.raises(ValueError, match="all people.*'bert'"):
        FaceSwapModel(config)(images(config, 4), torch.tensor([0, 2, 0, 2]), images(config, 4))


def test_swap_by_name():
    config = tiny_config(predict_mask=True)
    model = FaceSwapModel(config).train()
    pixels = images(config, 3)
    faces, masks = model.swap(pixels, "bert")
    assert model.training and faces.shape == (3, 3, 16, 16) and masks.shape == (3, 1, 16, 16)
    mixed, _ = model.swap(pixels, ["bert", "carl", "anna"])
    torch.testing.assert_close(mixed[0], faces[0])
    assert not torch.allclose(mixed[1], faces[1])


def test_an_unknown_person_is_one_line_that_names_the_known():
    model = FaceSwapModel(tiny_config())
    with pytest.raises(ValueError, match="'dora'.*anna, bert, carl"):
        model.swap(images(model.config), "dora")
    with pytest.raises(ValueError, match="2 people for 6 images"):
        model.swap(images(model.config), ["anna", "bert"])


def test_wrong_images_are_refused():
    config = tiny_config()
    model = FaceSwapModel(config)
    with pytest.raises(ValueError, match=r"\(batch, 3, 16, 16\)"):
        model(torch.rand(2, 1, 16, 16))
    with pytest.raises(ValueError, match="all people"):
        model(images(config), target_pixel_values=images(config))


@pytest.mark.parametrize("channels", [1, 3])
def test_structural_similarity_is_scikit_images(channels):
    generator = np.random.default_rng(0)
    first = generator.random((2, channels, 24, 32))
    second = np.clip(first + 0.2 * generator.standard_normal(first.shape), 0, 1)
    with torch.autocast("cpu", torch.bfloat16):  # as in training with mixed precision
        ours = structural_similarity(torch.tensor(first), torch.tensor(second))
    for row in range(2):
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
        expected = reference_ssim(first[row], second[row], channel_axis=0, **settings)
        assert ours[row].item() == pytest.approx(expected, abs=1e-5)


def test_loss_is_the_sum_of_its_parts():
    first, second, mask, other = torch.rand(4, 2, 1, 16, 16)
    absolute = (first - second).abs().mean()
    dissimilarity = (1 - structural_similarity(first, second).mean()) / 2
    assert reconstruction_loss(first, second, dssim_weight=0).item() == pytest.approx(absolute.item())
    mixed = 0.7 * absolute + 0.3 * dissimilarity + 0.5 * (mask - other).abs().mean()
    loss = reconstruction_loss(first, second, mask, other, dssim_weight=0.3, mask_weight=0.5)
    assert loss.item() == pytest.approx(mixed.item(), rel=1e-5)
    flat = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)  # no variance: no gradient may be lost to 0 / 0
    reconstruction_loss(flat, flat.detach()).backward()
    assert flat.grad.isfinite().all()


def test_learns_two_people_apart():
    torch.manual_seed(0)
    config = tiny_config(people=["dark", "light"])
    model = FaceSwapModel(config)
    labels = torch.arange(8) % 2
    targets = torch.where(labels.view(-1, 1, 1, 1) == 0, 0.2, 0.8).expand(8, 3, 16, 16)
    pixels = targets + 0.05 * torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(pixels, labels, targets).loss.backward()
        optimizer.step()
    faces, _ = model.swap(pixels, "light")
    assert faces[labels == 0].mean() > 0.7, "dark inputs come out light"


def test_loads_as_a_feature_extractor(tmp_path):
    config = tiny_config()
    FaceSwapModel(config).save_pretrained(tmp_path)
    FaceImageProcessor(size=16, image_mean=0.0, image_std=1.0).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    extract = pipeline("image-feature-extraction", model=str(tmp_path), image_processor=processor)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))
    assert np.shape(extract(photo, pool=True)) == (1, config.latent_size)
