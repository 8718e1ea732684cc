"""Groups against known people, and what the commands leave."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

from hfembed.cli import main
from hfembed.errors import InputError
from hfembed.faces import average_linkage
from hfembed.faces.clustering import choose_threshold, group_embeddings
from hfembed.faces.evaluation.occlusion import occlusion_map
from hfembed.faces.projection_plot import project
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel


def test_groups_are_the_people_largest_first():
    generator = np.random.default_rng(0)
    centers = np.linalg.qr(generator.standard_normal((16, 16)))[0][:5]
    owners = generator.permutation([0] * 3 + [1] * 9 + [2] * 5 + [3] + [4])
    faces = centers[owners] + 0.1 * generator.standard_normal((len(owners), 16))
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    groups = group_embeddings(faces, 0.5)
    expected = {1: 0, 2: 1, 0: 2}
    for person, group in expected.items():
        assert set(groups[owners == person]) == {group}
    assert sorted(np.bincount(groups), reverse=True) == np.bincount(groups).tolist() == [9, 5, 3, 1, 1]
    assert group_embeddings(faces[:1], 0.5).tolist() == [0]
    faces[3, 2] = np.nan
    with pytest.raises(InputError, match="not finite"):
        group_embeddings(faces, 0.5)


def test_a_chain_of_pairs_does_not_join_strangers():
    angles = np.radians([0, 40, 80, 120])  # neighbors have a cosine of 0.77, the ends of -0.5
    groups = group_embeddings(np.stack([np.cos(angles), np.sin(angles)], 1), 0.7)
    assert groups[0] != groups[3]


def test_two_faces_of_one_photo_are_two_people():
    # alike as they are, the faces of photo "a" stay apart, and those who belong to one of them stay with it
    angles = np.radians([0, 2, -3, -4, 6])
    faces = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert group_embeddings(faces, 0.9).tolist() == [0] * 5
    assert group_embeddings(faces, -1, ["a", "a", "b", "c", "d"]).tolist() == [0, 1, 0, 0, 1]
    assert sorted(group_embeddings(faces, -1, ["a"] * 5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("threshold", [-1, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("photos", [None, 120])
def test_groups_are_those_of_the_full_matrix(threshold, photos):
    generator = np.random.default_rng(3)
    centers = generator.standard_normal((20, 8))
    faces = centers[generator.integers(0, 20, 250)] + generator.standard_normal((250, 8))
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    names = None if photos is None else [str(number) for number in generator.integers(0, photos, 250)]
    distances = squareform(pdist(faces, "cosine"))
    if names is not None:
        distances[(np.array(names)[:, None] == np.array(names)) & ~np.eye(250, dtype=bool)] = 1e12
    expected = fcluster(linkage(squareform(distances), "average"), 1 - threshold, "distance")
    groups = group_embeddings(faces, threshold, names)
    assert ((groups[:, None] == groups) == (expected[:, None] == expected)).all()


def test_more_faces_than_all_pairs_of_are_compared(monkeypatch):
    pytest.importorskip("faiss")
    generator = np.random.default_rng(4)
    centers = generator.standard_normal((100, 32))
    faces = np.repeat(centers, 20, 0) + 0.4 * generator.standard_normal((2000, 32))
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    expected = group_embeddings(faces, 0.6)
    monkeypatch.setattr(average_linkage, "EXACT", 1000)
    assert (group_embeddings(faces, 0.6) == expected).mean() > 0.99
    monkeypatch.setattr(average_linkage, "MOST_PAIRS", 1000)
    with pytest.raises(InputError, match="more than 1,000 pairs of 2,000 faces reach a cosine of 0.6"):
        group_embeddings(faces, 0.6)


def test_the_threshold_comes_from_the_checkpoint():
    thresholds = {"far": {"0.01": 0.3, "0.001": 0.4}}
    assert choose_threshold(thresholds) == 0.4 and choose_threshold(thresholds, 1e-2) == 0.3
    with pytest.raises(InputError, match="rate of 0.0001 .it has: 0.001, 0.01.: give --threshold"):
        choose_threshold(thresholds, 1e-4)
    with pytest.raises(InputError, match="it has: none"):
        choose_threshold(None)


@pytest.mark.parametrize("method", ["t-sne", "pca"])
def test_the_projection_keeps_groups_apart(method):
    generator = np.random.default_rng(0)
    centers = np.linalg.qr(generator.standard_normal((8, 8)))[0][:2]
    owners = np.repeat([0, 1], 20)
    faces = centers[owners] + 0.05 * generator.standard_normal((40, 8))
    places = project(faces, method)
    assert places.shape == (40, 2)
    middles = [places[owners == group].mean(0) for group in (0, 1)]
    nearest = np.argmin([np.linalg.norm(places - middle, axis=1) for middle in middles], axis=0)
    assert (nearest == owners).all()
    with pytest.raises(InputError, match="at least 4"):
        project(faces[:3], method)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("embedder")
    arguments = {"depths": [1, 1, 1, 1], "widths": [8, 8, 8, 8]}
    config = FaceEmbedderConfig(
        trunk="iresnet", trunk_arguments=arguments, image_size=[32, 32], embedding_size=16, bn_neck=False
    )
    FaceEmbedderModel(config).save_pretrained(folder)
    FaceImageProcessor(size=[32, 32]).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Three people, four crops each, one of them named to do harm; and a file that is no picture."""
    folder = tmp_path / "photos"
    (folder / "within").mkdir(parents=True)
    for person in range(3):
        texture = np.random.default_rng(person).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        face = np.asarray(Image.fromarray(texture).resize((32, 32), Image.Resampling.BICUBIC), dtype=np.int16)
        for number in range(4):
            noise = np.random.default_rng((person, number)).integers(-10, 11, face.shape)
            name = "within/<b>it's.png" if (person, number) == (0, 0) else f"{person}_{number}.png"
            Image.fromarray((face + noise).clip(0, 255).astype(np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hfembed", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return run


def test_group_writes_contact_sheets_and_a_table(run, photos, checkpoint, tmp_path):
    out = tmp_path / "out"
    arguments = ("group", photos, out, "--model", checkpoint, "--aligned", "--device", "cpu")
    code, text, _ = run(*arguments, "--threshold", "0.99")
    assert code == 0 and "12 faces at cosine 0.990" in text and "no face from broken.jpg" in text
    with (out / "groups.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {row["file"] for row in rows} >= {"within/<b>it's.png", "2_3.png"}
    assert all((out / row["picture"]).is_file() for row in rows)
    index = (out / "index.html").read_text()
    assert "broken.jpg" in index and "&lt;b&gt;" in index and "<b>it" not in index
    assert "../index.html" in (out / "group_001" / "index.html").read_text()
    with Image.open(out / "map.png") as picture:
        assert picture.width > 500

    (out / "notes.txt").write_text("dear to somebody")
    code, _, err = run(*arguments, "--threshold", "0.99")
    assert code == 1 and "not a folder of groups (contains notes.txt)" in err
    (out / "notes.txt").unlink()
    code, _, _ = run(*arguments, "--threshold", "-1", "--map", "none")
    assert code == 0 and not (out / "map.png").exists() and not (out / "group_002").exists(), "replaced whole"
    for changed, message in (
        (("group", photos, photos, *arguments[3:]), "not a folder of groups"),
        (("group", tmp_path / "nowhere", *arguments[2:]), "no such folder"),
        (arguments, "no threshold for a false accept rate of 0.001"),
    ):
        code, _, err = run(*changed, *(() if changed == arguments else ("--threshold", "0.5")))
        last = err.splitlines()[-1]  # bars may stand before it
        assert code == 1 and last.startswith("error: ") and message in last


def test_the_threshold_stored_in_the_checkpoint_groups(run, photos, checkpoint, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    config = json.loads((model / "config.json").read_text())
    config["thresholds"] = {"data": "test", "impostors": 30_000, "accuracy": 0.9, "far": {"0.001": 0.95}}
    (model / "config.json").write_text(json.dumps(config))
    code, text, _ = run("group", photos, tmp_path / "out", "--model", model, "--aligned", "--map", "none")
    assert code == 0 and "12 faces at cosine 0.950" in text


def test_explain_draws_the_regions(run, photos, checkpoint, tmp_path):
    arguments = ("--model", checkpoint, "--aligned", "--patch", "12", "--device", "cpu")
    code, text, _ = run("explain", photos / "1_0.png", photos / "1_1.png", tmp_path / "why.png", *arguments)
    assert code == 0 and text.startswith("cosine similarity")
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.width > 500
    code, _, err = run("explain", photos / "1_0.png", photos / "broken.jpg", tmp_path / "no.png", *arguments)
    assert code == 1 and "broken.jpg" in err and err.count("\n") == 1


class LeftHalf(torch.nn.Module):
    """Sees the left half of a picture alone: what lies right of it cannot matter."""

    base_model = property(lambda self: self)
    device, dtype = torch.device("cpu"), torch.float32

    def embed_with_norms(self, pixel_values):
        seen = pixel_values[..., :16].flatten(1) + 1e-3
        return torch.nn.functional.normalize(seen), seen.norm(dim=1)


def test_regions_the_model_does_not_see_have_no_say():
    generator = torch.Generator().manual_seed(0)
    face = torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8)
    values, similarity = occlusion_map(LeftHalf(), FaceImageProcessor(size=[32, 32]), face, face, patch=8, stride=4)
    assert similarity == pytest.approx(1)
    assert values.shape == (32, 32)
    assert (values[:, 24:].abs() < 1e-6).all() and (values[:, :16] > 1e-3).all()
    with pytest.raises(ValueError, match="leaves gaps"):
        occlusion_map(LeftHalf(), FaceImageProcessor(size=[32, 32]), face, face, patch=4, stride=8)
