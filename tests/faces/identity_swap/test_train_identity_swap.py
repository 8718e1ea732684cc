"""Training an identity-conditioned swap model by its script, and the way to new people: resuming, ranks, commands."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from typer.testing import CliRunner

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.cli import app
from hfembed.errors import InputError
from hfembed.faces.identity_swap.collator import IdentitySwapCollator
from hfembed.faces.identity_swap.identity_embedders import IdentityEmbedders
from hfembed.faces.identity_swap.loss import IdentitySwapLoss
from hfembed.faces.identity_swap.new_people import with_landmarks
from hfembed.faces.swap.person_crops import load_people
from hfembed.faces.swap.warping import WarpedPairs
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.identity_swap.configuration_identity_swap import IdentitySwapConfig
from hfembed.models.identity_swap.modeling_identity_swap import IdentitySwapModel
from tests.checkpoint.checkpoints import retinaface
from tests.fork_server import ScriptRun

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPT = REPOSITORY / "scripts" / "train_identity_swap.py"
TINY = {
    "aligned": "arcface_112",
    "held_out_share": 0.0,
    "min_photos": 2,
    "image_size": 32,
    "model": {"patch_size": 4, "widths": [8, 8], "middle_blocks": 1, "photos_per_person": 2},
    "perceptual_layers": [0, 1],
    "perceptual_layer_weights": [1.0, 1.0],
    "reference_shift": 0.5,
    "discriminator_weight": 0.5,
    "discriminator_start": 2,
    "discriminator_width": 8,
    "epochs": 3,
    "batch_size": 4,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "ema_decay": 0.9,
    "log_every": 1,
    "evaluate_every": 0,
    "checkpoint_every": 2,
    "keep_checkpoints": 9,
    "keep_best": False,
    "trackers": [],
}


@pytest.fixture
def people(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder, rng = tmp_path / "people", np.random.default_rng(0)
    for name, count in {"Ann": 5, "Bob": 4, "Cy": 4, "Dee": 3}.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            small.resize((112, 112), Image.Resampling.BICUBIC).save(folder / name / f"{number}.jpg")
    return folder


@pytest.fixture
def judges(tmp_path):
    return [make_judge(tmp_path / f"judge{seed}", seed) for seed in (0, 1)]


def make_judge(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    settings = {"trunk": "iresnet", "trunk_arguments": {"depths": [1], "widths": [8]}, "image_size": [20, 16]}
    FaceEmbedderModel(FaceEmbedderConfig(**settings, embedding_size=4 + seed)).save_pretrained(folder)
    FaceImageProcessor(size=[20, 16]).save_pretrained(folder)
    return str(folder)


def write_recipe(tmp_path, name: str, people: Path, judges: list[str], recipe: dict) -> Path:
    config = tmp_path / f"{name}.yaml"
    networks = {"identity_models": judges, "perceptual_network": judges[0]}
    config.write_text(yaml.safe_dump(TINY | networks | {"images": str(people)} | recipe))
    return config


def run(tmp_path, monkeypatch, output: str, people, judges, recipe: dict, *arguments: str) -> Path:
    """Run the script in this process, as on one rank on a CPU."""
    config, folder = write_recipe(tmp_path, output, people, judges, recipe), tmp_path / output
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--config", str(config), "--output_dir", str(folder), *arguments])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return folder


def numbers(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


@pytest.mark.parametrize("of_features", [False, True], ids=["pixels judged", "features judged"])
def test_trains_draws_and_resumes_to_the_last_digit(people, judges, tmp_path, monkeypatch, of_features):
    retinaface(tmp_path / "detector")
    recipe = {"held_out_share": 0.5, "evaluate_every": 3, "epochs": 8, "batch_size": 2}
    recipe |= {"landmark_detector": str(tmp_path / "detector"), "model": TINY["model"] | {"reference_points": True}}
    if of_features:
        recipe |= {"discriminator_network": judges[0], "discriminator_layers": [0, 1]}
    whole = run(tmp_path, monkeypatch, "whole", people, judges, recipe)
    model = IdentitySwapModel.from_pretrained(whole)
    assert model.config.people == [] and model.config.identity_size == 9
    assert model.config.identity_models == [Checkpoint.resolve(judge).fingerprint for judge in judges]
    assert {"adversarial", "identity_lost", "landmarks", "points"} <= numbers(whole)[
        -2
    ].keys() and "held_out_cosine" in numbers(whole)[-1]
    # one photo of each of two people held out, a heading row and a heading column
    assert Image.open(sorted((whole / "pictures").iterdir())[-1]).size == (14 + 3 * 36, 14 + 3 * 36)

    last = numbers(whole)[-1]["step"]
    killed = tmp_path / "killed"
    shutil.copytree(whole, killed)
    for name in ("config.json", "model.safetensors"):
        (killed / name).unlink()
    for folder in (killed / "checkpoints").glob("step_*"):
        if int(folder.name.removeprefix("step_")) > 4:
            shutil.rmtree(folder)
    assert last > 4
    resumed = run(tmp_path, monkeypatch, "killed", people, judges, recipe, "--resume")
    assert numbers(resumed) == numbers(whole)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


class Detector:
    """Finds a landmark pattern in every second picture."""

    def detect(self, pictures):
        found = torch.tensor([[[90.0, 100.0], [150.0, 100.0], [120.0, 130.0], [100.0, 160.0], [140.0, 160.0]]])
        nobody = found[:0]
        return [SimpleNamespace(landmarks=nobody if row % 2 else found) for row in range(len(pictures))]


def test_landmarks_are_learned_from_a_detector_and_hold_a_swapped_face(judges):
    torch.manual_seed(0)
    config = IdentitySwapConfig(
        image_size=32, identity_size=9, patch_size=4, widths=[8], photos_per_person=2, reference_points=True
    )
    model = IdentitySwapModel(config)
    embedders = IdentityEmbedders(judges, template_for_size(32, 32))
    photos = torch.randint(0, 256, (5, 2, 3, 32, 32), dtype=torch.uint8)
    settings = {"identity_weight": 0.0, "source_weight": 0.0, "mask_weight": 0.0, "landmark_detector": Detector()}
    people = torch.nn.functional.normalize(torch.randn(5, 9), dim=1)
    collate = IdentitySwapCollator(WarpedPairs(output_size=32), 5, 0.5, template_for_size(32, 32), seed=3)
    samples = [{"pixels": photos[row % 5, 0], "label": row % 5, "key": (0, row)} for row in range(12)]
    batch = collate(samples)

    loss = IdentitySwapLoss(embedders, people, photos, **settings)
    learned = [parameter for parameter in model.points.parameters()]
    optimizer = torch.optim.Adam(learned, 2e-3)
    seen = []
    for _ in range(60):
        value, figures = loss(model, batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seen.append(float(figures["points"]))
    assert seen[-1] < 0.1 * seen[0]

    # what is drawn is judged by the landmarks, and the landmarks do not give way
    model.zero_grad()
    (plain, _), (held, figures) = (
        IdentitySwapLoss(
            embedders, people, photos, **settings | {"landmark_detector": None, "landmark_weight": weight}
        )(model, batch)
        for weight in (0.0, 5.0)
    )
    torch.testing.assert_close(held - plain, 5 * figures["landmarks"])
    (held - plain).backward()
    assert all(parameter.grad is None for parameter in learned)
    assert model.conv_out.weight.grad.abs().sum() > 0


@pytest.mark.multiprocess
def test_two_ranks_see_what_one_sees(people, judges, tmp_path, monkeypatch):
    recipe = {"ema_decay": 0.0, "checkpoint_every": 0, "batch_size": 8, "max_steps": 6, "epochs": 6}
    recipe |= {"discriminator_network": judges[0], "discriminator_layers": [0, 1]}
    one = run(tmp_path, monkeypatch, "one", people, judges, recipe)
    arguments = ["--config", tmp_path / "one.yaml", "--output_dir", tmp_path / "two"]
    code, printed = ScriptRun(SCRIPT, arguments, tmp_path / "two.txt", ranks=2).finish()
    assert code == 0, printed[-3000:]
    assert "on 2 ranks" in printed
    for name in ("loss", "identity_lost", "discriminator"):
        values = [[line[name] for line in numbers(folder) if name in line] for folder in (one, tmp_path / "two")]
        assert len(values[0]) == (6 if name != "discriminator" else 4)
        np.testing.assert_allclose(values[1], values[0], rtol=1e-3, err_msg=name)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"identity_models": []}, "identity_models.*hfembed models get"),
        ({"identity_models": ["nowhere"]}, "nowhere"),
        ({"model": {"widths": [9]}}, "widths"),
        ({"model": {"people": ["Ann"]}}, "people"),
        ({"swap_share": 1.0}, "swap_share"),
        ({"landmark_detector": "nowhere"}, "reference_points"),
        ({"model": {"reference_points": True}}, "landmark_detector"),
        ({"exclude_people": ["Ann", "Bob", "Cy"]}, "two people"),
        ({"init_from": "nowhere"}, "nowhere"),
    ],
)
def test_bad_input_is_one_line(people, judges, tmp_path, monkeypatch, capsys, recipe, words):
    with pytest.raises(SystemExit):
        run(tmp_path, monkeypatch, "bad", people, judges, recipe)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and re.search(words, lines[0]), lines


def test_a_batch_depends_on_its_samples_keys_alone():
    points = template_for_size(16, 16)
    collate = IdentitySwapCollator(WarpedPairs(output_size=16), 5, 0.5, points, seed=3)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=generator)
    samples = [{"pixels": pixels[row], "label": row % 5, "key": (2, row)} for row in range(40)]
    whole, part = collate(samples), collate(samples[7:11])
    for name, values in part.items():
        assert torch.equal(values, whole[name][7:11]), name
    labels, swapped = torch.arange(40) % 5, whole["swapped"]
    assert 10 < swapped.sum() < 30
    assert ((whole["people"] != labels) == swapped).all(), "a swapped face becomes somebody else, others stay"
    assert torch.equal(whole["pixel_values"][swapped], whole["targets"][swapped])
    assert not torch.equal(whole["pixel_values"][~swapped], whole["targets"][~swapped])


def test_people_are_added_and_measured_without_training(people, judges, tmp_path, monkeypatch, capsys):
    recipe = {"exclude_people": ["Ann", "Bob"], "max_steps": 2}
    trained = run(tmp_path, monkeypatch, "trained", people, judges, recipe)
    with pytest.raises(SystemExit):  # it would teach nobody
        more = recipe | {"init_from": str(trained), "landmark_detector": "detector"}
        run(tmp_path, monkeypatch, "more", people, judges, more)
    assert "has no reference_points" in capsys.readouterr().err
    command = ["add-person", str(trained), str(people / "Ann"), str(people / "Bob"), "--aligned"]
    command += ["--output", str(tmp_path / "known"), "--held-out-share", "0.4"]
    embedders = [part for judge in judges for part in ("--embedder", judge)]
    done = CliRunner().invoke(app, [*command, *embedders])
    assert done.exit_code == 0, done.exception
    assert "fewer than 5 photos of Ann, Bob" in done.stderr
    model = IdentitySwapModel.from_pretrained(tmp_path / "known")
    assert model.config.people == ["Ann", "Bob"]
    torch.testing.assert_close(model.people_vectors.norm(dim=1), torch.ones(2))
    notes = json.loads((tmp_path / "known" / "training.json").read_text())
    assert len(notes["trained_files"]) == 5 and len(notes["held_out_files"]) == 4

    # one more, into the same folder: the others stay
    more = ["add-person", str(tmp_path / "known"), str(people / "Cy"), "--aligned", "--overwrite", *embedders]
    done = CliRunner().invoke(app, [*more, "--output", str(tmp_path / "known"), "--held-out-share", "0.5"])
    assert done.exit_code == 0, done.exception
    again = IdentitySwapModel.from_pretrained(tmp_path / "known")
    assert again.config.people == ["Ann", "Bob", "Cy"]
    torch.testing.assert_close(again.people_vectors[:2], model.people_vectors)

    measure = ["evaluate", "swap", str(tmp_path / "known"), "--embedder", judges[0], "--output", str(tmp_path / "out")]
    measure += [part for name in ("Ann", "Bob", "Cy") for part in ("--people", str(people / name))]
    done = CliRunner().invoke(app, measure)
    assert done.exit_code == 0, done.exception
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["swap_count"] == 12 and results["swap_sharpness"] > 0

    for given, words in [
        (judges[:1], "2 face embedder.*trained with, in order"),
        (judges[::-1], "trained with, in order"),
    ]:
        options = [part for judge in given for part in ("--embedder", judge)]
        refused = CliRunner().invoke(app, [*command[:-4], "--output", str(tmp_path / "other"), *options])
        with pytest.raises(InputError, match=words):
            raise refused.exception
        assert not (tmp_path / "other").exists()


def test_photos_that_cannot_be_used_are_named(tmp_path, caplog):
    folder = tmp_path / "Ann"
    folder.mkdir()
    for name, color in (("face.png", "red"), ("wall.png", "white")):
        Image.new("RGB", (40, 40), color).save(folder / name)
    (folder / "notes.jpg").write_text("no picture")

    class Detector:
        def detect(self, photos):
            is_face = photos[0].getpixel((0, 0)) == (255, 0, 0)
            points = template_for_size(40, 40)
            return [SimpleNamespace(landmarks=torch.tensor([points] if is_face else []).reshape(-1, 5, 2))]

    kept = with_landmarks(load_people([folder]), Detector())
    assert kept["file"][:] == ["Ann/face.png"]
    assert caplog.messages == ["left out: Ann/notes.jpg (cannot be read), Ann/wall.png (no face)"]
    (folder / "face.png").unlink()
    with pytest.raises(InputError, match="no face was found in the photos of 'Ann'"):
        with_landmarks(load_people([folder]), Detector())
