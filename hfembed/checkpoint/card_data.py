"""What every model card is made of: the notes beside a checkpoint, and a template filled with nothing left open."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.errors import InputError

# undefined names are errors: a card must not have holes
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701  Markdown, not HTML
)


class CardNotes:
    """What a card is made of.

    Args:
        checkpoint: Whose card it is. Without results.json the card claims nothing.
        repo_id: Where it is on the Hub, `None` for a folder.
    """

    def __init__(self, checkpoint: Checkpoint, repo_id: str | None = None):
        self.folder, self.repo_id = checkpoint.folder, repo_id
        self.config, self.training, self.results = checkpoint.config, checkpoint.training, checkpoint.results
        self.has_detector = checkpoint.detector is not None

    @property
    def name(self) -> str:
        """What to call the model."""
        return self.training.get("name") or (self.repo_id or self.folder.resolve().name).split("/")[-1]

    @property
    def recipe(self) -> str:
        """The settings it was trained with, as YAML; empty where none are recorded."""
        recipe = self.training.get("recipe")
        return yaml.safe_dump(recipe, sort_keys=False).strip() if recipe else ""

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Name of an evaluation in results.json -> its details, and under `figures` its figures."""
        return {
            name: {
                **details,
                "figures": {
                    key.removeprefix(f"{name}_"): value
                    for key, value in self.results.items()
                    if (key.startswith(f"{name}_") or key in details.get("figures", ()))
                    and isinstance(value, int | float)
                },
            }
            for name, details in self.results.items()
            if isinstance(details, dict)
        }

    def table(self, evaluation: str, units: Mapping[str, str]) -> "Table":
        """The figures of an evaluation as they are.

        Args:
            evaluation: Its name in results.json.
            units: End of a figure's name -> what stands behind its value.
        """
        details = self.evaluations[evaluation]
        rows = []
        for figure, value in details["figures"].items():
            unit = next((unit for end, unit in units.items() if figure.endswith(end)), "")
            rows.append((figure.replace("_", " "), f"{value:.4g}{unit}"))
        return Table(str(details.get("protocol", "")), rows, details)

    def card_data(self, pipeline_tag: str, tags: list[str], eval_results: list[EvalResult]) -> ModelCardData:
        """The YAML block.

        Args:
            pipeline_tag: The Hub's name for what the model does.
            tags: More names to find it by.
            eval_results: For the model-index.
        """
        license = self.training.get("license")
        own_terms = {"license_name": "as-the-training-data", "license_link": "#training-data"}
        return ModelCardData(
            library_name="hfembed",
            pipeline_tag=pipeline_tag,
            license=license or "other",
            **({} if license else own_terms),
            tags=["hfembed", *tags],
            datasets=self.training.get("datasets"),
            base_model=self.training.get("base_model"),
            metrics=sorted({result.metric_type for result in eval_results}) or None,
            model_name=self.name,
            eval_results=eval_results or None,
        )

    def pictures(self, captions: dict[str, str]) -> dict[str, str]:
        """Those of the pictures (file -> caption) that lie in the folder."""
        return {file: caption for file, caption in captions.items() if (self.folder / file).exists()}


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


def dataset_revision(details: dict[str, Any], *roles: str) -> str | None:
    """The sha256 of the file that an evaluation read in one of these roles; None for a folder or an unknown one."""
    files = details.get("files", {})
    return next((files[role]["sha256"] for role in roles if "sha256" in files.get(role, {})), None)


def fill(template: str, notes: CardNotes, data: ModelCardData, **fields: Any) -> ModelCard:
    """Fill a template of `templates/`.

    Args:
        template: Its file's name.
        notes: Whose card it is; the template sees its attributes.
        data: The YAML block.
        **fields: What else the template needs.

    Returns:
        The card.

    Raises:
        InputError: The notes beside the checkpoint lack something that the template names.
    """
    try:
        return ModelCard(
            render(
                template,
                data.to_yaml(),
                name=notes.name,
                model_id=notes.repo_id or notes.name,
                config=notes.config,
                training=notes.training,
                recipe=notes.recipe,
                **fields,
            )
        )
    except jinja2.UndefinedError as error:
        raise InputError(
            f"the notes in {notes.folder} are not complete ({error}): train, convert or evaluate it again"
        ) from error


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
