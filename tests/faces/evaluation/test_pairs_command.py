"""`hfembed evaluate pairs`: the accuracy that insightface's own rule gives for the same embeddings."""

import hashlib
import io
import json
import pickle
import shutil
import sys

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.loading import load_face_embedder
from hfembed.checkpoint.results import write_results
from hfembed.cli import main
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size
from tests.hub.hub_server import check_card


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


def insightface_accuracy(embeddings, same, step=0.01):
    """Ten consecutive folds; of the squared distances on a grid, the first that is best on the other nine."""
    embeddings = normalize(embeddings.astype(np.float64))
    distances = np.square(embeddings[::2] - embeddings[1::2]).sum(1)
    thresholds = np.arange(0, 4, step)
    right = (distances[None] < thresholds[:, None]) == same[None]
    folds = [right[right[:, train].mean(1).argmax(), test].mean() for train, test in KFold(10).split(distances)]
    return np.mean(folds), np.std(folds)


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
            pixels = processor(photos, landmarks=[template_for_size(112, 112)] * len(photos))["pixel_values"]
            embeddings = model.embed(pixels).numpy()
        # one decision of 61: insightface takes the first of equally good thresholds, we the one in the middle
        fine = insightface_accuracy(embeddings, same, step=0.0001)[0]
        assert results[f"{name}_accuracy"] == pytest.approx(100 * fine, abs=2)
        mean, deviation = insightface_accuracy(embeddings, same)
        assert results[f"{name}_insightface_accuracy"] == pytest.approx(100 * mean, abs=1e-9)
        assert results[name]["insightface_deviation"] == pytest.approx(100 * deviation, abs=1e-9)
        assert f"{name}: accuracy {results[f'{name}_accuracy']:.2f}" in out
        assert (output / f"{name}_roc.png").exists() and (output / f"{name}_mistakes.png").exists()


def test_the_card_says_which_sets_were_measured(run, checkpoint, tmp_path):
    """In the model's folder: a row per figure in the model-index, beside LFW's, and none under another set's name."""
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    for seed, name in enumerate(("lfw", "agedb_30", "mine")):
        write_set(tmp_path / f"{name}.bin", 20, seed)
    lfw = {"regime": "r", "protocol": "View 2", "mirror": "none", "images": {"failed": 0, "named": 2}}
    lfw |= {
        "pairs": {"failed": 0, "genuine": 1, "impostor": 1},
        "files": {"images": {"name": "lfw", "sha256": "f00d"}},
    }
    write_results(folder, "lfw_view2", {"lfw_view2_accuracy": 91.5}, lfw, folder)
    sets = [word for name in ("lfw", "agedb_30", "mine") for word in ("--set", tmp_path / f"{name}.bin")]
    code, _, err = run(folder, *sets, "--output", folder, "--num-workers", 0, "--device", "cpu")
    assert code == 0, err
    found = json.loads((folder / "results.json").read_text())
    assert found["lfw_view2_accuracy"] == 91.5, "an evaluation whose name begins alike stays"
    card = ModelCard(write_card(folder).read_text())
    assert check_card(card.content, "model") == []
    claimed = {(r.dataset_type, r.dataset_name, r.metric_name): r for r in card.data.eval_results}
    assert claimed["lfw", "Labeled Faces in the Wild (view2)", "accuracy"].metric_value == 91.5
    for name, title in (("lfw", "LFW (lfw.bin, 20 pairs)"), ("agedb_30", "AgeDB-30 (agedb_30.bin, 20 pairs)")):
        digest = hashlib.sha256((tmp_path / f"{name}.bin").read_bytes()).hexdigest()
        for figure, metric in (("accuracy", "accuracy"), ("insightface_accuracy", "accuracy by insightface's rule")):
            result = claimed[name, title, metric]
            assert result.metric_value == round(found[f"{name}_{figure}"], 2) and result.dataset_revision == digest
    assert ("mine", "mine (mine.bin, 20 pairs)", "equal error rate") in claimed
    assert len(card.data.eval_results) == 1 + 3 * 4  # 20 pairs measure no TAR
    assert "### agedb_30" in card.text and "(mine_roc.png)" in card.text


def test_sets_of_a_repository_are_the_same_sets(run, checkpoint, tmp_path):
    """Splits of Parquet with `image1`, `image2`, `target`, as on the Hub: the figures of the .bin."""
    (tmp_path / "bins").mkdir()
    (tmp_path / "sets" / "data").mkdir(parents=True)
    features = datasets.Features(
        {"image1": datasets.Image(), "image2": datasets.Image(), "target": datasets.Value("int64")}
    )
    for seed, name in enumerate(("lfw", "agedb_30", "cfp_ff")):
        crops, same = write_set(tmp_path / "bins" / f"{name}.bin", 23, seed)
        images = [{"bytes": crop.tobytes(), "path": None} for crop in crops]
        rows = {"image1": images[::2], "image2": images[1::2], "target": same.astype(int)}
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(tmp_path / "sets" / "data" / f"{name}-00000-of-00001.parquet")
    results = []
    one = [f"{tmp_path / 'sets'}:lfw", "--set", tmp_path / "bins" / "cfp_ff.bin"]
    for number, sources in enumerate(([tmp_path / "bins"], [tmp_path / "sets"], one)):
        output = tmp_path / f"results{number}"
        options = ("--output", output, "--num-workers", 0, "--device", "cpu")
        code, _, err = run(checkpoint, "--set", *sources, *options)
        assert code == 0, err
        found = json.loads((output / "results.json").read_text())
        results.append({name: value for name, value in found.items() if isinstance(value, float)})
    assert results[0] == results[1] and {name.split("_")[0] for name in results[0]} == {"lfw", "agedb", "cfp"}
    assert results[2] == {name: value for name, value in results[0].items() if not name.startswith("agedb")}
    code, _, err = run(checkpoint, "--set", f"{tmp_path / 'sets'}:cplfw", "--output", tmp_path / "none")
    assert code == 1 and "cplfw" in err
    code, _, err = run(
        checkpoint, "--set", tmp_path / "sets", "--set", tmp_path / "bins", "--output", tmp_path / "none"
    )
    assert code == 1 and "two sets are named" in err


def test_a_damaged_set_is_refused_before_the_work(run, checkpoint, tmp_path):
    write_set(tmp_path / "lfw.bin", 10, 0)
    (tmp_path / "cut.bin").write_bytes((tmp_path / "lfw.bin").read_bytes()[:5000])
    code, _, err = run(
        *(checkpoint, "--set", tmp_path / "lfw.bin", "--set", tmp_path / "cut.bin", "--output", tmp_path / "results")
    )
    assert code == 1
    assert "cut.bin is damaged" in err
    assert not (tmp_path / "results").exists()
