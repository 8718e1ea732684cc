"""The card of an index on the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import DatasetCard, DatasetCardData

if TYPE_CHECKING:
    from hfembed.index.embedding_index import EmbeddingIndex

TEMPLATE = Path(__file__).parent / "card.md.jinja"


def render_index_card(index: "EmbeddingIndex", repo_id: str) -> str:
    """Write the card of an index' data set repository."""
    data = DatasetCardData(
        tags=["hfembed", "embeddings"],
        license="other",
        license_name="as-the-photos-or-texts",
        # what the Hub's viewer shows; the vectors themselves are no table
        configs=[{"config_name": "labels", "data_files": "table.parquet"}],
    )
    return str(DatasetCard.from_template(data, template_path=str(TEMPLATE), index=index, repo_id=repo_id))
