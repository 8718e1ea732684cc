"""A tiny LFW on disk: people are smooth random textures, their photos noisy copies."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from hfembed.models.face_embedder.configuration_face_embedder import FaceEmbedderConfig
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor
from hfembed.models.face_embedder.modeling_face_embedder import FaceEmbedderModel

PEOPLE = [f"Person_{letter}" for letter in "ABCDEFGH"]
STRANGERS = [f"Stranger_{letter}" for letter in "ABCD"]
POINTS = [[20.0, 24.0], [44.0, 24.0], [32.0, 36.0], [24.0, 48.0], [40.0, 48.0]]


@dataclass
class TinyLfw:
    archive: Path
    folder: Path
    pairs: Path
    view1_pairs: Path
    landmarks: Path


def make_photo(person: int, number: int) -> bytes:
    texture = np.random.default_rng(person).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    photo = np.asarray(PIL.Image.fromarray(texture).resize((64, 64), PIL.Image.Resampling.BICUBIC), dtype=np.int16)
    noise = np.random.default_rng((person, number)).integers(-30, 31, photo.shape)
    encoded = io.BytesIO()
    PIL.Image.fromarray((photo + noise).clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=95)
    return encoded.getvalue()


@pytest.fixture(scope="session")
def tiny_lfw(tmp_path_factory) -> TinyLfw:
    root = tmp_path_factory.mktemp("lfw")
    folder = root / "lfw"
    landmarks = {}
    for number, person in enumerate([*PEOPLE, *STRANGERS]):
        (folder / person).mkdir(parents=True)
        for photo in (1, 2):
            name = f"{person}/{person}_{photo:04d}.jpg"
            (folder / name).write_bytes(make_photo(number, photo))
            landmarks[name] = POINTS
    archive = root / "lfw.tgz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(folder, "lfw")

    half = len(PEOPLE) // 2
    lines = ["2\t4"]
    for fold in range(2):
        here, there = PEOPLE[fold * half : (fold + 1) * half], PEOPLE[(1 - fold) * half :][:half]
        lines += [f"{person}\t1\t2" for person in here]
        lines += [f"{a}\t1\t{b}\t2" for a, b in zip(here, there, strict=True)]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    (root / "pairsDevTest.txt").write_text("\n".join(["4", *lines[1:9]]) + "\n")
    (root / "landmarks.json").write_text(json.dumps(landmarks))
    return TinyLfw(archive, folder, root / "pairs.txt", root / "pairsDevTest.txt", root / "landmarks.json")


@pytest.fixture(scope="session")
def processor() -> FaceImageProcessor:
    return FaceImageProcessor(size=[32, 32])


@pytest.fixture(scope="session")
def model() -> FaceEmbedderModel:
    torch.manual_seed(0)
    config = FaceEmbedderConfig(
        trunk="iresnet",
        trunk_arguments={"depths": [1, 1, 1, 1], "widths": [8, 8, 8, 8]},
        image_size=[32, 32],
        embedding_size=16,
        mirror="concatenate",
    )
    return FaceEmbedderModel(config).eval()


@pytest.fixture(scope="session")
def checkpoint(model, processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path_factory, monkeypatch):
    """Archives are read into a cache that lives as long as the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
