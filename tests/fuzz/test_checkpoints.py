"""Mutated configs and notes against `Checkpoint`, and mutated weights."""

import json
import shutil

import pytest

from hfembed.checkpoint.checkpoint import Checkpoint
from tests.checkpoint.checkpoints import FAMILIES, write_checkpoint
from tests.fuzz.fuzzing import fuzz, mutate_bytes, mutate_json_text, put

NOTES = {
    "training.json": {"name": "tiny", "split": {"held_out_share": 0.1, "seed": 0}, "weights": "0" * 64},
    "results.json": {"lfw": 0.9, "lfw_view2": {"figures": ["lfw"], "thresholds": {"far": {"0.1": 0.2}}}},
}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_configs(tmp_path, model_type):
    folder = write_checkpoint(model_type, tmp_path / "whole")
    files = [file for file in folder.iterdir() if file.suffix == ".json" and file.name not in NOTES]
    contents = {file.name: json.loads(file.read_text()) for file in files}

    def try_case(rng):
        name = list(contents)[rng.integers(len(contents))] if rng.random() < 0.5 else "config.json"
        put(folder / name, mutate_json_text(contents[name], rng))
        try:
            checkpoint = Checkpoint.resolve(folder)
            checkpoint.validate()
            assert checkpoint.thresholds is None or isinstance(checkpoint.thresholds, dict)
        finally:
            put(folder / name, json.dumps(contents[name]).encode())

    assert fuzz(f"config of {model_type}", 60, try_case)["refused"]


def test_notes(tmp_path):
    folder = write_checkpoint("hfembed_conv_autoencoder", tmp_path / "whole")

    def try_case(rng):
        name = list(NOTES)[rng.integers(len(NOTES))]
        put(folder / name, mutate_json_text(NOTES[name], rng))
        checkpoint = Checkpoint.resolve(folder)
        for note in (checkpoint.training, checkpoint.results, checkpoint.split):
            assert isinstance(note, dict)

    assert fuzz("notes", 600, try_case)["refused"]


def test_weights(tmp_path):
    folder = write_checkpoint("hfembed_conv_autoencoder", tmp_path / "whole")
    content = (folder / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")

    def try_case(rng):
        put(folder / "model.safetensors", mutate_bytes(content[:header], rng) + content[header:])
        Checkpoint.resolve(folder).validate()

    assert fuzz("weights", 100, try_case)["refused"]
    shutil.rmtree(folder)
