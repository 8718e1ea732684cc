"""Training a face swap model by its script: pictures, notes, resuming, ranks, starts, bad folders."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

from hfembed.faces.swap.recipe import SwapTrainingConfig
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.models.face_swap.modeling_face_swap import FaceSwapModel
from hfembed.training.config import read_config
from tests.faces.data.conftest import person_photos, write_folder
from tests.fork_server import ScriptRun

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPT = REPOSITORY / "scripts" / "train_face_swap.py"
TINY = {
    "held_out_share": 0.34,
    "image_size": 16,
    "encoder_widths": [8, 16],
    "decoder_widths": [8, 8],
    "latent_size": 16,
    "steps_per_epoch": 3,
    "epochs": 3,
    "batch_size": 8,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "ema_decay": 0.9,
    "log_every": 1,
    "evaluate_every": 4,
    "checkpoint_every": 2,
    "keep_checkpoints": 9,
    "keep_best": False,
    "trackers": [],
}


@pytest.fixture
def people(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return write_folder(tmp_path / "people", person_photos({"Ann": 5, "Bob": 6, "Cy": 4}))


def run(tmp_path, monkeypatch, output: str, people: list, recipe: dict, *arguments: str) -> Path:
    """Run the script in this process, as on one rank on a CPU."""
    config = tmp_path / f"{output}.yaml"
    config.write_text(yaml.safe_dump(TINY | recipe))
    folder = tmp_path / output
    command = ["--config", str(config), "--output_dir", str(folder), "--people", *map(str, people), *arguments]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return folder


def numbers(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def test_trains_draws_and_resumes_to_the_last_digit(people, tmp_path, monkeypatch):
    folders = [people / "Ann", people / "Bob", people / "Cy"]
    recipe = {"mask": True, "batch_size": 12}
    whole = run(tmp_path, monkeypatch, "whole", folders, recipe)
    model = FaceSwapModel.from_pretrained(whole)
    assert model.config.people == ["Ann", "Bob", "Cy"] and model.config.predict_mask
    notes = json.loads((whole / "training.json").read_text())
    assert len(notes["trained_files"]) == 10 and len(notes["held_out_files"]) == 5
    assert "generated" in notes["provenance"]
    assert not set(notes["trained_files"]) & set(notes["held_out_files"])
    pictures = sorted((whole / "pictures").iterdir())
    assert [picture.name for picture in pictures] == [f"step_{step:08d}.png" for step in (4, 8, 9)]
    # one row per person: its photos and three reconstructions of each, every pixel shown as 2 x 2
    assert Image.open(pictures[-1]).size == (2 * (4 * 16 + 3 * 4), 2 * (3 * 16 + 2 * 4))
    assert numbers(whole)[-1]["step"] == 9 and "held_out_error" in numbers(whole)[-1]

    # as a run killed after step 4 leaves it
    killed = tmp_path / "killed"
    shutil.copytree(whole, killed)
    for name in ("config.json", "model.safetensors"):
        (killed / name).unlink()
    for step in (6, 8, 9):
        shutil.rmtree(killed / "checkpoints" / f"step_{step:08d}")
    resumed = run(tmp_path, monkeypatch, "killed", folders, recipe, "--resume")
    assert numbers(resumed) == numbers(whole)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_shared_decoder_starts_others_and_swaps_can_be_judged(people, tmp_path, monkeypatch):
    start = run(tmp_path, monkeypatch, "start", [people], {"shared_decoder": True, "max_steps": 2})
    assert FaceSwapModel.from_pretrained(start).config.people == ["people"]
    torch.manual_seed(0)
    settings = {"trunk": "iresnet", "trunk_arguments": {"depths": [1], "widths": [8]}, "image_size": [20, 16]}
    FaceEmbedderModel(FaceEmbedderConfig(**settings, embedding_size=8)).save_pretrained(tmp_path / "judge")
    FaceImageProcessor(size=[20, 16]).save_pretrained(tmp_path / "judge")
    judged = {"init_from": str(start), "identity_model": str(tmp_path / "judge"), "identity_weight": 0.5}
    recipe = judged | {"identity_swaps": 4, "learning_rate": 1e-9, "ema_decay": 0.0, "max_steps": 2}
    swapped = run(tmp_path, monkeypatch, "swapped", [people / "Bob", people / "Cy"], recipe)
    model, begun = FaceSwapModel.from_pretrained(swapped), FaceSwapModel.from_pretrained(start)
    for decoder in model.decoders:
        torch.testing.assert_close(decoder.output.weight, begun.decoders[0].output.weight, atol=1e-6, rtol=0)
    line = numbers(swapped)[0]
    assert line["loss"] == pytest.approx(line["reconstruction"] + 0.5 * (1 - line["swap_likeness"]), abs=1e-5)


@pytest.mark.parametrize(
    "recipe", sorted((REPOSITORY / "hfembed" / "recipes").glob("face_swap*.yaml")), ids=lambda path: path.stem
)
def test_the_recipes_are_whole(recipe):
    people = ["--people", "a"] if "start" in recipe.name else ["--people", "a", "b"]
    judge = ["--identity_model", "judge"] if "identity" in recipe.name else []
    config = read_config(SwapTrainingConfig, ["--config", str(recipe), *people, *judge])
    assert config.image_size == 64 and config.aligned == "arcface_112"


@pytest.mark.parametrize(
    ("folders", "recipe", "words"),
    [
        (["Ann"], {}, "shared_decoder"),
        (["Ann", "empty"], {}, "empty.*no photos"),
        (["Ann", "Bob"], {"batch_size": 9}, "2 people"),
        (["Ann", "Bob"], {"image_size": 18}, "image_size"),
        (["Ann", "Bob"], {"warping": {"wrap": 1}}, "wrap"),
        (["Ann", "Bob"], {"identity_weight": 1.0}, "identity_model"),
        (["Ann", "Bob"], {"init_from": "nowhere"}, "nowhere"),
    ],
)
def test_bad_input_is_one_line(people, tmp_path, monkeypatch, capsys, folders, recipe, words):
    (people / "empty").mkdir()
    with pytest.raises(SystemExit):
        run(tmp_path, monkeypatch, "bad", [people / folder for folder in folders], recipe)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and re.search(words, lines[0]), lines


@pytest.mark.multiprocess
def test_two_ranks_see_what_one_sees(people, tmp_path, monkeypatch):
    recipe = {"ema_decay": 0.0, "checkpoint_every": 0, "evaluate_every": 0}
    folders = [people / "Ann", people / "Bob"]
    one = run(tmp_path, monkeypatch, "one", folders, recipe)
    arguments = ["--config", tmp_path / "one.yaml", "--output_dir", tmp_path / "two", "--people", *folders]
    code, printed = ScriptRun(SCRIPT, arguments, tmp_path / "two.txt", ranks=2).finish()
    assert code == 0, printed[-3000:]
    assert "on 2 ranks" in printed
    losses = [[line["loss"] for line in numbers(folder) if "loss" in line] for folder in (one, tmp_path / "two")]
    assert len(losses[0]) == 9
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
