"""A small, whole checkpoint a family, as training would leave it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hfembed import FaceEmbedderConfig, FaceEmbedderForClassification, FaceImageProcessor, Word2VecModel
from hfembed.hub.card import write_card
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary


def face_embedder(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    config = FaceEmbedderConfig(
        trunk="iresnet",
        trunk_arguments={"depths": [1, 1], "widths": [8, 16]},
        image_size=[20, 16],
        num_channels=3,
        embedding_size=12,
        num_labels=5,
        thresholds={"data": "drawn", "impostors": 99, "accuracy": 0.3, "eer": 0.25, "far": {"0.1": 0.2}},
    )
    FaceEmbedderForClassification(config).eval().save_pretrained(folder)
    FaceImageProcessor(size=[20, 16], image_mean=0.4, image_std=0.3).save_pretrained(folder)


def word2vec(folder: Path, seed: int) -> None:
    words = ["the", "king", "queen", "man", "woman", "приве́т", "naïve", "猫", "new_york"]
    vectors = np.random.default_rng(seed).normal(size=(9, 6)).astype(np.float32)
    Word2VecModel.from_vectors(Vocabulary(words, np.arange(90, 0, -10)), vectors).save_pretrained(folder)


# model type -> what writes a checkpoint of it
CHECKPOINTS: dict[str, Callable[[Path, int], None]] = {
    "hfembed_face_embedder": face_embedder,
    "hfembed_word2vec": word2vec,
}


def write_checkpoint(model_type: str, folder: Path, seed: int = 0) -> Path:
    """Model, processor or words, notes and card."""
    CHECKPOINTS[model_type](folder, seed)
    (folder / "training.json").write_text(json.dumps({"name": "tiny", "data": f"Drawn with seed {seed}."}))
    write_card(folder)
    return folder
