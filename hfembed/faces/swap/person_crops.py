"""The photos of a few people, one folder each, for face swapping."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import datasets
import numpy as np

from hfembed.errors import InputError
from hfembed.faces.data.face_sources import face_features, with_fingerprint
from hfembed.faces.data.person_folders import check_person_names
from hfembed.photos import find_photos


def load_people(
    folders: Sequence[str | Path],
    *,
    landmarks: Sequence[Sequence[float]] | np.ndarray | None = None,
    exclude_files: Collection[str] = (),
    exclude_people: Collection[str] = (),
) -> datasets.Dataset:
    """Read one folder per person, named after the person; folders within it belong to them too.

    Args:
        landmarks: Five [x, y] that hold for every photo, where they are aligned crops; None: center crops.
        exclude_files: Photos to leave out, as "folder/photo.jpg" (the last two parts of their path).

    Raises:
        InputError: A folder is missing or contains no photos, or two have the same name.
    """
    names = [Path(folder).resolve().name for folder in folders]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(f'duplicate folder name "{name}"; every person needs a distinct name')
    check_person_names(names, "the folders of people")
    left_out, strangers = set(exclude_files), set(exclude_people)
    places: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(map(Path, folders)):
        found = [
            path
            for path in find_photos(folder).photos
            if "/".join(path.parts[-2:]) not in left_out and path.parent.name not in strangers
        ]
        if not found:
            raise InputError(f'"{folder}" contains no photos after the exclusions')
        places += found
        labels += [label] * len(found)
    points = None if landmarks is None else np.asarray(landmarks).tolist()
    columns = {
        "image": [str(place) for place in places],
        "label": labels,
        "file": [
            f"{names[label]}/{place.relative_to(folders[label]).as_posix()}"
            for place, label in zip(places, labels, strict=True)
        ],
        "landmarks": [points] * len(places),
    }
    photos = datasets.Dataset.from_dict(columns, features=face_features(datasets.ClassLabel(names=names)))
    stats = [os.stat(place) for place in places]
    state = repr([(str(p.resolve()), s.st_size, s.st_mtime_ns) for p, s in zip(places, stats, strict=True)] + [points])
    return with_fingerprint(photos, state)
