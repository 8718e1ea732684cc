"""Model cards: every number in them is read from the results.json and training.json beside the checkpoint."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hfembed.atomic import atomic_write
from hfembed.checkpoint.checkpoint import Checkpoint, belongs_to
from hfembed.checkpoint.files import CARD_FILE, CONFIG_FILE
from hfembed.checkpoint.redaction import redact
from hfembed.errors import InputError
from hfembed.hub.card_marker import mark
from hfembed.models.autoencoder_config import upgrade_config

# undefined names are errors: a card must not have holes
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701  Markdown, not HTML
)


class CardNotes:
    """What a card is made of; no path of this machine is in it.

    Args:
        checkpoint: Whose card it is. Without results.json the card claims nothing.
        repo_id: Where it is on the Hub, `None` for a folder.
    """

    def __init__(self, checkpoint: Checkpoint, repo_id: str | None = None):
        self.folder, self.repo_id = checkpoint.folder, repo_id
        self.config, self.training, self.results = map(
            redact, (checkpoint.config, checkpoint.training, checkpoint.results)
        )
        self.config = upgrade_config(self.config)
        self.has_detector = checkpoint.detector is not None
        self.name = str(self.training.get("name") or (repo_id or self.folder.resolve().name).split("/")[-1])
        recipe = self.training.get("recipe")
        self.recipe = yaml.safe_dump(recipe, sort_keys=False).strip() if recipe else ""

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Name of an evaluation in results.json -> its details, with its figures under `figures`."""
        return {
            name: {
                **details,
                "figures": {
                    key.removeprefix(f"{name}_"): value
                    for key, value in self.results.items()
                    if belongs_to(self.results, name, key) and isinstance(value, int | float)
                },
            }
            for name, details in self.results.items()
            if isinstance(details, dict)
        }


@dataclass(frozen=True)
class Table:
    """An evaluation on the card.

    Attributes:
        about: What was done, in a sentence or none.
        rows: (figure, value in words).
        details: The evaluation's details in results.json: command and date, where they are recorded.
    """

    about: str
    rows: list[tuple[str, str]]
    details: dict[str, Any]


@dataclass(frozen=True)
class CardParts:
    """What a family adds to its notes.

    Attributes:
        template: A file of `templates/`.
        pipeline_tag: The Hub's name for what the model does.
        tags: More names to find it by.
        pictures: File -> caption; those in the folder are shown.
        tables: Title -> an evaluation.
        results: The figures for the Hub's model-index.
    """

    template: str
    pipeline_tag: str
    tags: list[str]
    pictures: dict[str, str]
    tables: dict[str, Table]
    results: list[EvalResult]


def write_card(folder: str | Path) -> Path:
    """Write the README.md of a checkpoint's folder from its config.json, training.json and results.json.

    Args:
        folder: The checkpoint's folder. Without results.json the card claims no results.

    Returns:
        The path of the card.

    Raises:
        InputError: The folder holds no model of ours, or one of its JSON files is damaged or lacks something.
        OSError: The card cannot be written.
    """
    path = Path(folder) / CARD_FILE
    text = render_card(folder)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def render_card(folder: str | Path, repo_id: str | None = None) -> str:
    """The text that `write_card` writes; its code loads the model from `repo_id`, the folder's name by default."""
    from hfembed.checkpoint.family_cards import FAMILY_CARDS

    checkpoint = Checkpoint(str(folder), Path(folder))
    if not (checkpoint.folder / CONFIG_FILE).is_file():
        raise InputError(f"{folder} holds no model to write a card for: there is no {CONFIG_FILE} in it")
    notes = CardNotes(checkpoint, repo_id)
    if notes.config.get("model_type") not in FAMILY_CARDS:
        raise InputError(f"{folder}: there is no card for models of type {notes.config.get('model_type')}")
    try:
        parts = FAMILY_CARDS[notes.config["model_type"]](notes)
        text = render(
            parts.template,
            _metadata(notes, parts).to_yaml(),
            name=notes.name,
            model_id=repo_id or notes.name,
            config=notes.config,
            training=notes.training,
            recipe=notes.recipe,
            has_detector=notes.has_detector,
            tables=parts.tables,
            pictures={file: text for file, text in parts.pictures.items() if (notes.folder / file).is_file()},
        )
    except (jinja2.UndefinedError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"the notes in {folder} are not complete ({error}): train, convert or evaluate it again"
        ) from error
    return mark(str(ModelCard(text)), "generated")


def render(template: str, yaml_block: str, **fields: Any) -> str:
    """A page: the YAML block between its lines, then the filled template.

    Args:
        template: A file of `templates/`.
        yaml_block: For the Hub.
        **fields: What the template names.

    Returns:
        Markdown.

    Raises:
        jinja2.UndefinedError: The template names something that is not given.
    """
    body = _TEMPLATES.get_template(template).render(**fields)
    # parts that are left out leave blank lines behind
    body = re.sub(r"\n{3,}", "\n\n", body.strip())
    return f"---\n{yaml_block}\n---\n\n{body}\n"


def _metadata(notes: CardNotes, parts: CardParts) -> ModelCardData:
    license = notes.training.get("license")
    terms: dict[str, Any] = (
        {} if license else {"license_name": "as-the-training-data", "license_link": "#training-data"}
    )
    return ModelCardData(
        library_name="hfembed",
        pipeline_tag=parts.pipeline_tag,
        license=license or "other",
        **terms,
        tags=["hfembed", *parts.tags],
        datasets=notes.training.get("datasets"),
        base_model=notes.training.get("base_model"),
        metrics=sorted({result.metric_type for result in parts.results}) or None,
        model_name=notes.name,
        eval_results=parts.results or None,
    )
