import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hfembed.errors import InputError
from hfembed.hub.card import write_card

MODEL_CARDS = Path(__file__).resolve().parents[2] / "model_cards"


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in MODEL_CARDS.glob("*/README.md")), ids=lambda p: p.name
)
def test_every_published_card_is_what_its_results_say(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    published = (copy / "README.md").read_text()
    (copy / "README.md").unlink()
    assert write_card(copy).read_text() == published
    metadata = ModelCard(published).data
    assert metadata.library_name == "hfembed" and metadata.eval_results


@pytest.mark.parametrize("family", ["face_detector", "conv_autoencoder", "face_swap"])
def test_a_bare_checkpoint_gets_a_card_that_claims_nothing(family, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": f"hfembed_{family}"}))
    card = ModelCard(write_card(tmp_path).read_text())
    assert card.data.library_name == "hfembed" and card.data.eval_results is None
    assert "Not measured yet" in card.text and "consent" in card.text


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
