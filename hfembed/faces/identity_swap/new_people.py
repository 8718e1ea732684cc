"""Teach an identity-conditioned swap model new people, without training: their vectors, from some photos of each."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from hfembed.atomic import atomic_folder
from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.checkpoint import Checkpoint
from hfembed.checkpoint.files import TRAINING_FILE
from hfembed.checkpoint.json_notes import write_json
from hfembed.checkpoint.loading import load_identity_swap
from hfembed.errors import InputError, input_errors
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.data.splits import hold_out_photos
from hfembed.faces.identity_swap.identity_embedders import IdentityEmbedders, describe_people
from hfembed.faces.swap.person_crops import load_people
from hfembed.models.detected_faces import FaceDetector
from hfembed.models.face_embedder.image_processing_face_embedder import lie_inside, template_for_size
from hfembed.photos import open_photo

logger = logging.getLogger(__name__)


def add_people(
    checkpoint: Checkpoint,
    folders: Sequence[str | Path],
    embedders: Sequence[Checkpoint],
    destination: str | Path,
    detector: FaceDetector | None = None,
    held_out_share: float = 0.0,
    seed: int = 0,
) -> dict[str, int]:
    """Write a copy of a checkpoint that also knows some people; one of a known name is replaced.

    Args:
        checkpoint: The model's.
        folders: One per person, who gets its name: photos of that person alone.
        embedders: The face embedders that the model was trained with, in their order.
        destination: The folder to write; may be the checkpoint's own.
        detector: Finds the face of every photo, the highest-scoring one; None: the photos are crops on the standard
            112 x 112 template.
        held_out_share: Leave out this fraction of each person's photos, for `hfembed evaluate swap`.

    Returns:
        Name -> photos that made the vector.

    Raises:
        InputError: The model takes other embedders' vectors, a folder is missing or empty, no face is found in any of
            a person's photos, or the folder cannot be written.
    """
    model, processor = load_identity_swap(checkpoint, "cpu")
    identities = IdentityEmbedders(embedders, processor.template)
    identities.check(model, checkpoint.name)
    photos = load_people(folders, landmarks=template_for_size(112, 112) if detector is None else None)
    if detector is not None:
        photos = with_landmarks(photos, detector)
    names = photos.features["label"].names
    held_out: list[str] = []
    if held_out_share:
        photos, rest = hold_out_photos(photos, held_out_share, seed=seed)
        held_out = rest["file"][:]
    crops = AlignedFaces(photos, processor, show_progress=False)
    if crops.failures:
        logger.warning("left out: %s", ", ".join(f"{file} ({why})" for file, why in crops.failures.items()))
    counts = np.bincount(crops.labels, minlength=len(names))
    if not counts.all():
        raise InputError(f"none of the photos of '{names[int(counts.argmin())]}' can be used; give others")
    number = model.config.photos_per_person
    vectors, own_photos = describe_people(identities, crops.pixels(), crops.labels, len(names), number)
    kept = [row for row, name in enumerate(model.config.people) if name not in names]
    people = [model.config.people[row] for row in kept] + names
    if model.people_vectors is not None and model.people_photos is not None:
        vectors = torch.cat([model.people_vectors[kept].float(), vectors])
        own_photos = torch.cat([model.people_photos[kept], own_photos])
    with input_errors():
        model.set_people(people, vectors, own_photos)
    known: dict[str, Any] = checkpoint.training
    notes = {key: value for key, value in known.items() if key != "weights"} | {
        "people_names": people,
        "trained_files": _of_people(known.get("trained_files"), names) + crops.files,
        "held_out_files": _of_people(known.get("held_out_files"), names) + held_out,
        "crops": "arcface_112" if detector is None else "detected",
    }
    with atomic_folder(destination) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / TRAINING_FILE, {**notes, "weights": Checkpoint(str(destination), folder).fingerprint})
        write_card(folder)
    return dict(zip(names, counts.tolist(), strict=True))


def with_landmarks(photos: datasets.Dataset, detector: FaceDetector) -> datasets.Dataset:
    """Photos with the landmarks of the highest-scoring face in each; others are left out, with a warning.

    Raises:
        InputError: There is no face in any of a person's photos.
    """
    rows, points, left_out = [], [], []
    files, labels = photos["file"][:], photos["label"][:]
    undecoded = photos.cast_column("image", datasets.Image(decode=False))
    for row in range(len(photos)):
        try:
            photo = open_photo(undecoded[row]["image"])
        except InputError:
            left_out.append(f"{files[row]} (cannot be read)")
            continue
        found = detector.detect([photo])[0].landmarks.numpy()
        found = found[lie_inside(found, photo.size)]
        if len(found):
            rows.append(row)
            points.append(found[0].tolist())
        else:
            left_out.append(f"{files[row]} (no face)")
    if left_out:
        logger.warning("left out: %s", ", ".join(left_out))
    names = photos.features["label"].names
    for label in sorted(set(labels) - {labels[row] for row in rows}):
        first = next(file for file, own in zip(files, labels, strict=True) if own == label)
        raise InputError(f"no face was found in the photos of '{names[label]}', the first: {first}")
    features = photos.features
    chosen = photos.select(rows).remove_columns("landmarks").add_column("landmarks", points)
    return chosen.select_columns(list(features)).cast(features)


def _of_people(files: Sequence[str] | None, replaced: Sequence[str]) -> list[str]:
    """Files "person/photo.jpg" of people who are not replaced."""
    return [file for file in files or [] if file.partition("/")[0] not in replaced]
