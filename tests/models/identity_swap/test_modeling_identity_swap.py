"""The identity-conditioned swap model as its users meet it: people as vectors, corrections, references."""

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from transformers import AutoModel

from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size
from hfembed.models.identity_swap.configuration_identity_swap import IdentitySwapConfig
from hfembed.models.identity_swap.modeling_identity_swap import (
    IdentitySwapModel,
    ModulatedBlock,
    blur,
    nearest_photos,
)
from tests.contract import ModelContract


def tiny_config(**fields):
    settings = {
        "people": ["anna", "bert", "carl"],
        "image_size": 16,
        "identity_size": 6,
        "patch_size": 2,
        "widths": [8, 16],
        "middle_blocks": 2,
        "reference_blur": 0.7,
        "light_size": 4,
        "photos_per_person": 3,
    }
    return IdentitySwapConfig(**(settings | fields))


def images(config, batch_size=4, seed=0):
    shape = (batch_size, config.num_channels, config.image_size, config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def photos(config, count, seed=0):
    shape = (count, config.photos_per_person, config.num_channels, config.image_size, config.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def vectors(count, size=6, seed=0):
    return F.normalize(torch.randn(count, size, generator=torch.Generator().manual_seed(seed)), dim=1)


class TestIdentitySwap(ModelContract):
    base_class = IdentitySwapModel
    head_classes = (IdentitySwapModel,)
    auto_classes = {AutoModel: IdentitySwapModel}
    typo = ("identity_sise", "identity_size")
    impossible = {
        "people": ["anna", "anna"],
        "image_size": 110,
        "num_channels": 2,
        "identity_size": 0,
        "identity_models": ["x"] * 9,
        "patch_size": 0,
        "widths": [12],
        "blocks_per_level": 0,
        "middle_blocks": 0,
        "reference_blur": 0.0,
        "correction_blur": -1.0,
        "light_size": 0,
        "photos_per_person": 0,
    }

    def config(self):
        return tiny_config()

    def model(self, model_class):
        model = super().model(model_class)
        model.people_vectors, model.people_photos = vectors(3), photos(model.config, 3)
        return model

    def inputs(self, config, batch_size=3):
        return {"pixel_values": images(config, batch_size), "labels": torch.arange(batch_size) % len(config.people)}

    def labeled_inputs(self, config):
        return {**self.inputs(config, 4), "target_pixel_values": images(config, 4, seed=1)}


class TestIdentitySwapWithPoints(TestIdentitySwap):
    impossible = {"image_size": 20}

    def config(self):
        return tiny_config(reference_points=True, gray_correction=True)

    def test_every_weight_learns(self):
        """Landmarks are learned from a detector's, and not from what is drawn."""
        model = self.model(IdentitySwapModel).train()
        output = model(**self.labeled_inputs(model.config))
        (output.loss + output.points.mean() + output.reference_points.mean()).backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


class TestGrayIdentitySwap(TestIdentitySwap):
    impossible = {}

    def config(self):
        return tiny_config(num_channels=1, widths=[8], patch_size=4)


def test_a_new_model_gives_faces_what_a_photo_has_between_light_and_detail():
    torch.manual_seed(0)
    config = tiny_config(photos_per_person=1)
    model = IdentitySwapModel(config)
    pixels, own = images(config), photos(config, 1)
    model.set_people(["dora"], vectors(1), own)
    faces, masks = model.swap(pixels, "dora")
    expected = pixels + masks * model.start_of_correction(pixels, own[:, 0] / 255)
    assert masks.shape == (4, 1, 16, 16) and (faces - expected.clamp(0, 1)).abs().mean() < 0.1
    assert masks[:, :, 10, 8].min() > 0.8 and masks[:, :, 0, 0].max() < 0.2, "the middle of the face, the corner"


def test_the_reference_is_the_photo_most_like_the_face():
    config = tiny_config()
    own = photos(config, 2)
    faces = own[torch.arange(2), torch.tensor([2, 1])] / 255
    darker = 0.2 + 0.5 * faces  # light as such does not count
    torch.testing.assert_close(nearest_photos(darker, own), faces)


def test_references_are_moved_to_the_landmarks_of_the_face():
    config = tiny_config(image_size=112, patch_size=8, reference_points=True, reference_blur=0.5)
    torch.manual_seed(0)
    model = IdentitySwapModel(config)
    usual = torch.tensor(template_for_size(112, 112))
    smooth = F.interpolate(images(tiny_config(), 2), (112, 112), mode="bicubic")
    with torch.no_grad():
        model.points.conv_out.weight.zero_()
    torch.testing.assert_close(model.points(smooth), usual.expand(2, -1, -1), atol=4, rtol=0)

    where = {"face": usual + torch.tensor([3.0, -2.0]), "reference": usual}
    model.points.forward = lambda faces: where["face" if faces is smooth else "reference"].expand(2, -1, -1)
    reference = images(config, 2, seed=1)
    reference[:, :, 52, 38] = 1.0
    moved, points, reference_points = model.move_references(smooth, F.avg_pool2d(reference, 3, 1, 1))
    assert torch.equal(points[0], where["face"]) and torch.equal(reference_points[0], where["reference"])
    inside = F.avg_pool2d(reference, 3, 1, 1)[:, :, 45:60, 40:60]
    assert (moved[:, :, 43:58, 43:63] - inside).abs().mean() < 0.3 * (moved[:, :, 45:60, 40:60] - inside).abs().mean()


def test_the_correction_keeps_the_light():
    model = IdentitySwapModel(tiny_config())
    pixels, references = images(model.config), images(model.config, seed=1)
    start = model.start_of_correction(pixels, references)
    torch.testing.assert_close(model.start_of_correction(pixels, references + 0.3), start)
    assert start.std() > 0.1


def test_blur_is_scipys():
    picture = images(tiny_config(), 2)
    expected = gaussian_filter(picture.double().numpy(), 0.8, axes=(2, 3), mode="nearest", radius=3)
    torch.testing.assert_close(blur(picture, 0.8).double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_a_blurred_correction_has_no_grid_of_folded_squares():
    def grid_of(**fields):
        torch.manual_seed(0)
        model = IdentitySwapModel(tiny_config(image_size=32, patch_size=4, **fields))
        with torch.no_grad():
            model.conv_out.weight.mul_(30)
            pixels = images(model.config)
            output = model(pixels, identities=vectors(4), references=pixels)  # the start is nothing
        spectrum = torch.fft.rfft2(output.reconstruction - pixels).abs().square()
        return spectrum[..., 8, :].sum() / spectrum.sum()  # 4 pixels from crest to crest

    assert grid_of(correction_blur=1.5) < 0.2 * grid_of()


def test_people_are_vectors_that_can_be_replaced(tmp_path):
    model = IdentitySwapModel(tiny_config(people=[]))
    with pytest.raises(ValueError, match="nobody yet; add people with `hfembed add-person`"):
        model.swap(images(model.config), "dora")
    known, own = vectors(2), photos(model.config, 2)
    model.set_people(["dora", "emil"], 3 * known, own)
    faces = images(model.config)
    references = nearest_photos(faces, own[1:].expand(4, -1, -1, -1, -1))
    with torch.no_grad():
        output = model(faces, identities=known[1].expand(4, -1), references=references)
    drawn = output.reconstruction.clamp(0, 1)
    torch.testing.assert_close(model.swap(images(model.config), "emil")[0], drawn)
    model.save_pretrained(tmp_path)
    loaded = IdentitySwapModel.from_pretrained(tmp_path)
    assert loaded.config.people == ["dora", "emil"]
    torch.testing.assert_close(loaded.people_vectors, known)
    torch.testing.assert_close(loaded.people_photos, own)


@pytest.mark.parametrize(
    ("people", "given", "words"),
    [
        (["dora"], torch.ones(2, 6), r"\(1, 6\)"),
        (["dora"], torch.ones(1, 5), r"\(1, 6\)"),
        (["dora"], torch.full((1, 6), float("nan")), "finite"),
        (["dora"], torch.zeros(1, 6), "zero"),
        (["dora", "dora"], torch.ones(2, 6), "duplicate name 'dora'"),
    ],
)
def test_impossible_people_are_refused(people, given, words):
    model = IdentitySwapModel(tiny_config())
    with pytest.raises(Exception, match=words):
        model.set_people(people, given, photos(model.config, len(people)))
    with pytest.raises(ValueError, match=r"photos must be \(1, 3, 3, 16, 16\)"):
        model.set_people(["dora"], vectors(1), photos(model.config, 2))
    assert model.config.people == ["anna", "bert", "carl"] and model.people_vectors.shape == (3, 6)


def test_wrong_inputs_are_refused():
    model = IdentitySwapModel(tiny_config())
    pixels = images(model.config)
    with pytest.raises(ValueError, match=r"\(batch, 3, 16, 16\)"):
        model(torch.rand(2, 3, 20, 16), torch.zeros(2, dtype=torch.int64))
    labels, faces = torch.zeros(4, dtype=torch.int64), images(model.config)
    for people in ({}, {"labels": labels, "identities": vectors(4), "references": faces}, {"identities": vectors(4)}):
        with pytest.raises(ValueError, match="one of the two"):
            model(pixels, **people)
    with pytest.raises(ValueError, match=r"\(4, 6\)"):
        model(pixels, identities=vectors(3), references=faces)
    with pytest.raises(ValueError, match="references must be"):
        model(pixels, identities=vectors(4), references=faces[:3])


def test_vectors_are_standardized():
    model = IdentitySwapModel(tiny_config())
    known = F.normalize(vectors(50) + 3, dim=1)
    model.standardize(known)
    seen = (known - model.identity_mean) * model.identity_scale
    torch.testing.assert_close(seen.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.ones(6), atol=1e-4, rtol=0)


def test_learns_to_follow_the_vector():
    torch.manual_seed(0)
    config = tiny_config(people=["dark", "light"])
    model = IdentitySwapModel(config)
    model.set_people(["dark", "light"], torch.eye(6)[:2], torch.full((2, 3, 3, 16, 16), 128, dtype=torch.uint8))
    labels = torch.arange(8) % 2
    targets = torch.where(labels.view(-1, 1, 1, 1) == 0, 0.2, 0.8).expand(8, 3, 16, 16)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(torch.full((8, 3, 16, 16), 0.5), labels, target_pixel_values=targets).loss.backward()
        optimizer.step()
    grays = torch.full((2, 3, 16, 16), 0.5)
    faces, _ = model.swap(grays, ["dark", "light"])
    assert faces[0].mean() < 0.3 and faces[1].mean() > 0.7


def test_blocks_start_near_the_identity():
    """A block without parameters of its own is passed over when transformers initializes modules one by one."""
    torch.manual_seed(0)
    blocks = [part for part in IdentitySwapModel(tiny_config()).modules() if isinstance(part, ModulatedBlock)]
    assert blocks
    for block in blocks:
        for layer, scale in ((block.conv1, 1), (block.conv2, 0.1), (block.modulation, 0.1)):
            spread = layer.weight.std().item()
            assert spread * layer.weight[0].numel() ** 0.5 == pytest.approx(scale, rel=0.2)
