"""The training script as its users start it: killed, resumed, on two ranks, with bad input."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from hfembed import Word2VecModel
from tests.fork_server import ScriptRun

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPT = REPOSITORY / "scripts" / "train_word2vec.py"
# of each topic eight words, whose letters say nothing about it
NAMES = [
    ["".join(chr(97 + c) for c in word) for word in t] for t in np.random.default_rng(1).integers(26, size=(5, 8, 5))
]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    topics = rng.integers(5, size=40_000)
    words = rng.integers(8, size=(40_000, 10))
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(NAMES[t][w] for w in line) for t, line in zip(topics, words, strict=True)))
    return path


def start(text: Path, output_dir: Path, *more: str, ranks: int = 1) -> ScriptRun:
    arguments = ["--corpus", str(text), "--cache_dir", str(text.parent / "ids"), "--output_dir", str(output_dir)]
    arguments += ["--embedding_size", "16", "--epochs", "4", "--num_threads", "1", "--checkpoint_every", "50000"]
    return ScriptRun(SCRIPT, [*arguments, *more], output_dir.parent / f"{output_dir.name}.txt", ranks)


def train(text: Path, output_dir: Path, *more: str, ranks: int = 1) -> str:
    """Run the script to its end; what it printed."""
    code, printed = start(text, output_dir, *more, ranks=ranks).finish()
    assert code == 0, printed[-4000:]
    return printed


@pytest.mark.multiprocess
def test_a_killed_run_resumes_as_if_nothing_had_been(text, tmp_path):
    assert "engine: torch" in train(text, tmp_path / "whole")
    run = start(text, tmp_path / "killed")
    while not list((tmp_path / "killed" / "checkpoints").glob("segments_*[0-9]")):
        assert run.is_running()
        time.sleep(0.02)
    run.kill()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    assert "resuming after" in train(text, tmp_path / "killed", "--resume")
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all((whole[name] == resumed[name]).all() for name in whole)
    results = json.loads((tmp_path / "killed" / "results.json").read_text())
    assert results["word2vec_training"]["words"] == 4 * 400_000


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--subwords", "[3, 4]", "--engine", "torch"),
        ("--subwords", "[3, 4]", "--engine", "numba"),
        ("--subwords", "[3, 4]", "--engine", "numba", "--hash_count", "2", "--buckets", "400"),
    ],
    ids=["words", "subwords-torch", "subwords-numba", "floret-numba"],
)
def test_two_ranks_share_the_work_and_learn_the_topics(text, tmp_path, more):
    assert "2 ranks" in train(text, tmp_path / "two", "--sync_words", "50000", *more, ranks=2)
    model = Word2VecModel.from_pretrained(tmp_path / "two")
    topic_of = {name: topic for topic, names in enumerate(NAMES) for name in names}
    vectors, topics = model.word_vectors().numpy(), np.array([topic_of[word] for word in model.vocabulary.words])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    assert np.array_equal(topics[cosines.argmax(1)], topics)


@pytest.mark.multiprocess
@pytest.mark.parametrize("subwords", [(), ("--subwords", "[3, 4]")], ids=["words", "subwords"])
def test_two_ranks_resume_as_if_nothing_had_been(text, tmp_path, subwords):
    # checkpoints lie between synchronization rounds whose all-reduce is still delayed
    more = ("--sync_words", "20000", "--checkpoint_every", "150000", "--keep_checkpoints", "99", *subwords)
    train(text, tmp_path / "run", *more, ranks=2)
    whole = load_file(tmp_path / "run" / "model.safetensors")
    checkpoints = sorted((tmp_path / "run" / "checkpoints").glob("segments_*[0-9]"))
    assert len(checkpoints) > 3
    for later in checkpoints[2:]:
        shutil.rmtree(later)
    (tmp_path / "run" / "config.json").unlink()  # as a run killed after the second checkpoint leaves its folder
    assert "resuming after" in train(text, tmp_path / "run", *more, "--resume", ranks=2)
    resumed = load_file(tmp_path / "run" / "model.safetensors")
    assert all((whole[name] == resumed[name]).all() for name in whole)


@pytest.mark.multiprocess
def test_training_goes_on_with_new_text_and_new_words(text, tmp_path):
    train(text, tmp_path / "first", "--epochs", "1")
    more = tmp_path / "more.txt"
    more.write_text("\n".join([" ".join([*NAMES[0][:2], "novel", *NAMES[0][2:4]])] * 2_000))
    train(more, tmp_path / "second", "--init_from", str(tmp_path / "first"), "--epochs", "1")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert len(second["word2vec.embeddings.weight"]) == len(first["word2vec.embeddings.weight"]) + 1


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lerning_rate", "0.1"], "did you mean 'learning_rate'?"),
        (["--window", "0"], "window must be at least 1"),
        (["--epochs", "many"], "epochs"),
        (["--analogies", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(text, tmp_path, more, message):
    code, printed = start(text, tmp_path / "bad", *more).finish()
    assert code == 1
    assert message in printed.splitlines()[-1]
    assert "Traceback" not in printed
