"""The face embedder as its users meet it: trunks, heads, fine-tuning, comparing faces."""

import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.margin_softmax import MARGIN_HEADS
from hfembed.models.face_embedder.metric_losses import METRIC_LOSSES
from hfembed.models.face_embedder.modeling_face_embedder import (
    FaceEmbedderForClassification,
    FaceEmbedderForTripletLearning,
    FaceEmbedderModel,
)
from tests.contract import ModelContract

THRESHOLDS = {"data": "LFW View 2", "impostors": 3000, "accuracy": 0.3, "eer": 0.25, "far": {"0.1": 0.1, "0.01": 0.4}}


def tiny_config(**fields):
    settings = {
        "trunk": "iresnet",
        "trunk_arguments": {"depths": [1, 2], "widths": [8, 16], "use_se": True},
        "image_size": [20, 16],
        "num_channels": 1,
        "embedding_size": 12,
        "num_labels": 5,
    }
    return FaceEmbedderConfig(**(settings | fields))


def images(config, batch_size=6, seed=0):
    shape = (batch_size, config.num_channels, *config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestFaceEmbedder(ModelContract):
    base_class = FaceEmbedderModel
    head_classes = (FaceEmbedderForClassification, FaceEmbedderForTripletLearning)
    auto_classes = {AutoModel: FaceEmbedderModel, AutoModelForImageClassification: FaceEmbedderForClassification}
    typo = ("embeding_size", "embedding_size")
    impossible = {
        "trunk": "iresnet51",
        "trunk_arguments": 3,
        "image_size": [112],
        "num_channels": 2,
        "embedding_size": "128",
        "pooling": "maximum",
        "dropout": 1.0,
        "margin": -0.1,
        "label_smoothing": 1,
        "triplet_margin": 0,
        "triplet_mining": "semihard",
    }

    def config(self):
        return tiny_config(head="adaface", margin=0.3, scale=16, thresholds=THRESHOLDS, dropout=0.1)

    def inputs(self, config, batch_size=3):
        return {"pixel_values": images(config, batch_size)}

    def labeled_inputs(self, config):
        return {"pixel_values": images(config, 10), "labels": torch.arange(5).repeat_interleave(2)}


class TestTimmFaceEmbedder(ModelContract):
    base_class = FaceEmbedderModel
    head_classes = (FaceEmbedderForClassification,)
    auto_classes = {AutoModelForImageClassification: FaceEmbedderForClassification}
    typo = ("trunks", "trunk")
    impossible = {"trunk": "timm/"}

    def config(self):
        return tiny_config(trunk="timm/test_resnet", trunk_arguments={}, image_size=[32, 32], bn_neck=False)

    def inputs(self, config, batch_size=3):
        return {"pixel_values": images(config, batch_size)}

    def labeled_inputs(self, config):
        return {"pixel_values": images(config, 10), "labels": torch.arange(5).repeat_interleave(2)}


# trunk, size of its last map for these images, number of weights in millions as published (embedding 512, no head)
TRUNKS = [
    ("iresnet18", [112, 112], (512, 7, 7), 24.03),
    ("iresnet34", [112, 112], (512, 7, 7), 34.14),
    ("iresnet50", [112, 96], (512, 7, 6), None),
    ("iresnet100", [112, 112], (512, 7, 7), 65.16),
    ("iresnet152", [112, 112], (2048, 7, 7), None),
    ("iresnet200", [112, 112], (512, 7, 7), None),
    ("vit_t", [112, 112], (256, 1, 1), None),
    ("mobilefacenet", [112, 112], (512, 7, 7), None),
    ("mobilefacenet", [112, 96], (512, 7, 6), None),
    ("mobilefacenet", [65, 50], (512, 5, 4), None),
    ("inception_resnet_v1", [160, 160], (1792, 3, 3), 23.48),
    ("inception_resnet_v1", [75, 112], (1792, 1, 2), None),
    ("sface", [112, 96], (1024, 7, 6), None),
    ("dlib_resnet29", [150, 150], (256, 2, 2), None),
    ("dlib_resnet29", [103, 151], (256, 1, 2), None),
]


@pytest.mark.parametrize(("trunk", "image_size", "map_size", "millions"), TRUNKS)
def test_trunk_shapes(trunk, image_size, map_size, millions):
    config = FaceEmbedderConfig(trunk=trunk, image_size=image_size)
    with torch.device("meta"):
        model = FaceEmbedderModel(config).eval()
        outputs = model(torch.empty(2, 3, *image_size))
    assert outputs.last_hidden_state.shape == (2, *map_size)
    assert outputs.embeddings.shape == outputs.pooler_output.shape == (2, 512) and outputs.norms.shape == (2,)
    if millions is not None:
        assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("pooling", ["flatten", "average", "depthwise"])
@pytest.mark.parametrize("trunk", ["iresnet", "mobilefacenet"])
def test_poolings(trunk, pooling):
    arguments = {"depths": [1, 1], "widths": [8, 16]} if trunk == "iresnet" else {}
    config = tiny_config(trunk=trunk, trunk_arguments=arguments, pooling=pooling)
    model = FaceEmbedderModel(config).eval()
    embeddings = model(images(config)).embeddings
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"trunk": "timm/resnet18x", "trunk_arguments": {}}, "did you mean 'resnet18'"),
        ({"trunk_arguments": {"depths": [1, 1], "widths": [8]}}, "a depth and a width for every stage"),
        ({"trunk": "mobilefacenet", "trunk_arguments": {"activation": "gelu"}}, "prelu, relu and relu6"),
        ({"trunk": "inception_resnet_v1", "trunk_arguments": {}}, "at least 75x75"),
        ({"trunk": "dlib_resnet29", "trunk_arguments": {}}, "at least 103x103"),
    ],
)
def test_impossible_networks_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        FaceEmbedderModel(tiny_config(**fields))


def test_argument_of_another_trunk_is_refused():
    with pytest.raises(Exception, match="'depths' is not allowed for trunk 'mobilefacenet'"):
        tiny_config(trunk="mobilefacenet")


def test_image_of_another_size_is_refused():
    model = FaceEmbedderModel(tiny_config(pooling="average"))
    with pytest.raises(ValueError, match=r"must be \(batch, 1, 20, 16\).*\(6, 1, 16, 20\)"):
        model(torch.zeros(6, 1, 16, 20))
    with pytest.raises(ValueError, match=r"got \(1, 20, 16\)"):
        model(torch.zeros(1, 20, 16))


def test_initialization_keeps_the_signal():
    torch.manual_seed(0)
    config = tiny_config(trunk_arguments={"depths": [1, 1], "widths": [64, 64]}, image_size=[32, 32])
    model = FaceEmbedderModel(config)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 10_000:
            fan_in = module.weight[0].numel()
            assert abs(module.weight.std() * (fan_in / 2) ** 0.5 - 1) < 0.05, name
    assert torch.equal(model.trunk.stem[2].weight, torch.full((64,), 0.25))
    assert torch.equal(model.norm.running_var, torch.ones(12)) and torch.equal(model.norm.weight, torch.ones(12))


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_convnext", "resnetblur18"])
def test_timm_keeps_its_initialization_and_buffers(architecture, tmp_path):
    size = [64, 64]
    torch.manual_seed(3)
    expected = timm.create_model(architecture, num_classes=0, **({"img_size": 64} if "vit" in architecture else {}))
    torch.manual_seed(3)
    model = FaceEmbedderModel(
        FaceEmbedderConfig(trunk=f"timm/{architecture}", image_size=size, embedding_size=8)
    ).eval()
    backbone = model.trunk.backbone
    for (name, ours), (_, theirs) in zip(backbone.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    model.save_pretrained(tmp_path)
    loaded = FaceEmbedderModel.from_pretrained(tmp_path)
    for (name, ours), (_, theirs) in zip(loaded.trunk.backbone.named_buffers(), backbone.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    pixel_values = torch.randn(2, 3, *size)
    torch.testing.assert_close(loaded(pixel_values).embeddings, model(pixel_values).embeddings)


def test_timm_weights_are_taken_over(tmp_path):
    torch.manual_seed(5)
    pretrained = timm.create_model("test_resnet", num_classes=10)
    torch.save(pretrained.state_dict(), tmp_path / "weights.pth")
    model = FaceEmbedderForClassification.from_timm(
        "test_resnet", weights=tmp_path / "weights.pth", image_size=[32, 32], num_labels=7
    )
    pixel_values = torch.randn(2, 3, 32, 32)
    model.eval()
    expected = pretrained.eval().forward_features(pixel_values)
    assert torch.equal(model.embedder(pixel_values).last_hidden_state, expected)
    assert model(pixel_values).logits.shape == (2, 7)


@pytest.mark.parametrize("head", ["softmax", *MARGIN_HEADS])
def test_classification_heads_learn(head):
    torch.manual_seed(0)
    others = {"combined": {"margins": [1.0, 0.1, 0.0]}, "magface": {"margin_range": [0.1, 0.2], "norm_penalty": 1.0}}
    config = tiny_config(head=head, scale=8, label_smoothing=0.05, **others.get(head, {"margin": 0.1}))
    model = FaceEmbedderForClassification(config)
    labels = torch.arange(5).repeat_interleave(4)
    pixel_values = images(config, 5)[labels] + 0.1 * images(config, 20, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(25):
        loss = model(pixel_values, labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model(pixel_values).logits.argmax(1).eq(labels).all()


def test_logits_carry_no_margin():
    config = tiny_config(head="arcface", scale=10)
    model = FaceEmbedderForClassification(config).eval()
    pixel_values, labels = images(config, 5), torch.arange(5)
    outputs = model(pixel_values, labels)
    cosines = F.normalize(model.embedder(pixel_values).embeddings) @ F.normalize(model.classifier.weight).T
    torch.testing.assert_close(outputs.logits, 10 * cosines)
    assert outputs.loss > F.cross_entropy(outputs.logits, labels)
    torch.testing.assert_close(model(pixel_values).logits, outputs.logits)


def test_softmax_is_linear_on_the_embedding_before_normalization():
    config = tiny_config(head="softmax")
    model = FaceEmbedderForClassification(config).eval()
    outputs = model(images(config), torch.zeros(6, dtype=torch.long))
    features = outputs.embeddings * outputs.norms[:, None]
    expected = features @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(outputs.logits, expected)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(expected, torch.zeros(6, dtype=torch.long)))


def test_adaface_statistics_move_in_training_only_and_are_saved(tmp_path):
    config = tiny_config(head="adaface")
    model = FaceEmbedderForClassification(config).eval()
    pixel_values, labels = images(config, 5), torch.arange(5)
    model(pixel_values, labels)
    assert model.classifier.norm_mean == 20 and model.classifier.norm_std == 100
    norms = model.train()(pixel_values, labels).norms.detach()
    torch.testing.assert_close(model.classifier.norm_mean, 0.99 * torch.tensor(20.0) + 0.01 * norms.mean())
    torch.testing.assert_close(model.classifier.norm_std, 0.99 * torch.tensor(100.0) + 0.01 * norms.std())
    model.save_pretrained(tmp_path)
    loaded = FaceEmbedderForClassification.from_pretrained(tmp_path)
    assert loaded.classifier.norm_mean == model.classifier.norm_mean


@pytest.mark.parametrize("mining", ["semi-hard", "hard", "all", "all-violating", "contrastive"])
def test_metric_learning_brings_people_together(mining):
    torch.manual_seed(0)
    fields = {"metric_loss": "contrastive"} if mining == "contrastive" else {"triplet_mining": mining}
    config = tiny_config(**fields)
    model = FaceEmbedderForTripletLearning(config)
    labels = torch.arange(5).repeat_interleave(4)
    pixel_values = images(config, 5)[labels] + 0.3 * images(config, 20, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(25):
        outputs = model(pixel_values, labels)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
    embeddings = model.embed(pixel_values)
    similarities = embeddings @ embeddings.T
    same = labels[:, None] == labels
    assert similarities[same].min() > similarities[~same].max()
    assert 0 <= outputs.active_share <= 1
    loss, active_share = model.metric_loss(outputs.embeddings, labels)
    torch.testing.assert_close(loss, outputs.loss)
    assert active_share == outputs.active_share


@pytest.mark.parametrize("head", ["softmax", *MARGIN_HEADS])
def test_loss_under_autocast_is_computed_in_float32(head):
    config = tiny_config(head=head, scale=64)
    model = FaceEmbedderForClassification(config)
    pixel_values, labels = images(config, 5), torch.arange(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(pixel_values, labels)
    assert outputs.loss.dtype == outputs.embeddings.dtype == torch.float32
    if head != "softmax":
        # the cosines of these very embeddings, not rounded to bfloat16
        cosines = outputs.embeddings @ F.normalize(model.classifier.weight).T
        cosines = cosines.unflatten(1, (5, -1)).amax(2)  # the nearest center where a person has several
        torch.testing.assert_close(outputs.logits, 64 * cosines, rtol=1e-5, atol=1e-4)
    outputs.loss.backward()


def test_embed_uses_the_mirror():
    config = tiny_config()
    model = FaceEmbedderModel(config)
    pixel_values = images(config)
    model.eval()
    with torch.no_grad():
        straight, mirrored = model(pixel_values), model(pixel_values.flip(3))
    raw = [view.embeddings * view.norms[:, None] for view in (straight, mirrored)]
    model.train()
    for mirror, expected in [("none", raw[0]), ("sum", raw[0] + raw[1]), ("concatenate", torch.cat(raw, 1))]:
        model.config.mirror = mirror
        embeddings = model.embed(pixel_values)
        torch.testing.assert_close(embeddings, F.normalize(expected))
        assert not embeddings.requires_grad
        assert model.training and model.norm.training, "embed leaves the mode as it was"
    model.config.mirror = "sum"
    torch.testing.assert_close(model.embed(pixel_values), model.embed(pixel_values.flip(3)))


def test_verify_decides_by_the_stored_thresholds():
    model = FaceEmbedderModel(tiny_config(thresholds=THRESHOLDS))
    angles = torch.tensor([0.05, 0.2, 0.35, 0.5]).acos()
    first = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    second = torch.stack([angles.cos(), angles.sin()], 1)
    torch.testing.assert_close(model.similarity_pairwise(first, second), angles.cos())
    torch.testing.assert_close(model.similarity(first[:2], second), angles.cos().expand(2, 4))
    assert model.verify(first, second).tolist() == [False, False, True, True]
    # arrays too
    torch.testing.assert_close(model.similarity(first.numpy(), second.numpy()), model.similarity(first, second))
    assert model.verify(first.numpy(), second.numpy()).tolist() == [False, False, True, True]
    assert model.verify(first, second, far=0.1).tolist() == [False, True, True, True]
    assert model.verify(first, second, far=1e-2).tolist() == [False, False, False, True]
    with pytest.raises(ValueError, match="rate of 0.001; it has: 0.01, 0.1"):
        model.verify(first, second, far=0.001)
    with pytest.raises(ValueError, match="no thresholds; measure it on photos.*evaluate identification MODEL"):
        FaceEmbedderModel(tiny_config()).verify(first, second)
    with pytest.raises(ValueError, match="as embed"):
        model.similarity(images(model.config), images(model.config))


def test_probability_follows_the_stored_calibration(tmp_path):
    calibration = {"slope": 20.0, "intercept": -6}
    FaceEmbedderModel(tiny_config(thresholds=THRESHOLDS | {"calibration": calibration})).save_pretrained(tmp_path)
    model = FaceEmbedderModel.from_pretrained(tmp_path)
    first, second = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[0.3, 0.91**0.5], [1.0, 0.0]])
    torch.testing.assert_close(model.probability(first, second), torch.tensor([0.5, 1 / (1 + math.exp(-14))]))
    # Bayes: even odds times 1 : 3
    torch.testing.assert_close(model.probability(first, second, prior=0.25)[0], torch.tensor(0.25))
    with pytest.raises(ValueError, match="a prior lies between 0 and 1, got 0"):
        model.probability(first, second, prior=0)
    with pytest.raises(ValueError, match="no calibration"):
        FaceEmbedderModel(tiny_config(thresholds=THRESHOLDS)).probability(first, second)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"impostors": None}, "number of impostor pairs"),
        ({"data": None}, "name the data"),
        ({"data": "x\x1b[2J\nprobability 1.000"}, "in a line"),
        ({"data": "x" * 1001}, "in a line"),
        ({"accuracy": True}, "must be a cosine"),
        ({"accuracy": 1.2}, "threshold for accuracy must be a cosine"),
        ({"far": {"0.0001": 0.6}}, "0.0001 cannot be estimated from 3000"),
        ({"far": {"0.1": 0.4, "0.01": 0.1}}, "out of order"),
        ({"frr": 0.1}, "unknown key 'frr'"),
        ({"calibration": {"slope": 3.0}}, "must have a slope and an intercept"),
        ({"calibration": {"slope": -3.0, "intercept": 0.0}}, "a higher cosine must mean a higher probability"),
        ({"calibration": {"slope": 3.0, "intercept": float("nan")}}, "intercept.* must be a finite number"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(change, words):
    with pytest.raises(Exception, match=words):
        tiny_config(thresholds=THRESHOLDS | change)


def test_fine_tuning_the_classifier_leaves_the_rest_alone():
    torch.manual_seed(0)
    config = tiny_config(head="softmax", dropout=0.5, trunk_arguments={"depths": [1, 1], "widths": [8, 16]})
    model = FaceEmbedderForClassification(config)
    model.freeze_trunk()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pixel_values, labels = images(config, 10), torch.arange(5).repeat(2)
    expected = model.embed(pixel_values)
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1.0)
    for _ in range(3):
        outputs = model(pixel_values, labels)
        torch.testing.assert_close(outputs.embeddings, expected, msg="dropout or BatchNorm is in training mode")
        outputs.loss.backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("classifier."), name


@pytest.mark.parametrize(
    ("trunk", "arguments", "last_stages"),
    [
        ("iresnet", {"depths": [1, 1], "widths": [8, 16]}, ["stages.1.", "norm."]),
        ("mobilefacenet", {}, ["stages.4.", "expand."]),
        ("vit", {"width": 16, "depth": 2, "patch_size": 8}, ["blocks.1.", "norm.", "merge"]),
        ("timm/test_resnet", {}, ["backbone.layer4."]),
    ],
)
def test_fine_tuning_the_last_stage(trunk, arguments, last_stages):
    config = tiny_config(trunk=trunk, trunk_arguments=arguments, image_size=[32, 32])
    model = FaceEmbedderForClassification(config)
    model.freeze_trunk(unfreeze_last=1)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    model(images(config, 10), torch.arange(5).repeat(2)).loss.backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        in_trunk = name.startswith("embedder.trunk.")
        free = not in_trunk or any(name.startswith("embedder.trunk." + stage) for stage in last_stages)
        if not free or "running" in name or "num_batches" in name:
            assert torch.equal(value, before[name]) != free, name
    for name, parameter in model.named_parameters():
        in_trunk = name.startswith("embedder.trunk.")
        free = not in_trunk or any(name.startswith("embedder.trunk." + stage) for stage in last_stages)
        assert (parameter.grad is not None) == free, name


def test_freezing_says_what_it_cannot_do():
    model = FaceEmbedderForTripletLearning(tiny_config())
    with pytest.raises(ValueError, match="has 3 stages, cannot unfreeze 4"):
        model.freeze_trunk(unfreeze_last=4)
    with pytest.raises(ValueError, match="nothing to train"):
        model.freeze_trunk()
    model.freeze_trunk(unfreeze_last=3)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("head", ["softmax", "arcface"])
def test_imprinting_classifies_by_class_means(head):
    torch.manual_seed(0)
    config = tiny_config(head=head, scale=20)
    model = FaceEmbedderForClassification(config)
    labels = torch.arange(5).repeat_interleave(3)
    means = F.normalize(torch.randn(5, 12))
    embeddings = F.normalize(means[labels] + 0.3 * torch.randn(15, 12))
    features = 7 * embeddings
    model.imprint(features, labels)
    expected = F.normalize(torch.stack([embeddings[labels == person].mean(0) for person in range(5)]))
    torch.testing.assert_close(F.normalize(model.classifier.weight), expected)
    torch.testing.assert_close(model(features=features).logits, 20 * embeddings @ expected.T)
    with pytest.raises(ValueError, match=r"none for \[4\]"):
        model.imprint(features[:12], labels[:12])
    with pytest.raises(ValueError, match=r"\(N, 12\), got \(15, 24\)"):
        model.imprint(torch.cat([features, features], 1), labels)


@pytest.mark.parametrize("head", ["softmax", "adaface"])
def test_features_computed_before_give_the_same(head):
    config = tiny_config(head=head)
    model = FaceEmbedderForClassification(config).eval()
    pixel_values, labels = images(config, 5), torch.arange(5)
    outputs = model(pixel_values, labels)
    again = model(features=outputs.embeddings * outputs.norms[:, None], labels=labels)
    torch.testing.assert_close(again.loss, outputs.loss)
    torch.testing.assert_close(again.logits, outputs.logits)
    with pytest.raises(ValueError, match="either pixel_values or features"):
        model()


def test_pipelines_take_photos(tmp_path):
    names = dict(enumerate("ABCDE"))
    config = tiny_config(num_channels=3, id2label=names, label2id={name: index for index, name in names.items()})
    model = FaceEmbedderForClassification(config).eval()
    model.save_pretrained(tmp_path)
    FaceImageProcessor(size=[20, 16]).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is FaceImageProcessor
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)
    photos = [Image.fromarray(photo) for photo in pixels]
    pixel_values = processor(photos, return_tensors="pt").pixel_values
    extract = pipeline("image-feature-extraction", model=str(tmp_path), device="cpu")
    for batch_size in (1, 3):
        extracted = torch.tensor(extract(photos, pool=True, batch_size=batch_size)).squeeze(1)
        torch.testing.assert_close(extracted, model.embed(pixel_values), rtol=1e-5, atol=1e-5)
    classify = pipeline("image-classification", model=str(tmp_path), device="cpu")
    best = [answers[0]["label"] for answers in classify(photos)]
    assert best == [names[index] for index in model(pixel_values).logits.argmax(1).tolist()]


def test_replacing_the_head(tmp_path):
    model = FaceEmbedderForClassification(tiny_config(head="softmax"))
    embedder = {name: value.clone() for name, value in model.embedder.state_dict().items()}
    model.replace_head(id2label={0: "Ada", 1: "Bert", 2: "Cleo"})
    assert model(images(model.config)).logits.shape == (6, 3)
    assert 0.005 < model.classifier.weight.std() < 0.02
    model.save_pretrained(tmp_path)
    loaded = FaceEmbedderForClassification.from_pretrained(tmp_path)
    assert loaded.config.id2label == {0: "Ada", 1: "Bert", 2: "Cleo"} and loaded.config.label2id["Cleo"] == 2
    model.eval()
    for name, value in model.embedder.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, embedder[name]), name
    model.replace_head(num_labels=9)
    assert model.config.num_labels == 9 and model(images(model.config)).logits.shape == (6, 9)
    with pytest.raises(ValueError, match="either num_labels or id2label"):
        model.replace_head()


def test_another_number_of_people_renews_only_the_head(tmp_path):
    FaceEmbedderForClassification(tiny_config()).save_pretrained(tmp_path)
    base = FaceEmbedderModel.from_pretrained(tmp_path)
    model = FaceEmbedderForClassification.from_pretrained(tmp_path, num_labels=8, ignore_mismatched_sizes=True)
    assert model.classifier.weight.shape == (8, 12) and 0.005 < model.classifier.weight.std() < 0.02
    pixel_values = images(base.config)
    assert torch.equal(model.embed(pixel_values), base.embed(pixel_values))


@pytest.mark.parametrize(
    ("trunk", "arguments"),
    [
        ("iresnet", {"depths": [2, 2], "widths": [8, 16]}),
        ("iresnet", {"depths": [2, 2], "widths": [8, 16], "bottleneck": True, "use_se": True}),
        ("mobilefacenet", {}),
        ("timm/test_resnet", {}),
    ],
)
@torch.no_grad()
def test_optimized_for_inference_embeds_the_same(trunk, arguments):
    fields = {"trunk": trunk, "trunk_arguments": arguments, "mirror": "concatenate"}
    config = FaceEmbedderConfig(image_size=[48, 48], embedding_size=16, **fields)
    model = FaceEmbedderModel(config)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
        norm.bias.normal_(std=0.3)
    pixels = torch.randn(6, 3, 48, 48)
    optimized = model.optimize_for_inference()
    torch.testing.assert_close(optimized.embed(pixels), model.embed(pixels), atol=1e-5, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = optimized.embed(pixels)
    assert torch.cosine_similarity(rounded.float(), model.embed(pixels)).min() > 0.99
    folded = sum(isinstance(module, torch.nn.BatchNorm2d) for module in optimized.modules())
    assert folded < sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(("trunk", "size"), [("sface", 64), ("dlib_resnet29", 150)])
def test_converted_trunks_are_folded_and_run_in_bfloat16(trunk, size):
    torch.manual_seed(0)
    model = FaceEmbedderModel(FaceEmbedderConfig(trunk=trunk, image_size=[size, size], embedding_size=16)).eval()
    pixels = torch.randn(2, 3, size, size)
    optimized = model.optimize_for_inference()
    torch.testing.assert_close(optimized.embed(pixels), model.embed(pixels), atol=1e-5, rtol=0)
    # nothing is left to fold but what follows no layer of its own
    left = [name for name, module in optimized.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert left == (["trunk.norm"] if trunk == "sface" else [])
    fast = model.optimize_for_inference(torch.bfloat16)
    assert fast.dtype == torch.bfloat16 and model.dtype == torch.float32
    embeddings = fast.embed(pixels)
    assert embeddings.dtype == torch.float32
    assert torch.cosine_similarity(embeddings, model.embed(pixels)).min() > 0.99


def test_weights_that_are_not_finite_give_an_error_and_no_decision():
    model = FaceEmbedderModel(tiny_config(thresholds=THRESHOLDS)).train()
    good = model.embed(images(model.config))
    with torch.no_grad():
        model.projection.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weights contain non-finite numbers, in 'projection.weight'"):
        model.embed(images(model.config))
    assert model.training and model.norm.training
    bad = good.clone()
    bad[0, 0] = float("nan")
    for compare in (model.similarity, model.similarity_pairwise, model.verify):
        with pytest.raises(ValueError, match="non-finite"):
            compare(good, bad)


def test_embeddings_of_length_zero_give_an_error_and_no_decision():
    model = FaceEmbedderModel(tiny_config(thresholds=THRESHOLDS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with pytest.raises(ValueError, match="length zero"):
        model.embed(images(model.config))


@pytest.mark.parametrize("wrong", [torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 20, 16, dtype=torch.uint8)])
def test_a_refused_batch_leaves_the_model_in_its_mode(wrong):
    model = FaceEmbedderModel(tiny_config()).train()
    with pytest.raises(ValueError, match="pixel_values"):
        model.embed(wrong)
    assert model.training and all(module.training for module in model.modules())


def test_images_that_are_not_finite_are_named_as_the_reason():
    model = FaceEmbedderModel(tiny_config())
    with pytest.raises(ValueError, match="pixel_values contain non-finite"):
        model.embed(torch.full((1, 1, 20, 16), float("inf")))


def test_one_person_is_no_classification():
    with pytest.raises(ValueError, match="at least two people"):
        FaceEmbedderForClassification(tiny_config(num_labels=1))


@pytest.mark.parametrize(
    ("name", "margin"),
    [
        ("cosface", 0.35),
        ("arcface", 0.5),
        ("subcenter_arcface", 0.5),
        ("elasticface", 0.5),
        ("adaface", 0.4),
        ("curricularface", 0.5),
    ],
)
def test_a_margin_head_has_the_margin_of_its_paper(name, margin):
    assert FaceEmbedderForClassification(tiny_config(head=name)).classifier.margin == margin


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"margins": [1.0, 0.5]}, r"margins must be \[m1, m2, m3\]"),
        ({"margins": [0.0, 0.5, 0.0]}, r"m1 in \[0.5, 2\]"),
        ({"margins": [1.0, -0.1, 0.0]}, r"margins must be"),
        ({"margins": [1.0, 0.1, float("nan")]}, "margins.* must be a finite number"),
        ({"head": "combined", "margin": 0.3}, "no effect with head combined"),
        ({"head": "magface", "margin": 0.3}, "no effect with head magface; set margin_range"),
        ({"norm_range": [10.0, 10.0]}, "norm_range must be"),
        ({"margin_range": [0.8, 0.4]}, "margin_range must be"),
        ({"norm_penalty": -1.0}, "norm_penalty must not be negative"),
        ({"margin_deviation": -0.1}, "margin_deviation must not be negative"),
        ({"sub_centers": 0}, "sub_centers must lie between 1 and 64"),
    ],
)
def test_impossible_margins_and_centers_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        tiny_config(**fields)


def test_the_regularizer_of_norms_is_part_of_the_loss():
    model = FaceEmbedderForClassification(tiny_config(head="magface", norm_range=[1.0, 20.0], norm_penalty=0.0)).eval()
    pixel_values, labels = images(model.config, 5), torch.arange(5)
    without = model(pixel_values, labels)
    model.classifier.norm_penalty = 3.0
    norms = without.norms.clamp(1, 20)
    penalty = 3 * (1 / norms + norms / 400).mean()
    torch.testing.assert_close(model(pixel_values, labels).loss, without.loss + penalty)


def test_sub_centers_are_saved_replaced_and_imprinted(tmp_path):
    model = FaceEmbedderForClassification(tiny_config(head="subcenter_arcface", sub_centers=2))
    assert model.classifier.weight.shape == (10, 12)
    labels = torch.arange(5).repeat_interleave(3)
    features = torch.randn(15, 12)
    model.imprint(features, labels)
    means = torch.stack([F.normalize(features)[labels == person].mean(0) for person in range(5)])
    expected = F.normalize(features) @ F.normalize(means).T
    torch.testing.assert_close(model(features=features).logits, 64 * expected, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = FaceEmbedderForClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)
    model.replace_head(num_labels=3)
    assert model(features=features, labels=labels % 3).logits.shape == (15, 3)


@pytest.mark.parametrize("fields", [{"head": "sphereface"}, {"metric_loss": "lifted"}])
def test_unknown_heads_and_losses_are_refused(fields):
    with pytest.raises(Exception, match=f"unknown {next(iter(fields))} .* known"):
        tiny_config(**fields)


def test_a_metric_loss_is_an_entry_in_one_table(monkeypatch):
    monkeypatch.setitem(METRIC_LOSSES, "norms", lambda embeddings, labels, config: (embeddings.sum(), labels.sum()))
    model = FaceEmbedderForTripletLearning(tiny_config(metric_loss="norms"))
    outputs = model(images(model.config), torch.arange(6))
    assert torch.equal(outputs.loss, outputs.embeddings.sum())


def test_double_precision_and_other_integer_labels():
    model = FaceEmbedderForClassification(tiny_config(head="adaface")).double()
    pixel_values = images(model.config).double()
    assert model(pixel_values, torch.arange(6, dtype=torch.int32) % 5).loss.isfinite()
    assert model.embed(pixel_values).isfinite().all()
