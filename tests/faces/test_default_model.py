"""The model that is taken where none is named: made once, by one process, found again, and said what it is."""

import importlib.metadata
import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from hfembed import FaceAnalyzer
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.convert.known_checkpoints import KNOWN_CHECKPOINTS, Measurement, Source
from hfembed.errors import InputError
from hfembed.faces import default_model
from hfembed.faces.default_model import resolve_face_model
from tests.cli.test_faces import hfembed, photos  # noqa: F401
from tests.convert.test_known_checkpoints import known, package  # noqa: F401
from tests.faces.conftest import THRESHOLDS, analyzer, draw, folder  # noqa: F401


@pytest.fixture
def default(known, folder, tmp_path, monkeypatch):  # noqa: F811
    """A default model of the tests' own: MTCNN from a package beside the tests' embedder."""
    converted = []

    def get_checkpoint(checkpoint, destination, **hub):
        converted.append(checkpoint.name)
        (tmp_path / "converted.txt").open("a").write(f"{checkpoint.name}\n")
        shutil.copytree(folder if checkpoint.name == "tested" else folder / "detector", destination)
        if checkpoint.thresholds:
            Checkpoint.resolve(destination).store_thresholds(checkpoint.thresholds)

    embedder = replace(
        known, name="tested", title="Tested", license="MIT", lfw=Measurement(98.5, 0.2, "hfembed evaluate lfw"),
        thresholds={**THRESHOLDS, "data": "default pairs"},
    )  # fmt: skip
    monkeypatch.setitem(KNOWN_CHECKPOINTS, "mtcnn", known)
    monkeypatch.setitem(KNOWN_CHECKPOINTS, "tested", embedder)
    monkeypatch.setattr(default_model, "get_checkpoint", get_checkpoint)
    monkeypatch.setattr(default_model, "DETECTOR", "mtcnn")
    monkeypatch.setattr(default_model, "EMBEDDER", "tested")
    monkeypatch.setattr(default_model.constants, "HF_ASSETS_CACHE", str(tmp_path / "home" / "assets"))
    monkeypatch.delenv("HFEMBED_FACE_MODEL", raising=False)
    default_model._say_what_it_is.cache_clear()
    return converted


def test_it_is_made_once_and_said_what_it_is(default, tmp_path, caplog):
    made = resolve_face_model()
    assert made.folder.is_relative_to(tmp_path / "home") and made.thresholds["data"] == "default pairs"
    (line,) = caplog.messages
    assert "Tested (MIT), LFW 98.50 +- 0.20 %" in line and "HFEMBED_FACE_MODEL" in line and "\n" not in line
    assert resolve_face_model() == made and default == ["mtcnn", "tested"] and len(caplog.messages) == 1
    assert FaceAnalyzer.from_pretrained(device="cpu")(draw((50, 30), person=1))[0].faces


def test_one_that_is_damaged_is_made_again(default, tmp_path):
    weights = resolve_face_model().folder / "detector" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert (resolve_face_model().folder / "detector" / "model.safetensors").read_bytes() == before
    assert default == ["mtcnn", "tested"] * 2


@pytest.mark.parametrize("file", ["preprocessor_config.json", "detector/config.json"])
def test_one_that_lacks_a_file_is_made_again(default, file):
    (resolve_face_model().folder / file).unlink()
    assert (resolve_face_model().folder / file).is_file()
    assert default == ["mtcnn", "tested"] * 2


def test_a_wrong_variable_is_named(default, monkeypatch):
    monkeypatch.setenv(default_model.MODEL_VARIABLE, "/nowhere/x")
    with pytest.raises(InputError, match="^HFEMBED_FACE_MODEL: /nowhere/x"):
        resolve_face_model()
    with pytest.raises(InputError, match="^/nowhere/y") as given:
        resolve_face_model("/nowhere/y")
    assert given.value.__cause__ is not given.value


def test_other_thresholds_are_another_model(default, monkeypatch):
    first = resolve_face_model()
    other = replace(KNOWN_CHECKPOINTS["tested"], thresholds=THRESHOLDS)
    monkeypatch.setitem(KNOWN_CHECKPOINTS, "tested", other)
    second = resolve_face_model()
    assert second.folder != first.folder and second.thresholds["data"] == "drawn pairs"


def test_two_processes_make_one(default, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=resolve_face_model) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "converted.txt").read_text().split() == ["mtcnn", "tested"]


def test_a_name_goes_first(default, folder, monkeypatch):  # noqa: F811
    assert resolve_face_model(folder).folder == folder
    monkeypatch.setenv("HFEMBED_FACE_MODEL", str(folder))
    assert resolve_face_model().folder == folder and not default
    monkeypatch.delenv("HFEMBED_FACE_MODEL")
    with pytest.raises(InputError, match="revision"):
        resolve_face_model(revision="v1")


def test_commands_take_it(hfembed, photos, default, tmp_path):  # noqa: F811
    answer = json.loads(hfembed("verify", photos / "a.png", photos / "b.png", "--json"))
    assert answer["same"] and answer["threshold_data"] == "default pairs"
    gallery = tmp_path / "gallery"
    for person, pattern in (("Ann", 1), ("Bob", 2)):
        (gallery / person).mkdir(parents=True)
        draw((50, 30), person=pattern).save(gallery / person / "1.png")
    assert "c.png: Bob" in hfembed("identify", gallery, photos / "c.png", "--far", "0.01")
    assert "5 faces" in hfembed("group", photos, tmp_path / "groups", "--map", "none", "--far", "0.01")
    assert "5 faces" in hfembed("embed", photos, tmp_path / "faces.parquet")
    assert "cosine" in hfembed("explain", photos / "a.png", photos / "b.png", tmp_path / "why.png", "--patch", "12")
    assert default == ["mtcnn", "tested"]


def test_the_pipelines_take_it(default, photos):  # noqa: F811
    assert len(pipeline("face-embedding", device="cpu")(str(photos / "a.png"))) == 1
    assert pipeline("face-verification", device="cpu")((str(photos / "a.png"), str(photos / "b.png")))["same"]


def test_offline_and_absent_is_one_line_with_both_ways_out(hfembed, photos, monkeypatch, tmp_path):  # noqa: F811
    absent = replace(
        KNOWN_CHECKPOINTS["yunet"],
        sources=(Source("package", "package-that-is-not-installed", ()), KNOWN_CHECKPOINTS["yunet"].sources[1]),
    )
    monkeypatch.setitem(KNOWN_CHECKPOINTS, "yunet", absent)
    monkeypatch.setattr(default_model.constants, "HF_ASSETS_CACHE", str(tmp_path / "home" / "assets"))
    error = hfembed("verify", photos / "a.png", photos / "b.png", fails=True)
    assert error.count("\n") == 1 and 'pip install "hfembed[pretrained]"' in error and "connect to the Hub" in error


def test_nothing_is_stored_into_it(hfembed, default, tmp_path):  # noqa: F811
    arguments = ("--images", tmp_path, "--pairs", tmp_path / "pairs.txt", "--output", tmp_path / "out")
    assert "a MODEL of your own" in hfembed("evaluate", "lfw", *arguments, "--store-thresholds", fails=True)
    assert torch.is_grad_enabled()


def test_the_real_one_finds_two_people_and_tells_them_apart(tmp_path, monkeypatch):
    """Photos in the public domain that come with packages: Eileen Collins and Grace Hopper."""
    skimage, matplotlib = pytest.importorskip("skimage"), pytest.importorskip("matplotlib")
    for place in {source.place for name in ("yunet", "sface") for source in KNOWN_CHECKPOINTS[name].sources[:1]}:
        if not any(importlib.metadata.distributions(name=place)):
            pytest.skip(f"{place} is not installed")
    monkeypatch.setattr(default_model.constants, "HF_ASSETS_CACHE", str(tmp_path))
    monkeypatch.delenv("HFEMBED_FACE_MODEL", raising=False)
    eileen = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
    grace = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    found = FaceAnalyzer.from_pretrained(device="cpu")
    (one,) = found(eileen)[0].faces
    assert np.abs(one.box - [178, 62, 269, 177]).max() < 6 and one.quality.score > 0.9
    turned = eileen.rotate(20, Image.Resampling.BICUBIC)
    assert found.verify(eileen, turned).same and not found.verify(eileen, grace).same
    assert found.verify(eileen, eileen.resize((205, 205)), far=1e-2).probability > 0.99
