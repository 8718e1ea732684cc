"""`hfembed train`: what goes to the launcher, what to the program, and how both end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from PIL import Image
from typer.testing import CliRunner

from hfembed.cli import app, main
from hfembed.cli.train import launch, prepare, split_arguments
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
        ("words", ["--corpus", "nowhere.txt"], "nowhere.txt: no such file or folder"),
        ("faces", ["--config", "face_triplet", "--metric_loss", "lifted"], "unknown metric_loss 'lifted'"),
        ("faces", ["--trunk", "timm/resnet8"], "timm has no architecture 'resnet8'; did you mean"),
        (
            "faces",
            ["--trunk", "timm/resnet18", "--trunk_arguments", "{drop_path_rate: 7}"],
            "drop_path_rate.* must lie in",
        ),
        ("faces", ["--trunk", "vit_t", "--trunk_arguments", "{mask_ratio: 1.5}"], "mask_ratio 1.5 .* must lie in"),
        ("faces", ["--trunk", "iresnet", "--trunk_arguments", "{depths: [1, 1], widths: [8]}"], "a depth and a width"),
    ],
)
def test_a_wrong_recipe_is_refused_before_the_launch(family, arguments, line, monkeypatch):
    monkeypatch.setattr("accelerate.commands.launch.launch_command", None)  # not called
    with pytest.raises(InputError, match=line):
        launch(family, arguments)


@pytest.mark.parametrize(
    ("options", "gpus", "launched"),
    [([], 0, False), ([], 1, False), ([], 2, True), (["--num_processes", "2"], 0, True)],
)
def test_one_process_needs_no_launcher(options, gpus, launched, monkeypatch, tmp_path):
    calls = []
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a text")
    recipe = ["--corpus", str(corpus), "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["hfembed", "train", "words", *recipe, *options])
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(tmp_path / "none.yaml"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("hfembed.words.training.train.main", lambda arguments: calls.append(arguments))
    monkeypatch.setattr("accelerate.commands.launch.launch_command", lambda _: calls.append("launched"))
    launch("words", [*recipe, *options])
    assert calls == (["launched"] if launched else [recipe])
    if not launched:
        assert sys.argv[1:] == recipe, "what the run records as its command"


@pytest.mark.parametrize(("name", "processes"), [("1gpu", 1), ("8gpu", 8), ("16gpu", 16)])
def test_configurations_of_the_launcher_come_with_the_package(name, processes, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", calls.append)
    (tmp_path / "WebFace42M").mkdir()
    (tmp_path / "WebFace42M" / "train.rec").write_bytes(b"")
    recipe = ["--config", "webface42m_ir50", "--data_dir", str(tmp_path / "WebFace42M")]
    launch("faces", [*recipe, f"--accelerate={name}", "--main_process_ip", "10.0.0.1"])
    file = Path(calls[0].config_file)
    assert load_config_from_file(str(file)).num_processes == processes and file.name == f"{name}.yaml"
    assert calls[0].training_script_args == recipe and calls[0].main_process_ip == "10.0.0.1"
    with pytest.raises(InputError, match="--accelerate 'many': expected one of 16gpu, 1gpu, 8gpu"):
        launch("faces", [*recipe, "--accelerate", "many"])


def test_an_error_is_one_line_of_the_program(tmp_path, capsys, monkeypatch):
    recipe = ["--output_dir", str(tmp_path / "out"), "--corpus", str(tmp_path / "nowhere.txt")]
    monkeypatch.setattr(sys, "argv", ["hfembed", "train", "words", "--mixed_precision", "no", *recipe])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith("error: ") and "nowhere.txt" in said and said.count("\n") == 1


@pytest.mark.multiprocess
@pytest.mark.parametrize("end", ["Ctrl-C", "kill -9 of one rank"])
def test_all_ranks_end_with_one_line_and_the_way_to_resume(end, tmp_path):
    command = [sys.executable, "-m", "hfembed.cli", "train", "faces", "--num_processes", "2", "--epochs", "1000"]
    command += ["--synthetic_people", "8", "--synthetic_photos", "4", "--image_size", "[32, 32]", "--log_every", "1"]
    command += ["--trunk", "iresnet", "--trunk_arguments", '{"depths": [1], "widths": [8]}', "--embedding_size", "8"]
    command += ["--batch_size", "8", "--head", "arcface", "--sample_rate", "0.5"]
    command += ["--frame_margin", "2", "--trackers", "[]", "--output_dir", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "said").open("w+") as said:
        run = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
        log = tmp_path / "out" / "training_log.jsonl"
        while not (log.exists() and len(log.read_text().splitlines()) > 2):
            assert run.poll() is None, (tmp_path / "said").read_text()[-3000:]
            time.sleep(0.1)
        if end == "Ctrl-C":
            os.killpg(run.pid, signal.SIGINT)  # as a terminal sends it: to the launcher and all ranks
            assert run.wait(120) == 130
        else:
            ranks = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            os.kill(int(ranks[-1]), signal.SIGKILL)
            assert run.wait(60) == 1
        said.seek(0)
        lines = [line for line in said.read().replace("\r", "\n").splitlines() if line and "train:" not in line]
    assert [line for line in lines if "--resume" in line] == [lines[-1]] and "Traceback" not in "".join(lines), lines
    assert end == "Ctrl-C" or "SIGKILL" in lines[-1]
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)


def test_what_is_prepared_is_not_done_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for person in ("ann", "bob"):
        (tmp_path / "people" / person).mkdir(parents=True)
        for photo in range(2):
            Image.new("RGB", (40, 40), (photo * 99, 0, 0)).save(tmp_path / "people" / person / f"{photo}.png")
    (tmp_path / "corpus.txt").write_text("a text of seven words or so\n" * 9)
    faces = ["--train_images", str(tmp_path / "people"), "--image_size", "[32, 32]"]
    words = ["--corpus", str(tmp_path / "corpus.txt"), "--cache_dir", str(tmp_path / "ids")]
    prepare("faces", faces)
    prepare("words", words)
    printed = capsys.readouterr().out
    assert "4 photos of 2 people are ready" in printed and "63 words, 7 distinct, are ready" in printed
    monkeypatch.setattr("hfembed.faces.data.aligned_faces._align_all", None)
    monkeypatch.setattr("hfembed.words.data.corpora._cut_blocks", None)
    prepare("faces", faces)
    prepare("words", words)
    assert capsys.readouterr().out == printed
