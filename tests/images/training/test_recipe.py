"""Recipes of autoencoders: what they refuse before any data is loaded, and who ends up on which side."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.errors import InputError
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.images.training.collator import AutoencoderCollator
from hfembed.images.training.loss import AutoencoderLoss
from hfembed.images.training.recipe import (
    AutoencoderTrainingConfig,
    load_images,
    make_augmentation,
    make_corruption,
    make_model,
    make_processor,
    split_images,
    without_margin,
)
from hfembed.training.config import build_config

TINY = {"image_size": [16, 16], "color": "gray", "model": {"widths": [8, 8], "latent_channels": 2}}


@pytest.fixture
def people(tmp_path):
    folder = tmp_path / "people"
    for person in range(10):
        (folder / f"person_{person}").mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng((person, number)).integers(0, 256, (24, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"person_{person}" / f"{number}.png")
    return folder


def recipe(**fields):
    return build_config(AutoencoderTrainingConfig, {**TINY, **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"held_out_share": 0.0}, "held_out_share must be in"),
        ({"image_size": [18, 16]}, "image_size .* must be multiples of the stride, 4"),
        ({"model": {"latent_chanels": 3}}, "did you mean 'latent_channels'"),
        ({"model": {"num_channels": 3}}, "num_channels is set by the recipe"),
        ({"augmentation": {"miror": 0.5}}, "did you mean 'mirror'"),
        ({"corruption": {"noise": [0.2, 0.1]}}, "noise must be"),
        ({"corruption": {"chance": {"nois": 0.1}}}, "chance: unknown damage 'nois'; expected one of blur"),
        ({"crop_fraction": 0.9, "model": {"aligned_faces": True}}, "aligned_faces says .* crop_fraction is 1"),
        ({"frame_margin": 2}, "frame_margin needs room around the crop: crop_fraction of at most 0.800"),
        ({"color": "bgr"}, "'rgb' or 'gray'"),
        ({"perceptual_layers": [1]}, "perceptual_layer_weights must have a weight for each"),
        ({"face_points": [[1.0, 2.0]]}, "five"),
        ({"identity_start": 1.0}, "identity_start needs an identity_network"),
        ({"model": {"code_filters": True}}, "'code_filters': it belongs to AppearanceAutoencoderConfig"),
        ({"model": {"model_type": "hfembed_word2vec"}}, "unsupported model_type 'hfembed_word2vec'"),
        ({"model": {"bottleneck": "warp", "variational": True}}, "cannot be variational"),
    ],
)
def test_impossible_recipes_are_refused(fields, words):
    with pytest.raises(InputError, match=words):
        recipe(**fields)


def test_nobody_is_on_two_sides_and_the_seed_of_training_changes_nobody(people):
    splits = []
    for seed in (0, 1):
        config = recipe(images=str(people), held_out_share=0.2, validation_share=0.25, seed=seed)
        split = split_images(load_images(config), config.held_out_share, config.validation_share, config.split_seed)
        splits.append([set(part.features["label"].names) for part in split])
    assert splits[0] == splits[1]
    train, validation, held_out = splits[0]
    assert (len(train), len(validation), len(held_out)) == (6, 2, 2)
    assert len(train | validation | held_out) == 10


def test_too_few_people_to_hold_out(tmp_path):
    (tmp_path / "one" / "person").mkdir(parents=True)
    Image.new("L", (20, 20)).save(tmp_path / "one" / "person" / "a.png")
    config = recipe(images=str(tmp_path / "one"))
    with pytest.raises(InputError, match=r"one side of the split empty \(people: 1\)"):
        split_images(load_images(config), config.held_out_share, 0.0, 0)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none"):
        load_images(recipe(images=str(tmp_path / "none")))


def test_batches_are_keyed_and_corrupted_in_clean_out(people, tmp_path):
    config = recipe(
        images=str(people),
        crop_fraction=0.6,
        frame_margin=2,
        augmentation={"mirror": 0.5, "shift": 0.05},
        corruption={"noise": [0.1, 0.1]},
    )
    framed = make_processor(config, config.frame_margin)
    processor = make_processor(config)
    photos = AlignedFaces(load_images(config), framed, cache_dir=tmp_path / "cache", show_progress=False)
    assert photos.shape == (1, 20, 20)
    # the frame shows more of the photo at the same scale: its middle is the crop itself
    middle = without_margin(photos.pixels(), 2)
    expected = AlignedFaces(load_images(config), processor, cache_dir=tmp_path / "cache", show_progress=False).pixels()
    assert (middle.int() - expected.int()).abs().float().mean() < 12
    collate = AutoencoderCollator(processor, make_augmentation(config), make_corruption(config))
    batch = collate([photos[0, 4], photos[0, 7]])
    again = collate([photos[0, 7]])
    assert batch["pixel_values"].shape == batch["targets"].shape == (2, 1, 16, 16)
    torch.testing.assert_close(batch["pixel_values"][1:], again["pixel_values"])
    torch.testing.assert_close(batch["targets"][1:], again["targets"])
    assert 0.05 < (batch["pixel_values"] - batch["targets"]).std() < 0.12
    assert not torch.equal(collate([photos[1, 7]])["pixel_values"], again["pixel_values"])
    loss, figures = AutoencoderLoss(config, torch.device("cpu"))(make_model(config).train(), batch)
    assert loss.isfinite() and figures["reconstruction_loss"] == loss


def test_a_mixture_of_damages_and_its_masks(people):
    model = {"model_type": "hfembed_restoration_autoencoder", "widths": [8, 8], "inpainting": True, "fill": "smooth"}
    chance = {"noise": 0.5, "strokes": 0.5}
    corruption = {"noise": [0.1, 0.1], "strokes": [1, 2], "stroke_width": [2, 4], "chance": chance}
    config = recipe(images=str(people), model=model, corruption=corruption)
    processor = make_processor(config)
    photos = AlignedFaces(load_images(config), processor, show_progress=False)
    collate = AutoencoderCollator(processor, None, make_corruption(config), show_holes=True)
    batch = collate([photos[0, row] for row in range(24)])
    has_hole = batch["mask"].flatten(1).any(1)
    changed = (batch["pixel_values"] != batch["targets"]) & ~batch["mask"]
    assert 3 < has_hole.sum() < 21 and 3 < changed.flatten(1).any(1).sum() < 21
    assert torch.equal(collate([photos[0, 5]])["mask"], batch["mask"][5:6])
    loss, _ = AutoencoderLoss(config, torch.device("cpu"))(make_model(config).train(), batch)
    assert loss.isfinite()
    for nothing in ({}, {"noise": [0.1, 0.1]}):
        with pytest.raises(ValueError, match="learns from holes"):
            AutoencoderCollator(processor, None, make_corruption(recipe(corruption=nothing)), show_holes=True)


def test_start_from_another_checkpoint(tmp_path):
    config = recipe()
    first = make_model(config)
    first.save_pretrained(tmp_path)
    make_processor(config).save_pretrained(tmp_path)
    second = make_model(recipe(init_from=str(tmp_path)))
    assert second.training
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    with pytest.raises(InputError, match="takes images of 1 channels, sides divisible by 4"):
        make_model(recipe(init_from=str(tmp_path), color="rgb"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hfembed_word2vec"}))
    with pytest.raises(InputError, match="not an autoencoder"):
        make_model(recipe(init_from=str(tmp_path)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"bottleneck": "warp"}, {"model_type": "hfembed_appearance_autoencoder"}),
        ({"skip_connections": True}, {"model_type": "hfembed_restoration_autoencoder"}),
    ],
)
def test_recipes_of_older_versions_name_the_family_by_its_fields(old, new):
    fields = {"widths": [8], "patch_size": 4, "latent_channels": 20}
    models = [make_model(recipe(model=fields | family)) for family in (old, new)]
    assert type(models[0]) is type(models[1]) and models[0].config.to_dict() == models[1].config.to_dict()


def test_a_linear_code_with_filters_takes_an_identity_start_by_itself():
    linear = {"model_type": "hfembed_appearance_autoencoder", "latent_channels": 6, "warp_latents": 0}
    sizes = {"widths": [8], "patch_size": 4, "code_filters": True}
    start = {"identity_start": 0.5, "identity_network": "some"}
    assert make_model(recipe(model=linear | sizes, **start)).bottleneck.code.filters is not None
    with pytest.raises(InputError, match="or a model of warp_latents: 0 and code_filters: true"):
        recipe(model=linear | sizes | {"code_filters": False}, **start)


def test_identity_start_needs_a_warped_code_and_gives_it_filters(tmp_path):
    warped = {
        "model_type": "hfembed_appearance_autoencoder",
        "latent_channels": 6,
        "warp_latents": 2,
        "widths": [8],
        "patch_size": 4,
    }
    for name, model in (("conv", TINY["model"]), ("warp", warped)):
        config = recipe(model=model)
        make_model(config).save_pretrained(tmp_path / name)
        make_processor(config).save_pretrained(tmp_path / name)
    start = {"identity_start": 0.5, "identity_network": "some"}
    with pytest.raises(InputError, match="identity_start needs an appearance autoencoder; .*conv"):
        make_model(recipe(init_from=str(tmp_path / "conv"), **start))
    model = make_model(recipe(init_from=str(tmp_path / "warp"), **start))
    first = make_model(recipe(init_from=str(tmp_path / "warp")))
    assert model.training and not model.bottleneck.code.filters.any()
    assert torch.equal(model.bottleneck.code.basis, first.bottleneck.code.basis)
