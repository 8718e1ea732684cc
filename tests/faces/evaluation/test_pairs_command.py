"""`hfembed evaluate pairs`: the accuracy that insightface's own rule gives for the same embeddings."""

import io
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import KFold

from hfembed.checkpoint.loading import load_face_embedder
from hfembed.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process; exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hfembed", "evaluate", "pairs", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run


def write_set(path, pairs, seed):
    """Noisy copies of one picture for genuine pairs, of two for the others; some of them hard."""
    random = np.random.default_rng(seed)
    crops, same = [], random.random(pairs) < 0.5
    for genuine in same:
        first, second = random.integers(0, 256, (2, 7, 7, 3))
        for picture in (first, first if genuine else second):
            noisy = np.kron(picture, np.ones((16, 16, 1))) + random.normal(0, random.choice([5, 150]), (112, 112, 3))
            file = io.BytesIO()
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "PNG")
            crops.append(np.frombuffer(file.getvalue(), np.uint8).copy())
    path.write_bytes(pickle.dumps((crops, same.tolist())))
    return crops, same


def insightface_accuracy(embeddings, same):
    """Ten consecutive folds; of the squared distances at a fine grid, the first that is best on the other nine."""
    distances = np.square(embeddings[::2] - embeddings[1::2]).sum(1)
    thresholds = np.arange(0, 4, 0.0001)
    right = (distances[None] < thresholds[:, None]) == same[None]
    return np.mean(
        [right[right[:, train].mean(1).argmax(), test].mean() for train, test in KFold(10).split(distances)]
    )


def test_accuracy_is_insightfaces(run, checkpoint, tmp_path):
    model, processor = load_face_embedder(checkpoint, "cpu")
    model.config.mirror = "sum"
    sets = {}
    for seed, name in enumerate(("lfw", "cfp_fp")):
        sets[name] = write_set(tmp_path / f"{name}.bin", 61, seed)
    output = tmp_path / "results"
    options = ("--output", output, "--mirror", "sum", "--num-workers", 0, "--device", "cpu")
    code, out, err = run(checkpoint, "--set", tmp_path / "lfw.bin", "--set", tmp_path / "cfp_fp.bin", *options)
    assert code == 0, err
    results = json.loads((output / "results.json").read_text())
    for name, (crops, same) in sets.items():
        photos = [Image.open(io.BytesIO(crop.tobytes())) for crop in crops]
        with torch.inference_mode():
            embeddings = model.embed(processor(photos)["pixel_values"]).numpy()
        # one decision of 61: insightface takes the first of equally good thresholds, we the one in the middle
        assert results[f"{name}_accuracy"] == pytest.approx(100 * insightface_accuracy(embeddings, same), abs=2)
        assert f"{name}: accuracy {results[f'{name}_accuracy']:.2f}" in out
        assert (output / f"{name}_roc.png").exists() and (output / f"{name}_mistakes.png").exists()


def test_a_damaged_set_is_refused_before_the_work(run, checkpoint, tmp_path):
    write_set(tmp_path / "lfw.bin", 10, 0)
    (tmp_path / "cut.bin").write_bytes((tmp_path / "lfw.bin").read_bytes()[:5000])
    code, _, err = run(
        *(checkpoint, "--set", tmp_path / "lfw.bin", "--set", tmp_path / "cut.bin", "--output", tmp_path / "results")
    )
    assert code == 1
    assert "cut.bin is damaged" in err
    assert not (tmp_path / "results").exists()
