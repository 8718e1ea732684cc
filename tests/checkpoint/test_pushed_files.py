"""What a push sends, by family: exactly these files, whatever lies in the folder; and no path of this machine."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.pushed_files import copy_model, model_files
from hfembed.checkpoint.redaction import redact
from hfembed.errors import InputError
from hfembed.export.with_code import export_with_code
from tests.checkpoint.checkpoints import FAMILIES, write_checkpoint

FACES, DETECTOR, WORDS = "hfembed_face_embedder", "hfembed_face_detector", "hfembed_word2vec"

_ALL = {"README.md", "config.json", "model.safetensors", "results.json", "training.json"}
_IMAGES = _ALL | {"preprocessor_config.json"}
CONTENTS = {
    "hfembed_face_embedder": _IMAGES | {"roc.png"},
    "hfembed_face_detector": _IMAGES | {"detections.png"},
    "hfembed_yunet": _IMAGES | {"detections.png"},
    "hfembed_retinaface": _IMAGES | {"detections.png"},
    "hfembed_conv_autoencoder": _IMAGES | {"latent_statistics.safetensors", "reconstructions.png"},
    "hfembed_appearance_autoencoder": _IMAGES | {"latent_statistics.safetensors", "reconstructions.png"},
    "hfembed_restoration_autoencoder": _IMAGES | {"reconstructions.png"},
    "hfembed_face_swap": _IMAGES | {"swaps.png"},
    "hfembed_identity_swap": _IMAGES | {"swaps.png"},
    "hfembed_word2vec": _ALL
    | {
        *("tokenizer.json", "tokenizer_config.json", "vocab_counts.safetensors", "map.png"),
        *("modules.json", "sentence_bert_config.json"),
    },
}
PICTURES = ("roc.png", "detections.png", "reconstructions.png", "swaps.png", "map.png")


def fill_folder(folder: Path) -> None:
    """What training, evaluation and people leave in a checkpoint's folder."""
    (folder / "results.json").write_text("{}")
    for file in (*PICTURES, "holiday.png"):
        Image.new("RGB", (4, 4)).save(folder / file)
    for file in (
        *("corpus/1f/ids.npy", "corpus/1f/words.txt", "cache/aligned.npz", "checkpoints/step_10/optimizer.bin"),
        *(
            "best/model.safetensors",
            ".hub/step_1/config.json",
            "runs/events.out.tfevents.1",
            "log.txt",
            "labels.parquet",
        ),
        *("train.py", "photos/anna/1.jpg", "model-00001-of-00002.safetensors", "secret.json", "notes.md"),
    ):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"private")
    write_card(folder)


def sent(folder: Path) -> dict[str, Path | bytes]:
    return model_files(Checkpoint.resolve(folder), (folder / "README.md").read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_push_sends_exactly_the_files_of_the_model(family, tmp_path):
    folder = write_checkpoint(family, tmp_path / "model")
    if "latent_statistics.safetensors" in CONTENTS[family]:
        from safetensors.numpy import save_file

        save_file({"mean": np.zeros(3)}, folder / "latent_statistics.safetensors")
    fill_folder(folder)
    assert sent(folder).keys() == CONTENTS[family]
    copy_model(Checkpoint.resolve(folder), tmp_path / "copy")
    copied = {
        path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*") if path.is_file()
    }
    assert copied == CONTENTS[family]


def test_an_analyzer_brings_the_same_of_its_detector(tmp_path):
    folder = write_checkpoint(FACES, tmp_path / "model")
    fill_folder(folder)
    write_checkpoint(DETECTOR, folder / "detector")
    fill_folder(folder / "detector")
    write_card(folder)
    assert sent(folder).keys() == CONTENTS[FACES] | {f"detector/{file}" for file in CONTENTS[DETECTOR]}


def test_an_exported_model_brings_the_code_that_its_config_names(tmp_path):
    folder = write_checkpoint(FACES, tmp_path / "model")
    fill_folder(folder)
    export_with_code(str(folder), tmp_path / "exported")
    (tmp_path / "exported" / "other.py").write_text("private = 1")
    code = {path for path in sent(tmp_path / "exported") if path.endswith(".py")}
    assert {"configuration_face_embedder.py", "modeling_face_embedder.py"} <= code and "other.py" not in code
    assert sent(tmp_path / "exported").keys() - code == CONTENTS[FACES]


@pytest.mark.parametrize("file", ["roc.png", "preprocessor_config.json", "model.safetensors"])
def test_a_link_out_of_the_folder_is_refused(file, tmp_path):
    folder = write_checkpoint(FACES, tmp_path / "model")
    fill_folder(folder)
    (folder / file).rename(tmp_path / "elsewhere")
    (folder / file).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{file} is a link that leads out of the folder"):
        sent(folder)


def test_paths_of_this_machine_are_cut_to_their_last_part(tmp_path):
    folder = write_checkpoint(WORDS, tmp_path / "model")
    training = {
        "name": "tiny", "data": "Drawn.", "recipe": {"corpus": "/home/ann/my texts/mail.txt", "epochs": 3},
        "command": "accelerate launch scripts/x.py --corpus /home/ann/mail.txt --output_dir=/data/ann/out",
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(training))
    (folder / "results.json").write_text(
        json.dumps({"words": {"model": f"{tmp_path}/hub/models--ann--w/snapshots/0a1b"}})
    )
    write_card(folder)
    files = sent(folder)
    for content in files.values():
        data = content if isinstance(content, bytes) else content.read_bytes()
        assert b"/home/" not in data and b"/data/" not in data and str(tmp_path).encode() not in data
    published = json.loads(files["training.json"])
    assert published["recipe"] == {"corpus": "mail.txt", "epochs": 3}
    assert published["command"] == "accelerate launch scripts/x.py --corpus mail.txt --output_dir=out"
    assert json.loads(files["results.json"]) == {"words": {"model": "ann/w"}}
    assert json.loads((folder / "training.json").read_text()) == training


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("'/home/ann/my photos/a b.tgz' --x 1", "'a b.tgz' --x 1"),
        ("read ~/photos/x.zip, then 24/255 and/or a / b", "read x.zip, then 24/255 and/or a / b"),
        ("C:\\Users\\ann\\x.txt", "x.txt"),
        ("file:///home/ann/x.txt", "x.txt"),
        ("see https://host/a/b and owner/name", "see https://host/a/b and owner/name"),
        (r"[^/\s]+|\w+/\d", r"[^/\s]+|\w+/\d"),
        ("--images /mnt/a/ --n 3", "--images a --n 3"),
        ("corpus:/home/me/secret/x.txt", "corpus:x.txt"),
        ("/home/Jane Doe/private/x.txt", "x.txt"),
        ("from /home/Jane Doe/private/x.txt it is", "from x.txt it is"),
        ("C:\\Users\\Jane Doe\\x.txt", "x.txt"),
        ("from C:\\Users\\Jane Doe\\x.txt it is", "from x.txt it is"),
        ("\\\\server\\share\\me\\x.txt", "x.txt"),
        ("on \\\\server\\share\\me\\x.txt", "on x.txt"),
        ("~jane/private/x.txt", "x.txt"),
        ("read $HOME/private/x and ${HOME}/private/y", "read x and y"),
        ("read ./../home/me/x", "read x"),
        ("%USERPROFILE%\\me\\x.txt", "x.txt"),
    ],
)
def test_redaction(text, published):
    assert redact({text: [text]}) == {published: [published]}


def test_paths_below_the_home_and_the_working_folder_are_cut_whatever_their_names(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/data/Jane Doe, M.D")
    (tmp_path / "my (own) work").mkdir()
    monkeypatch.chdir(tmp_path / "my (own) work")
    assert redact("read /data/Jane Doe, M.D/private/x.txt now") == "read x.txt now"
    assert redact(f"read {tmp_path}/my (own) work/private/x.txt now") == "read x.txt now"


@pytest.mark.parametrize(
    ("value", "published"),
    [
        ("private/customers/x.txt", "x.txt"),
        ("customers/x.txt", "x.txt"),
        ("private/our customers/photos", "photos"),
        ("owner/name", "owner/name"),
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        (r"[^/\s]+|\w+/\d", r"[^/\s]+|\w+/\d"),
    ],
)
def test_a_relative_path_in_a_recipe_is_cut(value, published):
    assert redact({"recipe": {"corpus": [value]}}) == {"recipe": {"corpus": [published]}}
    words = ["hfembed", "train", "scripts/x.py", value, f"--corpus={value}"]
    expected = ["hfembed", "train", "scripts/x.py", published, f"--corpus={published}"]
    assert redact({"command": shlex.join(words)}) == {"command": shlex.join(expected)}
