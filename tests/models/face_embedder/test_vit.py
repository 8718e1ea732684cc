"""The vision transformer trunk: contract, masked tokens in training, what no network can be."""

import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification

from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderForClassification, FaceEmbedderModel
from tests.contract import ModelContract
from tests.models.face_embedder.test_modeling_face_embedder import images, tiny_config

SIZES = {"width": 16, "depth": 2, "num_heads": 4, "patch_size": 4}


def vit_config(**arguments):
    return tiny_config(trunk="vit", trunk_arguments=SIZES | arguments)


class TestVit(ModelContract):
    base_class = FaceEmbedderModel
    head_classes = (FaceEmbedderForClassification,)
    auto_classes = {AutoModel: FaceEmbedderModel, AutoModelForImageClassification: FaceEmbedderForClassification}
    typo = ("trunks", "trunk")
    impossible = {"trunk": "vit_x"}

    def config(self):
        return vit_config(mask_ratio=0.2, stochastic_depth=0.1)

    def inputs(self, config, batch_size=3):
        return {"pixel_values": images(config, batch_size)}

    def labeled_inputs(self, config):
        return {"pixel_values": images(config, 10), "labels": torch.arange(5).repeat_interleave(2)}


def test_tokens_are_masked_in_training_alone():
    torch.manual_seed(0)
    model = FaceEmbedderModel(vit_config(mask_ratio=0.25))
    trunk, pixels = model.trunk, images(model.config)
    seen = []
    trunk.blocks[0].register_forward_hook(lambda block, inputs, output: seen.append(inputs[0]))
    behind = []
    trunk.merge.register_forward_pre_hook(lambda layer, inputs: behind.append(inputs[0].view(6, 20, 16)))
    model.train()
    trunk(pixels)
    assert seen[0].shape == (6, 15, 16), "three quarters of 5 x 4 tokens"
    # the learned token stands where tokens were left out, elsewhere in each image
    masked = (behind[0] == trunk.mask_token).all(2)
    assert masked.sum(1).tolist() == [5] * 6 and len({tuple(row.tolist()) for row in masked}) > 1
    # those that were kept come back to their places
    trunk.blocks = torch.nn.ModuleList()
    trunk.norm = torch.nn.Identity()
    expected = trunk.patches(pixels).flatten(2).transpose(1, 2) + trunk.positions
    trunk(pixels)
    kept = ~(behind[1] == trunk.mask_token).all(2)
    torch.testing.assert_close(behind[1][kept], expected[kept])
    model.eval()
    trunk(pixels)
    torch.testing.assert_close(behind[2], expected)


def test_every_weight_learns():
    """DistributedDataParallel waits for the gradient of every parameter."""
    for ratio in (0.0, 0.2):
        model = FaceEmbedderForClassification(vit_config(mask_ratio=ratio)).train()
        model(images(model.config, 10), torch.arange(5).repeat(2)).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        trunk = model.embedder.trunk
        assert 0.015 < trunk.positions.std() < 0.025 and 0.015 < trunk.blocks[1].expand.weight.std() < 0.025
        stages = trunk.parameter_stages()
        assert {id(weight) for stage in stages for weight in stage} == {id(weight) for weight in trunk.parameters()}


def test_optimized_for_inference_embeds_the_same():
    model = FaceEmbedderModel(vit_config()).eval()
    for norm in (model.trunk.merge_norm, model.norm):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
    pixels = images(model.config)
    optimized = model.optimize_for_inference()
    torch.testing.assert_close(optimized.embed(pixels), model.embed(pixels), atol=1e-5, rtol=0)
    assert not [module for module in optimized.modules() if isinstance(module, torch.nn.BatchNorm1d)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 18}, "multiple of num_heads"),
        ({"patch_size": 17}, "at most the side"),
        ({"patch_size": 0}, "at least 1"),
        ({"depth": 1.5}, "at least 1"),
        ({"mask_ratio": 1.0}, "must lie in"),
        ({"width": 16_384, "depth": 400}, "a network of .* weights"),
    ],
)
def test_impossible_networks_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        FaceEmbedderModel(vit_config(**arguments))


def test_public_sizes():
    for name, millions in (("vit_t", 19.14), ("vit_l", 255.68)):
        with torch.device("meta"):
            model = FaceEmbedderModel(FaceEmbedderConfig(trunk=name))
            assert model.trunk(torch.empty(2, 3, 112, 112)).shape[1:] == (model.trunk.out_channels, 1, 1)
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
