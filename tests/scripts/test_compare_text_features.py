"""The script as its users start it, on texts of two topics that share no words."""

import json

import numpy as np

from hfembed.models.word2vec.modeling_word2vec import Word2VecModel
from hfembed.models.word2vec.vocabulary_word2vec import Vocabulary
from tests.fork_server import REPOSITORY, ScriptRun

SCRIPT = REPOSITORY / "scripts" / "compare_text_features.py"


def test_one_table(tmp_path):
    rng = np.random.default_rng(0)
    topics = {"pets": ["cat", "dog", "hamster"], "stars": ["sun", "moon", "comet"]}
    words = [word for topic in topics.values() for word in topic]
    vectors = rng.normal(size=(6, 8)).astype(np.float32)
    Word2VecModel.from_vectors(Vocabulary(words, np.arange(6, 0, -1)), vectors).save_pretrained(tmp_path / "model")
    rows = [f'"{" ".join(rng.choice(topics[topic], 4))}",{topic}' for topic in topics for _ in range(40)]
    (tmp_path / "train.csv").write_text("text,topic\n" + "\n".join(rows) + "\n")

    def run(*arguments):
        arguments = ["--model", tmp_path / "model", "--train", tmp_path / "train.csv", *arguments]
        return ScriptRun(SCRIPT, arguments, tmp_path / "output.txt").finish()

    code, printed = run("--label_column", "topic", "--device", "cpu", "--output", tmp_path / "table.json")
    assert code == 0, printed
    table = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert len(table) == 8 and all(row["accuracy"] > 90 for row in table), table
    assert {row["features"]: row["number"] for row in table}["word vectors, mean"] == 8
    code, printed = run()
    assert code == 1 and "no column 'label'" in printed and "Traceback" not in printed
