"""Pictures of what an autoencoder makes of images."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import BaseImageProcessor, PreTrainedModel

from hfembed.atomic import atomic_write
from hfembed.errors import InputError
from hfembed.images.evaluation.reconstruction import HeldOutReconstruction, reconstruct, takes_masks
from hfembed.images.films import picture_grid, to_pictures, write_picture


def draw_reconstructions(
    protocol: HeldOutReconstruction,
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    path: str | Path,
    count: int = 8,
) -> None:
    """Draw images above what the model makes of them; damaged ones in between where it has to undo damage.

    Args:
        protocol: Has the images; some of them, spread evenly, are drawn.
        model: A `ConvAutoencoderModel` in eval mode.
        processor: Its processor.
        path: The picture file.
        count: Images.

    Raises:
        OSError: The file cannot be written.
    """
    chosen = torch.linspace(0, len(protocol.pixels) - 1, min(count, len(protocol.pixels))).round().long()
    targets = processor.normalize(protocol.pixels[chosen])
    damaged = processor.normalize(protocol.damaged[chosen])
    masks = protocol.masks[chosen] if takes_masks(model) else None
    again, _ = reconstruct(model, damaged, masks=masks)
    rows = [targets, again] if protocol.damaged is protocol.pixels else [targets, damaged, again]
    draw_rows(rows, path)


def draw_rows(rows: list[torch.Tensor], path: str | Path, scale: int = 2) -> None:
    """Draw rows of images above each other.

    Args:
        rows: Each (N, 1 or 3, H, W) in [0, 1].
        path: The picture file.
        scale: Repeat every pixel so many times.

    Raises:
        OSError: The file cannot be written.
    """
    write_picture(picture_grid([to_pictures(row) for row in rows]), path, scale)


def draw_curves(runs: Mapping[str, str | Path], path: str | Path) -> None:
    """Draw PSNR over the steps of training, on training photos and on people not trained on, side by side.

    Args:
        runs: Name -> the run's folder, with its training_log.jsonl.
        path: The picture file.

    Raises:
        InputError: A run has no log, or no evaluation in it.
        OSError: The file cannot be written.
    """
    figure = Figure(figsize=(3.4 * len(runs), 3.4), layout="constrained")
    axes = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for place, (name, run) in zip(axes, runs.items(), strict=True):
        log = Path(run) / "training_log.jsonl"
        if not log.exists():
            raise InputError(f"{run} has no training_log.jsonl: train it first")
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        measured = [line for line in lines if "train_psnr" in line]
        if not measured:
            raise InputError(f"{log} has no evaluations: train with validation_share above 0 and evaluate_every")
        steps = [line["step"] for line in measured]
        place.plot(steps, [line["train_psnr"] for line in measured], label="trained on", color="#8a8a8a")
        place.plot(steps, [line["psnr"] for line in measured], label="other people", color="#1f5fa8", linewidth=2)
        gap = measured[-1]["train_psnr"] - measured[-1]["psnr"]
        place.set(title=f"{name}: gap {gap:.1f} dB", xlabel="step")
        place.grid(True, color="#dddddd", linewidth=0.7)
    axes[0].set_ylabel("PSNR (dB)")
    axes[0].legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)
