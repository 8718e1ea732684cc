"""Figures of swapped faces against recomputation one face at a time, and poses of known landmarks."""

import json
import tarfile
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from hfembed.cli import app
from hfembed.convert.mtcnn import convert_mtcnn
from hfembed.errors import InputError
from hfembed.faces.crop_landmarks import find_landmarks
from hfembed.faces.swap.evaluation import (
    Faces,
    SwapEvaluation,
    face_poses,
    oval_energy,
    pose_figures,
    thirds,
)
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.face_swap.configuration_face_swap import FaceSwapConfig
from hfembed.models.face_swap.modeling_face_swap import FaceSwapModel
from tests.faces.data.conftest import person_photos, write_folder

PEOPLE = ["Ann", "Bob", "Cy"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    settings = {"image_size": 16, "encoder_widths": [6, 8], "decoder_widths": [8, 6], "latent_size": 10}
    return FaceSwapModel(FaceSwapConfig(people=PEOPLE, **settings)).eval()


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(1)
    settings = {"trunk": "iresnet", "trunk_arguments": {"depths": [1], "widths": [8]}, "image_size": [20, 16]}
    return FaceEmbedderModel(FaceEmbedderConfig(**settings, embedding_size=6)).eval()


@pytest.fixture
def processors():
    return FaceImageProcessor(size=16, image_mean=0.0, image_std=1.0), FaceImageProcessor(size=[20, 16])


def faces(labels, seed):
    pixels = torch.rand(len(labels), 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Faces(pixels, np.array(labels), [f"{label}/{place}" for place, label in enumerate(labels)])


def turned(yaw, nod=0.0, size=16):
    """The template's landmarks with the nose moved, in distances between the eyes' and the mouth's middle."""
    points = np.array(template_for_size(size, size))
    down = points[3:].mean(axis=0) - points[:2].mean(axis=0)
    points[2] += yaw * np.array([down[1], -down[0]]) + nod * down
    return points


def test_figures_are_those_of_one_face_at_a_time(model, embedder, processors):
    processor, embedder_processor = processors
    trained, tested = faces([0, 0, 1, 2, 2], 1), faces([0, 1, 2, 1], 2)
    figures = SwapEvaluation(trained, tested, embedder, embedder_processor, batch_size=2)(model, processor)

    def embed(face):
        picture = (face * 255).round().to(torch.uint8)
        crop = embedder_processor(picture, landmarks=processor.template).pixel_values
        return embedder.embed(crop)[0]

    mean = []
    for person in range(3):
        own = [embed(trained.pixels[row]) for row in np.flatnonzero(trained.labels == person)]
        mean.append(F.normalize(torch.stack(own).mean(0), dim=0))
    to_target, to_source = [], []
    for row, source in enumerate(tested.labels):
        for target in set(range(3)) - {int(source)}:
            swapped = embed(model.swap(tested.pixels[row : row + 1], PEOPLE[target])[0][0])
            to_target.append(float(swapped @ mean[target]))
            to_source.append(float(swapped @ mean[source]))
    # the brute force rounds to 8 bits and back
    assert figures["swap_cosine_to_target"] == pytest.approx(np.mean(to_target), abs=0.02)
    assert figures["swap_cosine_to_source"] == pytest.approx(np.mean(to_source), abs=0.02)
    assert figures["swap_count"] == 8
    bound = np.mean([float(embed(f) @ mean[p]) for f, p in zip(tested.pixels, tested.labels, strict=True)])
    assert figures["swap_cosine_bound"] == pytest.approx(bound, abs=0.02)
    assert 0 <= figures["swap_closer_to_target"] <= 100


def test_sharpness_is_the_energy_of_neighbors_in_the_oval():
    pictures, oval = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0)), torch.rand(5, 6)
    for picture, energy in zip(pictures.numpy(), oval_energy(pictures, oval), strict=True):
        total = 0.0
        for step in ((0, 1), (1, 0)):
            pairs = [(y, x, y + step[0], x + step[1]) for y in range(5 - step[0]) for x in range(6 - step[1])]
            weights = [float(oval[y, x]) for *_, y, x in pairs]
            squares = [((picture[:, y, x] - picture[:, v, u]) ** 2).mean() for y, x, v, u in pairs]
            total += np.average(squares, weights=weights)
        assert energy.item() == pytest.approx(total, rel=1e-4)


def test_somebody_without_a_photo_is_named(model, embedder, processors):
    with pytest.raises(InputError, match="'Cy' was held out"):
        SwapEvaluation(faces([0, 1, 2], 1), faces([0, 1], 2), embedder, processors[1])(model, processors[0])


def test_poses_are_the_noses_place_and_turn_with_the_picture():
    landmarks = np.stack([turned(0), turned(0.2), turned(-0.1, 0.15)])
    poses = face_poses(landmarks)
    np.testing.assert_allclose(poses[1] - poses[0], [0.2, 0], atol=1e-9)
    np.testing.assert_allclose(poses[2] - poses[0], [-0.1, 0.15], atol=1e-9)
    quarter = np.array([[0, -3.0], [3.0, 0]])  # turned by 90 degrees and magnified
    np.testing.assert_allclose(face_poses(landmarks @ quarter.T + 5), poses, atol=1e-9)


def test_pose_figures():
    before = np.stack([turned(yaw) for yaw in (-0.2, 0.0, 0.1, 0.3)] + [np.full((5, 2), np.nan)])
    same = pose_figures(before, before)
    assert same["swap_landmark_error"] == 0 and same["swap_yaw_correlation"] == pytest.approx(1)
    assert same["swap_undetected"] == 0, "a photo without a face says nothing of its swap"
    after = np.stack([turned(yaw) for yaw in (0.2, 0.0, -0.1, -0.3)] + [turned(0)])
    after[1] = np.nan
    mirrored = pose_figures(before, after)
    assert mirrored["swap_yaw_correlation"] == pytest.approx(-1) and mirrored["swap_undetected"] == 25
    assert mirrored["swap_pose_error"] == pytest.approx((0.4 + 0.2 + 0.6) / 3)


def test_thirds_by_pose_distance():
    points = [{"distance": d / 10, "pose_error": d / 5, "cosine": 1 - d / 10} for d in (6, 2, 1, 3, 5, 4)]
    points.append({"distance": None, "pose_error": 0.1, "cosine": 0.0})
    near, middle, far = thirds(points)
    assert (near["from"], near["to"], near["count"]) == (0.1, 0.2, 2)
    assert middle["pose_error"] == pytest.approx(0.7) and far["cosine"] == pytest.approx(0.45)
    assert thirds([]) == []


class Pointer:
    """Finds a face at the brightest pixel of every picture that has one."""

    def detect(self, pictures):
        found = []
        for picture in pictures:
            gray = picture.astype(float).mean(axis=2)
            y, x = np.unravel_index(gray.argmax(), gray.shape)
            count = int(gray.max() > 100)
            found.append(SimpleNamespace(landmarks=torch.tensor([[[float(x), float(y)]] * 5] * count)))
        return found


def test_landmarks_are_in_pixels_of_the_crop():
    crops = torch.zeros(2, 3, 16, 16)
    crops[0, :, 4, 11] = 1
    landmarks = find_landmarks(Pointer(), crops)
    np.testing.assert_allclose(landmarks[0], [[11, 4]] * 5, atol=0.51)
    assert np.isnan(landmarks[1]).all()


def test_the_command_measures_what_was_held_out(model, embedder, processors, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    people = write_folder(tmp_path / "people", person_photos({"Ann": 3, "Bob": 2, "Cy": 2}))
    for folder, saved, processor in (("model", model, processors[0]), ("judge", embedder, processors[1])):
        saved.save_pretrained(tmp_path / folder)
        processor.save_pretrained(tmp_path / folder)
    command = ["evaluate", "swap", str(tmp_path / "model"), "--people", *(str(people / name) for name in PEOPLE)]
    command += ["--embedder", str(tmp_path / "judge"), "--output", str(tmp_path / "out")]
    without_notes = CliRunner().invoke(app, command)
    assert isinstance(without_notes.exception, InputError) and "training.json" in str(without_notes.exception)
    trained = [f"{name}/{name}_0001.jpg" for name in PEOPLE]
    (tmp_path / "model" / "training.json").write_text(json.dumps({"trained_files": trained}))
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.exception
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["swap_count"] == 8 and f"{results['swap_cosine_to_target']:.3f}" in done.output
    assert results["swap"]["photos"] == {"trained": [1, 1, 1], "held_out": [2, 1, 1]}
    assert Image.open(tmp_path / "out" / "swaps.png").size == (2 * (4 * 16 + 3 * 4), 2 * (3 * 16 + 2 * 4))
    missing = CliRunner().invoke(app, [argument for argument in command if not argument.endswith("Bob")])
    assert isinstance(missing.exception, InputError) and "'Bob'" in str(missing.exception)


@pytest.mark.data
def test_a_detector_finds_in_small_crops_what_it_finds_in_large_ones(research_data, tmp_path):
    weights = research_data / "weights" / "mtcnn_facenet_pytorch"
    archive = research_data / "celeba299" / "aligned_112x112.tgz"
    if not (weights.is_dir() and archive.is_file()):
        pytest.skip(f"no detector or no crops in {research_data}")
    photos = []
    with tarfile.open(archive, "r|gz") as opened:
        for member in opened:
            if member.name.endswith(".jpg"):
                photos.append(opened.extractfile(member).read())
            if len(photos) == 12:
                break
    detector = convert_mtcnn(str(weights), tmp_path / "mtcnn")
    found = {}
    for size in (64, 112):
        crops = [FaceImageProcessor(size=size).align(photo, template_for_size(112, 112)) for photo in photos]
        found[size] = find_landmarks(detector, torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255)
    distances = np.linalg.norm(found[64] - ((found[112] + 0.5) * 64 / 112 - 0.5), axis=2)
    assert np.isfinite(distances).all()
    assert np.median(distances) < 1, "pixels of the small crop"
