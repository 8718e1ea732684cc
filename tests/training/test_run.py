"""One run with one folder: what it refuses, how it is continued, and that its end is whole."""

import json
import os
import re
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from hfembed.checkpoint.fingerprint import fingerprint_weights
from hfembed.errors import InputError
from hfembed.faces.training import train as faces
from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel
from hfembed.training.config import TrainingConfig
from hfembed.training.run import Run
from hfembed.words.training import train as words

FACES = {
    "synthetic_people": 4,
    "synthetic_photos": 4,
    "image_size": [16, 16],
    "trunk": "iresnet",
    "trunk_arguments": {"depths": [1], "widths": [8]},
    "embedding_size": 8,
    "head": "cosface",
    "margin": 0.1,
    "batch_size": 8,
    "epochs": 1,
    "keep_best": False,
    "log_every": 1,
    "num_threads": 1,
    "trackers": [],
}
WORDS = {"embedding_size": 8, "min_count": 1, "epochs": 1, "num_threads": 1, "checkpoint_every": 1000}


def test_a_long_preparation_outlasts_the_timeout_of_the_process_group(tmp_path):
    group = threading.Barrier(2)
    done = []

    def prepare(is_first):
        run = object.__new__(Run)
        run.folder = tmp_path / "run"
        waiting = lambda: group.wait(timeout=1)  # noqa: E731
        run.accelerator = SimpleNamespace(is_local_main_process=is_first, wait_for_everyone=waiting)
        assert run.prepare(lambda: time.sleep(2.0 if is_first else 0.0) or done.append(is_first) or "data") == "data"

    with ThreadPoolExecutor(2) as ranks:
        for rank in [ranks.submit(prepare, is_first) for is_first in (True, False)]:
            rank.result()
    assert done == [True, False] and not list((tmp_path / "run").iterdir())


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Run a family's program in this process, as on one rank on a CPU; the line of its error, if it ends with one."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(faces, "load_validation", lambda config: None)

    def run(program, recipe, folder, *arguments):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe))
        command = ["--config", str(file), "--output_dir", str(folder), *arguments]
        monkeypatch.setattr(sys, "argv", ["train", *command])
        program.main(command)

    return run


@pytest.fixture
def refused(start, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            start(*arguments)
        assert ended.value.code == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return run


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("the king and the queen saw the cat\n" * 400)
    return {**WORDS, "corpus": str(file)}


def log(folder):
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


def notes(folder, file="training.json"):
    return json.loads((folder / file).read_text())


def test_a_longer_resume_trains_on_and_saves(start, tmp_path, capsys):
    folder = tmp_path / "run"
    start(faces, FACES, folder)
    first = fingerprint_weights(folder)
    assert notes(folder, "run.json")["finished_at"] == 2
    start(faces, FACES, folder, "--resume")
    assert "finished already" in capsys.readouterr().out and fingerprint_weights(folder) == first
    start(faces, FACES, folder, "--resume", "--epochs", "3")
    assert [line["step"] for line in log(folder)] == [1, 2, 3, 4, 5, 6]
    assert fingerprint_weights(folder) != first
    assert notes(folder, "run.json")["weights"] == fingerprint_weights(folder)
    training = notes(folder)
    assert training["command"].count("\n") == 2 and training["command"].endswith("--resume --epochs 3")
    assert str(tmp_path) not in json.dumps(training), "what is published names no folder of this machine"
    # not shorter
    with pytest.raises(SystemExit):
        start(faces, FACES, folder, "--resume", "--epochs", "2")
    assert "6 steps, not 4" in capsys.readouterr().err


def test_a_longer_resume_of_word_vectors_trains_on_and_saves(start, corpus, tmp_path):
    folder = tmp_path / "run"
    start(words, corpus, folder)
    first, seconds = fingerprint_weights(folder), notes(folder)["seconds"]
    start(words, corpus, folder, "--resume", "--epochs", "2")
    assert fingerprint_weights(folder) != first
    results = notes(folder, "results.json")
    assert results["word2vec_training"]["words"] == 2 * 3200
    assert results["word2vec_training"]["weights"] == fingerprint_weights(folder)
    assert notes(folder)["seconds"] >= seconds


def test_another_run_is_not_resumed_and_the_field_is_named(start, refused, tmp_path):
    folder = tmp_path / "run"
    start(faces, FACES, folder)
    for field, value, earlier in (
        ("batch_size", 16, 8), ("seed", 1, 0), ("margin", 0.2, 0.1), ("learning_rate", 0.2, 0.1),
        ("head", "arcface", "cosface"), ("synthetic_photos", 8, 4), ("keep_best", True, False),
    ):  # fmt: skip
        line = refused(faces, FACES | {field: value}, folder, "--resume")
        assert f"{field} {earlier}, not {value}" in line and "--overwrite" in line
    start(faces, FACES, folder, "--resume", "--log_every", "5", "--num_workers", "1", "--checkpoint_every", "1")


def test_another_objective_of_word_vectors_is_not_resumed(start, refused, corpus, tmp_path):
    folder = tmp_path / "run"
    start(words, corpus, folder)
    for field, value, earlier in (
        ("cbow_mean", False, True), ("ns_exponent", 0.5, 0.75), ("seed", 1, 0), ("window", 3, 5),
        ("initializer_scale", 1.0, 2.0), ("centers_per_step", 9, 0),
    ):  # fmt: skip
        assert f"{field} {earlier}, not {value}" in refused(words, corpus | {field: value}, folder, "--resume")


@pytest.mark.parametrize("family", ["faces", "words"])
def test_other_data_is_not_resumed(start, refused, corpus, tmp_path, monkeypatch, family):
    folder = tmp_path / "run"
    program, recipe = (faces, FACES) if family == "faces" else (words, corpus)
    start(program, recipe, folder)
    if family == "words":
        Path(corpus["corpus"]).write_text("the king and the queen saw the dog\n" * 400)
        line = refused(program, recipe, folder, "--resume")
        assert re.search("data 3,200 words, 6 distinct, .*, not 3,200 words, 6 distinct", line), line
        return
    make = faces.load_training_faces
    monkeypatch.setattr(faces, "load_training_faces", lambda config: make(config).select(range(15)))
    assert "data 16 photos of 4 people" in refused(program, recipe, folder, "--resume")


def test_data_may_move(start, corpus, tmp_path):
    start(words, corpus, tmp_path / "run")
    moved = Path(corpus["corpus"]).rename(tmp_path / "moved.txt")
    start(words, corpus | {"corpus": str(moved)}, tmp_path / "run", "--resume", "--epochs", "2")


def test_a_folder_that_holds_something_else_is_refused_or_replaced(start, refused, tmp_path):
    folder = tmp_path / "run"
    make_model(folder, 0.5)
    (folder / "results.json").write_text('{"lfw_accuracy": 99.0}')
    (folder / "mine.txt").write_text("keep")
    foreign = fingerprint_weights(folder)
    for option in ([], ["--resume"]):
        assert "a model that this run did not make" in refused(faces, FACES, folder, *option)
    assert fingerprint_weights(folder) == foreign
    start(faces, FACES, folder, "--overwrite")
    assert fingerprint_weights(folder) != foreign
    assert not (folder / "results.json").exists() and (folder / "mine.txt").exists()
    # a finished run, with its model replaced by somebody
    assert "finished run: continue it with --resume" in refused(faces, FACES, folder)
    make_model(folder, 0.25)
    assert "a model that this run did not make" in refused(faces, FACES, folder, "--resume", "--epochs", "2")
    start(faces, FACES | {"seed": 3}, folder, "--overwrite")
    assert [line["step"] for line in log(folder)] == [1, 2]


def test_a_stale_best_model_is_not_shipped(start, refused, tmp_path):
    folder = tmp_path / "run"
    make_model(folder / "best", 0.5)
    make_model(folder / "checkpoints" / "best_00000009", 0.5)
    stale = fingerprint_weights(folder / "best")
    assert "--overwrite" in refused(faces, FACES, folder)
    start(faces, FACES, folder, "--overwrite")
    assert fingerprint_weights(folder) != stale
    assert not list((folder / "checkpoints").glob("best_*"))


def test_the_best_model_is_kept_over_a_longer_resume(start, tmp_path, monkeypatch, capsys):
    figures = iter([1.0, 3.0, 2.0, 2.5])

    class Protocol:
        primary_metric = "figure"

        def __call__(self, model, processor):
            return {"figure": next(figures)}

    monkeypatch.setattr(faces, "load_validation", lambda config: Protocol())
    recipe = FACES | {"keep_best": True, "evaluate_every": 1}
    start(faces, recipe, tmp_path / "run")
    best = fingerprint_weights(tmp_path / "run")
    assert notes(tmp_path / "run")["validation"] == {"step": 2, "figure": 3.0}
    start(faces, recipe, tmp_path / "run", "--resume", "--epochs", "2")
    assert fingerprint_weights(tmp_path / "run") == best
    assert notes(tmp_path / "run")["validation"] == {"step": 2, "figure": 3.0}
    assert capsys.readouterr().out.count("(best so far)") == 2

    figures = iter([1.0, 3.0])
    start(faces, recipe | {"keep_best": False}, tmp_path / "last")
    assert "(best so far)" not in capsys.readouterr().out, "it was not kept, nor compared"


def test_init_from_its_own_folder_is_refused(start, refused, tmp_path):
    folder = tmp_path / "run"
    start(faces, FACES, folder)
    for source in (folder, folder / "checkpoints", tmp_path / "x" / ".." / "run"):
        assert "lies in output_dir" in refused(faces, FACES, folder, "--init_from", str(source), "--overwrite")


def test_what_killed_processes_left_is_removed(start, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints" / ".step_00000002.partial").mkdir(parents=True)
    (folder / ".training.a1b2c3d4.json").write_text("{")
    (folder / ".gitignore").write_text("*")
    start(faces, FACES, folder)
    assert [path.name for path in folder.rglob(".*")] == [".gitignore"]


def test_an_unwritable_folder_is_found_before_the_work(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(faces, "load_training_faces", lambda config: pytest.fail("data was read"))
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        assert str(folder).split("/")[1] in refused(faces, FACES, folder)


def test_small_faults_are_one_line(refused, tmp_path):
    for change, words_of_line in (
        ({"batch_size": 1}, "batch normalization needs two"),
        ({"batch_size": 8, "accumulation_steps": 8}, "batch normalization needs two"),
        ({"synthetic_people": 1}, "two people or more"),
        ({"batch_size": 64}, "batch"),
    ):
        assert words_of_line in refused(faces, FACES | change, tmp_path / "run")


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_what_shares_out_the_network_is_refused_before_any_work(refused, corpus, monkeypatch, tmp_path, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    for program, recipe in ((faces, FACES), (words, corpus)):
        assert f"accelerate's {name} is not supported" in refused(program, recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_before_it_trains_leaves_no_folder(refused, corpus, tmp_path):
    rare = {**corpus, "min_count": 10_000}
    assert "min_count" in refused(words, rare, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    # a folder that was there, or holds anything else, stays
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "notes.txt").touch()
    refused(words, rare, tmp_path / "old")
    assert (tmp_path / "old" / "notes.txt").exists()


def test_a_run_that_trained_keeps_its_folder_when_it_fails(start, tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "finish", fail)
    with pytest.raises(SystemExit):
        start(faces, FACES, tmp_path / "run")
    assert len(log(tmp_path / "run")) == 2


def test_curves_are_in_one_folder_for_tensorboard(start, tmp_path):
    pytest.importorskip("tensorboard")
    folder = tmp_path / "run"
    start(faces, FACES | {"trackers": ["tensorboard"]}, folder)
    assert list((folder / "tensorboard").glob("events.out.tfevents*")) and not (folder / "run").exists()


def test_ctrl_c_ends_in_one_line(start, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(faces, "train", interrupt)
    with pytest.raises(SystemExit) as ended:
        start(faces, FACES, tmp_path / "run")
    assert ended.value.code == 130 and "--resume" in capsys.readouterr().err.splitlines()[-1]


def test_steps_that_the_scaler_skips_do_not_advance_the_schedule(start, tmp_path, monkeypatch):
    skipped = iter([False, True, True, False])
    monkeypatch.setattr(Accelerator, "optimizer_step_was_skipped", property(lambda self: next(skipped)))
    start(faces, FACES | {"schedule": "linear", "epochs": 2}, tmp_path / "run")
    rates = [line["learning_rate"] for line in log(tmp_path / "run")]
    assert rates == pytest.approx([0.075, 0.075, 0.075, 0.05])


def make_model(folder, value):
    settings = {"trunk": "iresnet", "trunk_arguments": {"depths": [1], "widths": [8]}, "image_size": [16, 16]}
    model = FaceEmbedderModel(FaceEmbedderConfig(**settings, embedding_size=8))
    for parameter in model.parameters():
        parameter.data.fill_(value)
    model.save_pretrained(folder)
    FaceImageProcessor(size=[16, 16]).save_pretrained(folder)


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "replacing"])
def test_killed_between_any_two_renames_of_the_end_it_is_completed(tmp_path, earlier):
    """Every rename and removal of the end is once the last thing that a process does."""
    accelerator = Accelerator(cpu=True)

    def finish(folder, resume, at, value):
        run = Run(TrainingConfig(output_dir=str(folder), resume=resume), "faces", accelerator)
        run.describe_data("Data.", "fingerprint")
        if run.identify(at):
            run.finish(lambda target: make_model(target, value), at, 1.0)

    old = new = None
    if earlier:
        finish(tmp_path / "start", False, 1, 0.5)
        old = fingerprint_weights(tmp_path / "start")
        (tmp_path / "start" / "checkpoints" / "step_00000001").mkdir(parents=True)
    else:
        (tmp_path / "start").mkdir()
    shutil.copytree(tmp_path / "start", tmp_path / "whole")
    finish(tmp_path / "whole", earlier, 2, 0.25)
    new = fingerprint_weights(tmp_path / "whole")
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())

    for count in range(1, 200):
        folder = tmp_path / str(count)
        shutil.copytree(tmp_path / "start", folder)
        child = os.fork()
        if not child:
            die_at(count)
            finish(folder, earlier, 2, 0.25)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if (folder / "config.json").exists():
            assert fingerprint_weights(folder) in (old, new), count
        finish(folder, True, 2, 0.25)
        assert fingerprint_weights(folder) == new
        assert sorted(path.name for path in folder.iterdir()) == files
        assert notes(folder, "run.json")["finished_at"] == 2
        if not ended:
            break
    assert 8 < count < 199


def die_at(count):
    """Exit, as by kill -9, before the process' renames and removals number `count`."""
    left = [count]

    def dying(function):
        def call(*arguments, **keywords):
            left[0] -= 1
            if not left[0]:
                os._exit(9)
            return function(*arguments, **keywords)

        return call

    for name in ("rename", "replace", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))


def test_identity_of_an_older_checkpoint_is_not_asked_for(tmp_path):
    (tmp_path / "run" / "checkpoints" / "step_00000001").mkdir(parents=True)
    config = TrainingConfig(output_dir=str(tmp_path / "run"), resume=True)
    run = Run(config, "faces", Accelerator(cpu=True))
    run.describe_data("Data.", "fingerprint")
    assert run.identify(5)
    with pytest.raises(InputError, match="checkpoints of an earlier run"):
        Run(TrainingConfig(output_dir=str(tmp_path / "run")), "faces", Accelerator(cpu=True))
