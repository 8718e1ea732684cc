"""Training with --push-to-hub: the model arrives, and a Hub that is away costs nothing but the push."""

import json
from pathlib import Path

import pytest
import yaml

from tests.hub.hub_server import Fault

REPOSITORY = Path(__file__).resolve().parents[2]
FACES = {
    "synthetic_people": 6,
    "synthetic_photos": 4,
    "image_size": [32, 32],
    "trunk": "iresnet",
    "trunk_arguments": {"depths": [1, 1], "widths": [8, 16]},
    "embedding_size": 16,
    "batch_size": 8,
    "epochs": 3,
    "trackers": [],
}
WORDS = {"embedding_size": 8, "min_count": 1, "epochs": 2, "num_threads": 1}


def train(script, arguments):
    """The script's own exit code, as its main function ends."""
    import runpy
    import sys

    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        return ended.code or 0
    return 0


@pytest.fixture
def faces(tmp_path):
    recipe = tmp_path / "faces.yaml"
    recipe.write_text(yaml.safe_dump(FACES))
    return "scripts/train_face_embedder.py", ["--config", str(recipe), "--output_dir", str(tmp_path / "faces")]


@pytest.fixture
def words(tmp_path):
    (tmp_path / "corpus.txt").write_text("the king and the queen saw the cat\n" * 400)
    recipe = tmp_path / "words.yaml"
    recipe.write_text(yaml.safe_dump(WORDS | {"corpus": str(tmp_path / "corpus.txt")}))
    return "scripts/train_word2vec.py", ["--config", str(recipe), "--output_dir", str(tmp_path / "words")]


def test_faces_arrive_with_card_and_notes(hub, client, faces, tmp_path):
    script, arguments = faces
    assert client(train, script=script, arguments=[*arguments, "--push-to-hub", "ann/faces", "--hub-private"]) == 0
    assert f"the model is on the Hub: {hub.url}/ann/faces" in client.output
    files = hub.files("ann/faces")
    assert files["model.safetensors"] == (tmp_path / "faces" / "model.safetensors").read_bytes()
    assert {"config.json", "preprocessor_config.json", "training.json", "README.md"} <= files.keys()
    assert not any("checkpoints" in path for path in files)
    assert hub.repositories["models", "ann/faces"].private
    notes = json.loads(files["training.json"])
    assert "push_to_hub" not in notes["recipe"] and notes["command"].startswith("hfembed train faces")
    assert notes["version"].startswith("hfembed ")


def test_words_arrive(hub, client, words, tmp_path):
    script, arguments = words
    assert client(train, script=script, arguments=[*arguments, "--push_to_hub", "ann/words"]) == 0
    files = hub.files("ann/words")
    assert files["model.safetensors"] == (tmp_path / "words" / "model.safetensors").read_bytes()
    assert {"tokenizer.json", "vocab_counts.safetensors", "README.md"} <= files.keys()
    notes = json.loads(files["training.json"])
    assert notes["recipe"]["embedding_size"] == 8 and "corpus.txt" in notes["data"] and notes["seconds"] > 0
    assert notes["command"] in files["README.md"].decode()


@pytest.mark.parametrize(
    ("fault", "options", "line"),
    [
        (Fault("", "status", times=1000, status=401), {}, "does not know your token"),
        (Fault("", "cut", times=0), {"token": ""}, "no token for the Hub"),
        (Fault("", "cut", times=0), {"offline": True}, "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_hub_that_is_away_does_not_spoil_the_training(hub, client, words, tmp_path, fault, options, line):
    hub.faults = [fault]
    script, arguments = words
    assert client(train, script=script, arguments=[*arguments, "--push-to-hub", "ann/words"], **options) == 0
    assert line in client.output
    assert f"later `hfembed push {tmp_path / 'words'} ann/words`" in client.output
    assert "Traceback" not in client.output
    # what it says can be done
    hub.faults = []

    def push(folder):
        from hfembed.checkpoint.push import push_folder

        return push_folder(folder, "ann/words").changed

    assert client(push, folder=tmp_path / "words")
    assert "model.safetensors" in hub.files("ann/words")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["faces", "words"])
def test_models_on_the_way_go_to_a_branch(hub, client, family, request, tmp_path):
    script, arguments = request.getfixturevalue(family)
    every = "4" if family == "faces" else "2000"
    arguments = [*arguments, "--push-to-hub", "ann/model", "--hub-every", every]
    assert client(train, script=script, arguments=arguments) == 0
    titles = hub.titles("ann/model", "checkpoints")
    assert (
        titles[-1] == "initial commit" and len(titles) > 1 and all(title.startswith("Step ") for title in titles[:-1])
    )
    assert b"not finished" in hub.files("ann/model", "checkpoints")["README.md"]
    assert b"not finished" not in hub.files("ann/model")["README.md"]
    assert not any((tmp_path / family / ".hub").iterdir())


@pytest.mark.slow
def test_models_on_the_way_that_could_not_be_pushed_are_kept(hub, client, faces, tmp_path):
    hub.create("ann/model")
    hub.faults = [Fault("branch/checkpoints", "status", status=403)]
    script, arguments = faces
    assert client(train, script=script, arguments=[*arguments, "--push-to-hub", "ann/model", "--hub-every", "4"]) == 0
    assert "was not pushed (ann/model: your token may not write there" in client.output
    kept = next((tmp_path / "faces" / ".hub").glob("step_*/config.json")).parent
    assert f"later `hfembed push {kept} ann/model --revision checkpoints`" in client.output
    assert "model.safetensors" in hub.files("ann/model")


def test_impossible_settings_are_refused_before_the_training(words):
    from hfembed.errors import InputError
    from hfembed.training.config import read_config
    from hfembed.words.training.recipe import Word2VecTrainingConfig

    for arguments, line in (
        (["--push-to-hub", "a b/c"], "not a valid repo id"),
        (["--hub-every", "5"], "hub_every needs push_to_hub"),
        (["--hub-every", "-5", "--push-to-hub", "a/b"], "must not be negative"),
    ):
        with pytest.raises(InputError, match=line):
            read_config(Word2VecTrainingConfig, [*words[1], *arguments])
