"""training.json beside a checkpoint: what it was trained on, how, and for how long; the model card is made from it."""

import dataclasses
import json
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hfembed.atomic import atomic_write
from hfembed.checkpoint.files import TRAINING_FILE
from hfembed.faces.data.aligned_faces import AlignedFaces
from hfembed.training.config import SharingConfig, TrainingConfig
from hfembed.version import __version__
from hfembed.words.training.recipe import Word2VecTrainingConfig

# where a run is and where its model goes say nothing of how it was trained
_NOT_THE_RECIPE = {"output_dir", "resume", "cache_dir", *(field.name for field in dataclasses.fields(SharingConfig))}


class TrainingRecord:
    """Notes about one run.

    Args:
        config: The recipe.
        photos: What is trained on.
        data: The same in a few sentences for the card.
        accelerator: The run's.
        **notes: What else to note.

    Attributes:
        start: Figures before the first step, where they were measured.
    """

    def __init__(
        self, config: TrainingConfig, photos: AlignedFaces, data: str, accelerator: Accelerator, **notes: Any
    ):
        self.config = config
        self.photos = photos
        self.data = data
        self.notes = notes
        self.accelerator = accelerator
        self.start: dict[str, float] = {}
        self.began = time.time()

    def write(self, metrics: dict[str, float]) -> None:
        """Write the notes into the run's folder.

        Args:
            metrics: Figures of the model that was kept, on the validation data.

        Raises:
            OSError: The file cannot be written.
        """
        device = self.accelerator.device
        if device.type == "cuda":
            machine = f"{self.accelerator.num_processes} x {torch.cuda.get_device_name(device)}"
        else:
            machine = (
                f"{self.accelerator.num_processes} process(es) of {torch.get_num_threads()} threads, "
                f"{platform.machine()} CPU"
            )
        notes = {
            "data": self.data,
            "photos": len(self.photos),
            "people": len(self.photos.identities),
            "seconds": round(time.time() - self.began, 1),
            "machine": machine,
            "start": self.start,
            "validation": metrics,
            **self.notes,
        }
        write_notes(self.config, notes)


def write_notes(config: TrainingConfig | Word2VecTrainingConfig, notes: dict[str, Any]) -> None:
    """Write training.json into a run's folder: the notes, and the run's name, recipe, command and version.

    Args:
        config: The run; what differs from the defaults is the recipe.
        notes: `data`, in a few sentences, `seconds`, `machine` and what else is known.

    Raises:
        OSError: The file cannot be written.
    """
    recipe = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != _default(field) and field.name not in _NOT_THE_RECIPE
    }
    run = {
        "name": Path(config.output_dir).name,
        **notes,
        "recipe": recipe,
        "command": shlex.join(["accelerate", "launch", f"scripts/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "version": describe_version(),
    }
    with atomic_write(Path(config.output_dir) / TRAINING_FILE) as temporary:
        temporary.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def describe_version() -> str:
    """The version of hfembed, and the commit where it runs from a clone."""
    here = Path(__file__).resolve().parent.parent
    if not (here.parent / ".git").exists():
        return f"hfembed {__version__}"
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return f"hfembed {__version__}" + (f", commit {git.stdout.strip()}" if git.returncode == 0 else "")


def _default(field: dataclasses.Field) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
