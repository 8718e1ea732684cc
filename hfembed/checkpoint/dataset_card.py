"""The card of a data set on the Hub."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
from huggingface_hub import DatasetCardData

from hfembed.checkpoint.card import render
from hfembed.hub.dataset import Part


def dataset_card(
    parts: Mapping[str, Part],
    *,
    title: str,
    about: str,
    tags: Sequence[str] = (),
    task: str | None = None,
    license: str | None = None,
) -> Callable[[str], str]:
    """Describe a data set.

    Args:
        parts: Configuration -> rows; the first is the default.
        title: Of the card.
        about: What the data is and where it comes from.
        tags: To find it by.
        task: The Hub's name of a task it is for.
        license: The Hub's name of its license; "other" where it is not given.

    Returns:
        Repository id -> the card's text, as `hfembed.hub.dataset.push_dataset` takes it.
    """
    first = next(iter(parts))
    terms: dict[str, Any] = (
        {} if license else {"license_name": "as-its-source", "license_link": "#where-it-comes-from"}
    )
    data = DatasetCardData(
        license=license or "other",
        **terms,
        pretty_name=title,
        task_categories=[task] if task else None,
        tags=["hfembed", *tags],
        configs=[
            {
                "config_name": name,
                "data_files": [{"split": part.split, "path": f"{name}/{part.split}-*.parquet"}],
                **({"default": True} if name == first else {}),
            }
            for name, part in parts.items()
        ],
    )
    tables = [
        {
            "name": name,
            "split": part.split,
            "about": part.about,
            "rows": f"{len(part.data):,}",
            "columns": {column: _type(feature) for column, feature in part.data.features.items()},
        }
        for name, part in parts.items()
    ]
    faces = any(
        isinstance(feature, datasets.Image) for part in parts.values() for feature in part.data.features.values()
    )

    def card(repo_id: str) -> str:
        return render(
            "dataset.md.jinja", data.to_yaml(), repo_id=repo_id, title=title, about=about, tables=tables, faces=faces
        )

    return card


def _type(feature: object) -> str:
    if isinstance(feature, datasets.ClassLabel):
        return f"a number for each of {feature.num_classes:,} names"
    if isinstance(feature, datasets.Image):
        return "a photo"
    if isinstance(feature, datasets.Value):
        return feature.dtype
    return "a list"
