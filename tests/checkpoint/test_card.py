import contextlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from hfembed.checkpoint.card import render_card, write_card
from hfembed.errors import InputError
from tests.checkpoint.checkpoints import FAMILIES, write_checkpoint
from tests.hub.hub_server import check_card
from tests.images.tiny_autoencoder import save_tiny_autoencoder

MODEL_CARDS = Path(__file__).resolve().parents[2] / "model_cards"
PUBLISHED = sorted(path.parent for path in MODEL_CARDS.glob("*/README.md"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda p: p.name)
def test_every_published_card_is_what_its_results_say(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    published = (copy / "README.md").read_text()
    (copy / "README.md").unlink()
    assert write_card(copy).read_text() == published
    metadata = ModelCard(published).data
    assert metadata.library_name == "hfembed" and metadata.eval_results
    assert check_card(published, "model") == []


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda p: p.name)
def test_every_number_of_a_published_card_is_in_its_notes(folder):
    """Numbers with a decimal point, after rounding; whole ones are sizes, counts and names."""
    notes = [json.loads((folder / name).read_text()) for name in ("results.json", "training.json", "config.json")]
    known = {f"{value:.{digits}f}" for value in _numbers(notes) for digits in (1, 2, 3)}
    known |= {f"{json.loads((folder / 'training.json').read_text()).get('seconds', 0) / 60:.1f}"}  # in minutes
    text = (folder / "README.md").read_text()
    # settings of the recipe and arguments of commands are compared as they stand
    body = re.sub(r"```.*?```|`.*?`", "", text, flags=re.DOTALL)
    numbers = re.findall(r"(?<![\w.-])-?\d+\.\d+(?![\w.])", body)
    assert len(numbers) > 10
    assert [number for number in numbers if f"{float(number):.2f}" not in known and number not in known] == []


def _numbers(value):
    if isinstance(value, dict):
        for name, inner in value.items():
            with contextlib.suppress(ValueError):
                yield float(name)
            yield from _numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
    elif isinstance(value, str):
        yield from map(float, re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", value))


def run_the_code(folder, repo_id, where):
    """Push a checkpoint and run every piece of Python on its card; the names that the pieces made."""
    import os
    import re

    from huggingface_hub import ModelCard, constants, get_session

    from hfembed.checkpoint.push import push_folder

    push_folder(folder, repo_id)
    os.chdir(where)
    card = ModelCard.load(repo_id)
    # as card.validate(), which knows one host alone in older versions
    asked = {"repoType": "model", "content": str(card)}
    get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=asked).raise_for_status()
    names = []
    for code in re.findall(r"```python\n(.*?)```", card.text, re.DOTALL):
        namespace = {}
        exec(code, namespace)  # noqa: S102
        names += namespace
    return names


@pytest.fixture
def photos(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("family", FAMILIES)
def test_the_code_on_a_card_runs(hub, client, photos, family):
    folder = write_checkpoint(family, photos / "model")
    names = client(run_the_code, folder=folder, repo_id=f"ann/{family}", where=photos)
    assert {"a", "reconstruction", "filled", "swapped", "vectors", "faces"} & set(names)


def test_the_code_for_an_analyzer_runs(hub, client, photos):
    folder = write_checkpoint("hfembed_face_embedder", photos / "model")
    write_checkpoint("hfembed_face_detector", folder / "detector")
    write_card(folder)
    assert "analyzer" in client(run_the_code, folder=folder, repo_id="ann/analyzer", where=photos)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_without_results_gets_a_card_that_claims_nothing(family, tmp_path):
    folder = write_checkpoint(family, tmp_path / "model")
    card = ModelCard((folder / "README.md").read_text())
    assert card.data.library_name == "hfembed" and card.data.eval_results is None
    assert "Not measured yet" in card.text and "## Limits" in card.text
    assert "consent" in card.text or family == "hfembed_word2vec"
    assert 'from_pretrained("ann/x")' in render_card(folder, "ann/x")


def test_a_card_says_what_the_notes_say(tmp_path):
    folder = write_checkpoint("hfembed_conv_autoencoder", tmp_path / "model")
    notes = {
        "name": "faces-64", "data": "Drawn.", "seconds": 90, "machine": "a machine", "recipe": {"epochs": 3},
        "command": "accelerate launch scripts/x.py --epochs 3", "version": "hfembed 0, commit abc",
        "license": "cc-by-4.0", "datasets": ["ann/faces"], "base_model": "ann/older",
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(notes))
    details = {"command": "hfembed evaluate", "date": "2026-01-02T03:04:05", "files": {"images": {"sha256": "f00d"}}}
    (folder / "results.json").write_text(
        json.dumps({"held_out_psnr": 24.4321, "held_out_ssim": 0.7512, "held_out": details})
    )
    card = ModelCard(write_card(folder).read_text())
    assert (card.data.license, card.data.datasets, card.data.base_model) == ("cc-by-4.0", ["ann/faces"], "ann/older")
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["psnr"].metric_value == 24.432 and results["psnr"].dataset_revision == "f00d"
    assert results["ssim"].metric_value == 0.751 and sorted(card.data.metrics) == ["psnr", "ssim"]
    for text in ("24.43 dB", "1.5 minutes on a machine", "epochs: 3", "(hfembed 0, commit abc)", notes["command"]):
        assert text in card.text
    assert check_card(card.content, "model") == []
    (folder / "training.json").write_text(json.dumps(notes | {"seconds": 2.6}))
    assert "2.6 seconds on a machine" in write_card(folder).read_text()


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no model"):
        write_card(tmp_path)


def test_a_model_of_another_library_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="no card for models of type bert"):
        write_card(tmp_path)


def test_notes_that_lack_something_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hfembed_word2vec"}))
    with pytest.raises(InputError, match="architecture"):
        write_card(tmp_path)


def test_the_card_of_a_model_that_rounds_names_its_commands(tmp_path):
    save_tiny_autoencoder(tmp_path / "plain")
    save_tiny_autoencoder(tmp_path / "rounding", quantizer="rounding", qualities=[11, 17])
    plain, rounding = ((write_card(tmp_path / name)).read_text() for name in ("plain", "rounding"))
    usage = " ".join(rounding.split("## How to use it")[1].split("\n## ")[0].split())
    assert "hfembed compress" in usage and "hfembed decompress" in usage and "qualities 11 to 17" in usage
    assert "hfembed compress" not in plain
