"""What `hfembed evaluate swap` leaves in its folder: results.json, the grid of swaps, likeness against pose."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfembed.checkpoint.json_notes import read_json
from hfembed.checkpoint.results import provenance, write_results
from hfembed.errors import InputError
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.faces.swap.evaluation import Faces, SwapEvaluation
from hfembed.faces.swap.person_crops import load_people
from hfembed.faces.swap.pictures import draw_swap_grid, plot_pose_distance
from hfembed.models.face_embedder.image_processing_face_embedder import FaceImageProcessor, template_for_size
from hfembed.models.face_swap_base import FaceSwapBase

_PICTURED = 8  # photos of each person in the grid


def read_sides(
    notes_file: str | Path, folders: Sequence[str | Path], model: FaceSwapBase, processor: FaceImageProcessor
) -> tuple[Faces, Faces]:
    """The people's photos that a model was trained on, and those it was not.

    Raises:
        InputError: There are no notes, a folder is missing, or one of the sides is empty.
    """
    notes_file = Path(notes_file)
    if not notes_file.is_file():
        raise InputError(f"{notes_file} is missing: it says which photos were trained on and may not be tested")
    notes = read_json(notes_file)
    by_name = {Path(folder).resolve().name: folder for folder in folders}
    for name in (*by_name, *model.config.people):
        if name not in model.config.people:
            raise InputError(f"the model does not know '{name}'; its people: {', '.join(model.config.people)}")
        if name not in by_name:
            raise InputError(f"give a folder called '{name}' too: the model draws {', '.join(model.config.people)}")
    if notes.get("crops") == "detected":
        raise InputError(f"{notes_file}: the people were added with a detector; add aligned crops, to measure on them")
    aligned = "arcface_112" in (notes.get("crops"), notes.get("recipe", {}).get("aligned"))
    photos = AlignedFaces(
        load_people(
            [by_name[name] for name in model.config.people], landmarks=template_for_size(112, 112) if aligned else None
        ),
        processor,
        show_progress=False,
    )
    trained = np.isin(photos.files, notes.get("trained_files", []))
    for use, rows in (("was trained on", trained), ("was held out", ~trained)):
        if not rows.any():
            raise InputError(f"none of the {len(trained)} photos {use}; give the folders that training was given")
    faces = Faces.of(photos)

    def side(rows: np.ndarray) -> Faces:
        chosen = np.flatnonzero(rows)
        return Faces(faces.pixels[chosen], faces.labels[chosen], [faces.files[row] for row in chosen])

    return side(trained), side(~trained)


def report_swap(
    evaluation: SwapEvaluation,
    model: FaceSwapBase,
    processor: FaceImageProcessor,
    output: str | Path,
    files: dict[str, str | Path | None],
) -> dict[str, float]:
    """Measure, and write results.json, swaps.png and (with a detector) pose_distance.png.

    Raises:
        InputError: Somebody has no photo on one of the sides.
        OSError: The folder cannot be written.
    """
    output = Path(output)
    figures, details = evaluation.evaluate(model, processor)
    details |= {
        "model": str(model.config.name_or_path),
        "embedder": str(evaluation.embedder.config.name_or_path),
        "protocol": "held-out photos drawn as everybody else; a person is the mean embedding of the photos trained on",
        **provenance(files),
    }
    tested = evaluation.tested
    rows = [np.flatnonzero(tested.labels == label)[:_PICTURED] for label in range(len(model.config.people))]
    shown = min(len(row) for row in rows)
    draw_swap_grid(model, [tested.pixels[row[:shown]] for row in rows], output / "swaps.png")
    if "pose_points" in details:
        plot_pose_distance(details["pose_points"], output / "pose_distance.png")
    write_results(output, evaluation.name, figures, details, model)
    return figures


def summary(figures: dict[str, Any]) -> str:
    """The figures as lines to print."""
    lines = [
        f"swap: {figures['swap_closer_to_target']:.1f} % of {figures['swap_count']} swaps closer to the target than to"
        " the source",
        f"  cosine to the target {figures['swap_cosine_to_target']:.3f}, to the source "
        f"{figures['swap_cosine_to_source']:.3f}; photos reconstructed {figures['swap_cosine_redrawn']:.3f}, "
        f"the photos themselves {figures['swap_cosine_bound']:.3f}",
        f"  sharpness inside the face {figures['swap_sharpness']:.0f} % of the target's photos",
    ]
    if "swap_undetected" in figures:
        lines.append(f"  no face found in {figures['swap_undetected']:.1f} % of the swaps")
    if "swap_landmark_error" in figures:
        lines.append(
            f"  landmarks {figures['swap_landmark_error']:.1f} % of the eyes' distance from where they were (eyes "
            f"{figures['swap_eye_error']:.1f} %, mouth {figures['swap_mouth_error']:.1f} %); "
            f"pose error {figures['swap_pose_error']:.3f}, correlation of yaw {figures['swap_yaw_correlation']:.2f}"
        )
    if "swap_cosine_by_pose_distance" in figures:
        lines.append(
            "  with the distance to the nearest trained pose the cosine has a rank correlation of "
            f"{figures['swap_cosine_by_pose_distance']:.2f}, the pose error of "
            f"{figures['swap_pose_error_by_pose_distance']:.2f}"
        )
    return "\n".join(lines)
