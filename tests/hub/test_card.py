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


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no model"):
        write_card(tmp_path)
