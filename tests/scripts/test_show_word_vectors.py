"""The words of the quickstart, from the articles in gensim's package to the vectors that gensim reads."""

import subprocess
import sys
from pathlib import Path

import pytest
from gensim.models import KeyedVectors
from gensim.test.utils import datapath

from hfembed.checkpoint.results import read_results

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_quickstart_learns_what_articles_are_about(tmp_path):
    recipe = REPOSITORY / "hfembed" / "recipes" / "word2vec_quickstart.yaml"
    arguments = ["--config", recipe, "--corpus", datapath("lee_background.cor"), "--output_dir", tmp_path / "words"]
    for script, more in (("train_word2vec.py", arguments), ("show_word_vectors.py", [tmp_path / "words"])):
        subprocess.run([sys.executable, REPOSITORY / "scripts" / script, *more], cwd=REPOSITORY, check=True)
    results = read_results(tmp_path / "words")
    assert results["lee_vectors_sif"] > 3 * results["lee_bag_of_words"]
    assert (tmp_path / "words" / "map.png").stat().st_size > 10_000
    theirs = KeyedVectors.load_word2vec_format(tmp_path / "words" / "vectors.bin", binary=True)
    assert theirs.most_similar("israeli")[0][0] == "palestinian"
