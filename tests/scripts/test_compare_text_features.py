"""The script as its users start it, on texts of two topics that share no words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary

REPOSITORY = Path(__file__).resolve().parents[2]


def test_one_table(tmp_path):
    rng = np.random.default_rng(0)
    topics = {"pets": ["cat", "dog", "hamster"], "stars": ["sun", "moon", "comet"]}
    words = [word for topic in topics.values() for word in topic]
    vectors = rng.normal(size=(6, 8)).astype(np.float32)
    Word2VecModel.from_vectors(Vocabulary(words, np.arange(6, 0, -1)), vectors).save_pretrained(tmp_path / "model")
    rows = [f'"{" ".join(rng.choice(topics[topic], 4))}",{topic}' for topic in topics for _ in range(40)]
    (tmp_path / "train.csv").write_text("text,topic\n" + "\n".join(rows) + "\n")

    def run(*arguments):
        command = [sys.executable, "scripts/compare_text_features.py", "--model", str(tmp_path / "model"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HOME": str(tmp_path / "home")}
        return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)

    train = ("--train", str(tmp_path / "train.csv"))
    done = run(*train, "--label_column", "topic", "--device", "cpu", "--output", str(tmp_path / "table.json"))
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert len(table) == 8 and all(row["accuracy"] > 90 for row in table), table
    assert {row["features"]: row["number"] for row in table}["word vectors, mean"] == 8
    refused = run(*train)
    assert refused.returncode == 1 and "no column 'label'" in refused.stderr and "Traceback" not in refused.stderr
