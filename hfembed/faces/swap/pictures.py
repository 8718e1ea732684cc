"""Pictures of swapped faces."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from hfembed.atomic import atomic_write
from hfembed.models.face_swap_base import FaceSwapBase


@torch.no_grad()
def draw_swap_grid(
    model: FaceSwapBase, faces: Sequence[torch.Tensor], path: str | Path, magnify: int = 2, gap: int = 4
) -> None:
    """Draw one block of rows per person: their photos, then the same photos swapped to each person.

    Args:
        faces: A tensor (count, channels, height, width) in [0, 1] for each of the model's people; equal counts.

    Raises:
        OSError: The file cannot be written.
    """
    rows = []
    for photos in faces:
        columns = [photos] + [model.swap(photos.to(model.device), person)[0].cpu() for person in model.config.people]
        blocks = [torch.cat(list(column.float()), dim=2) for column in columns]
        space = torch.ones(*blocks[0].shape[:2], gap)
        rows.append(torch.cat([part for block in blocks for part in (block, space)][:-1], dim=2))
        rows.append(torch.ones(rows[0].shape[0], gap, rows[0].shape[2]))
    pixels = (torch.cat(rows[:-1], dim=1).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
    with atomic_write(path) as temporary:
        picture.resize((magnify * picture.width, magnify * picture.height), Image.Resampling.NEAREST).save(temporary)


def plot_pose_distance(points: Sequence[dict[str, Any]], path: str | Path, bins: int = 6) -> None:
    """Plot likeness and pose error of swaps over the distance from their pose to the nearest trained one.

    Args:
        points: Of `SwapEvaluation.evaluate`: "distance", "cosine", "pose_error" (None where unknown), "held_out".

    Raises:
        OSError: The file cannot be written.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (key, label) in zip(
        figure.subplots(1, 2),
        [("cosine", "cosine to the target"), ("pose_error", "pose error")],
        strict=True,
    ):
        known = [point for point in points if point["distance"] is not None and point[key] is not None]
        for held_out, color, name in ((False, "#8a8a8a", "photo the encoder knows"), (True, "#1f5fa8", "held out")):
            chosen = [point for point in known if point["held_out"] == held_out]
            axes.scatter([p["distance"] for p in chosen], [p[key] for p in chosen], s=14, color=color, label=name)
        ordered = sorted(known, key=lambda point: point["distance"])
        groups = [group for group in np.array_split(np.arange(len(ordered)), bins) if len(group)]
        centers = [np.mean([ordered[place]["distance"] for place in group]) for group in groups]
        axes.plot(
            centers,
            [np.mean([ordered[place][key] for place in group]) for group in groups],
            color="#b8341b",
            marker="o",
            label="mean of a group",
        )
        axes.set(xlabel="distance to the nearest pose the decoder was trained on", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)
