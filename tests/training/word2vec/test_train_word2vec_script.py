"""The training script as its users start it: killed, resumed, on two ranks, with bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    topics = rng.integers(5, size=40_000)
    words = rng.integers(8, size=(40_000, 10))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(f"t{t}w{w}" for w in line) for t, line in zip(topics, words, strict=True)))
    return path


def command(text: Path, output_dir: Path, *more: str, launcher: tuple[str, ...] = ()) -> list[str]:
    return [
        *(launcher or (sys.executable,)),
        str(REPOSITORY / "scripts" / "train_word2vec.py"),
        *("--corpus", str(text), "--cache_dir", str(text.parent / "ids"), "--output_dir", str(output_dir)),
        *("--embedding_size", "16", "--epochs", "4", "--num_threads", "1", "--checkpoint_every", "50000"),
        *more,
    ]


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.multiprocess
def test_a_killed_run_resumes_as_if_nothing_had_been(text, tmp_path):
    result = run(command(text, tmp_path / "whole"))
    assert result.returncode == 0, result.stderr
    assert "engine: torch" in result.stderr
    process = subprocess.Popen(command(text, tmp_path / "killed"), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "killed" / "checkpoints").glob("segments_*[0-9]")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    result = run(command(text, tmp_path / "killed", "--resume"))
    assert result.returncode == 0, result.stderr
    assert "resuming after" in result.stderr
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all((whole[name] == resumed[name]).all() for name in whole)
    results = json.loads((tmp_path / "killed" / "results.json").read_text())
    assert results["word2vec_training"]["words"] == 4 * 400_000


@pytest.mark.multiprocess
def test_two_ranks_share_the_work_and_learn_the_topics(text, tmp_path):
    launcher = (
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    )
    result = run(command(text, tmp_path / "two", "--sync_words", "50000", launcher=launcher))
    assert result.returncode == 0, result.stderr
    assert "2 ranks" in result.stderr
    vectors = load_file(tmp_path / "two" / "model.safetensors")["word2vec.embeddings.weight"].numpy()
    words = list(json.loads((tmp_path / "two" / "tokenizer.json").read_text())["model"]["vocab"])[: len(vectors)]
    topics = np.array([int(word[1]) for word in words])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    assert np.array_equal(topics[cosines.argmax(1)], topics)


@pytest.mark.multiprocess
def test_training_goes_on_with_new_text_and_new_words(text, tmp_path):
    assert run(command(text, tmp_path / "first", "--epochs", "1")).returncode == 0
    more = tmp_path / "more.txt"
    more.write_text("\n".join(["t0w0 t0w1 novel t0w2 t0w3"] * 2_000))
    result = run(command(more, tmp_path / "second", "--init_from", str(tmp_path / "first"), "--epochs", "1"))
    assert result.returncode == 0, result.stderr
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert len(second["word2vec.embeddings.weight"]) == len(first["word2vec.embeddings.weight"]) + 1


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lerning_rate", "0.1"], "did you mean 'learning_rate'?"),
        (["--window", "0"], "window is at least 1"),
        (["--epochs", "many"], "epochs"),
        (["--analogies", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(text, tmp_path, more, message):
    result = run(command(text, tmp_path, *more))
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
