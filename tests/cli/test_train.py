"""`hfembed train`: what goes to the launcher, what to the program, and how both end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from typer.testing import CliRunner

from hfembed.cli import app
from hfembed.cli.train import launch, split_arguments
from hfembed.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "launcher", "recipe"),
    [
        ("--config a --num_processes 2 --seed 1", "--num_processes 2", "--config a --seed 1"),
        ("--num-processes=2 --depths 1 1", "--num-processes=2", "--depths 1 1"),
        ("--mixed_precision no --cpu --seed 1", "--cpu", "--mixed_precision no --seed 1"),
        ("--config_file f --config a --resume", "--config_file f", "--config a --resume"),
        (
            "--multi_gpu --rdzv_backend x --lerning_rate 3",
            "--multi_gpu --rdzv_backend x",
            "--lerning_rate 3",
        ),
    ],
)
def test_options_of_the_launcher_pass_through(arguments, launcher, recipe):
    fields = {"config", "seed", "depths", "mixed_precision", "resume"}
    assert split_arguments(arguments.split(), fields, launch_command_parser()) == (launcher.split(), recipe.split())


def test_recipes_of_the_package_are_listed():
    listed = CliRunner().invoke(app, ["train", "--list"]).output
    assert "face_softmax" in listed and "word2vec_skip_gram_gpu" in listed and "DeepFace" in listed
    assert "a small U-Net that predicts the correction\n" in listed, "the whole first sentence, and no more"


@pytest.mark.parametrize(
    ("family", "arguments", "line"),
    [
        ("words", ["--corpus", "nowhere.txt"], "no file or folder nowhere.txt"),
        ("faces", ["--config", "face_triplet", "--metric_loss", "lifted"], "unknown metric_loss 'lifted'"),
    ],
)
def test_a_wrong_recipe_is_refused_before_the_launch(family, arguments, line, monkeypatch):
    monkeypatch.setattr("accelerate.commands.launch.launch_command", None)  # not called
    with pytest.raises(InputError, match=line):
        launch(family, arguments)


@pytest.mark.multiprocess
def test_an_error_is_one_line_of_the_program(tmp_path):
    command = [sys.executable, "-m", "hfembed.cli", "train", "words", "--mixed_precision", "no"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "out"), "--corpus", str(tmp_path / "nowhere.txt")],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and "nowhere.txt" in done.stderr
    assert "Traceback" not in done.stderr
