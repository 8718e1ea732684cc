"""`manifest.json` of a converted data set: what its shards are, and what all of its photos have in common."""

from pathlib import Path
from typing import Any

from hfembed.checkpoint.json_notes import read_json
from hfembed.faces.data.landmarks import five_points

MANIFEST_FILE = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of shards; {} where there is none, or a file of this name that is something else.

    Raises:
        InputError: It is damaged.
    """
    if not (folder / MANIFEST_FILE).is_file():
        return {}
    manifest = read_json(folder / MANIFEST_FILE)
    if "shards" not in manifest:
        return {}
    landmarks = manifest.get("landmarks")
    if landmarks is not None:
        five_points(landmarks, f"{folder / MANIFEST_FILE}: landmarks are not five finite [x, y]")
    return manifest
