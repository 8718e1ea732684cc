"""Checkpoints to resume from: complete or absent, and exact."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator

from hfembed.errors import InputError, first_line


@dataclass
class Progress:
    """Where a run stands. Saved with every checkpoint.

    Attributes:
        epoch: The epoch that the next step belongs to.
        step_in_epoch: Steps done in it.
        step: Steps done in all.
        micro_batches: Ranks x gradient accumulation steps of the run that wrote the checkpoint.
        seconds: Time spent training so far.
        running: Sums of the loss and the metrics since the last log line, with the number of micro-batches 'rounds'.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    micro_batches: int = 1
    seconds: float = 0.0
    running: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict:
        """The fields, for `Accelerator.register_for_checkpointing`."""
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        """Take the fields from a checkpoint."""
        for name in asdict(self):
            setattr(self, name, state.get(name, getattr(self, name)))


class Checkpoints:
    """The checkpoints of one run, `output_dir/checkpoints/step_00000123`, the newest `keep` of them.

    A checkpoint is written under another name and renamed when every rank is done, so that a run killed at any moment
    leaves complete checkpoints only.

    Args:
        accelerator: Holds what is saved.
        folder: Where they lie.
        keep: How many to keep.
        stamp: Writes the run's identity into the folder of a checkpoint.
    """

    def __init__(
        self, accelerator: Accelerator, folder: str | Path, keep: int, stamp: Callable[[Path], None] | None = None
    ):
        self.accelerator = accelerator
        self.folder = Path(folder)
        self.keep = keep
        self.stamp = stamp

    def all(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        return sorted(self.folder.glob("step_*[0-9]"))

    def save(self, step: int) -> None:
        """Write the state of model, optimizer, schedule, random generators and registered objects. Call on every rank.

        Raises:
            OSError: The disk is full or not writable. Earlier checkpoints are left as they were.
        """
        target = self.folder / f"step_{step:08d}"
        partial = self.folder / f".{target.name}.partial"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self.accelerator.save_state(str(partial))
            if self.accelerator.is_main_process and self.stamp is not None:
                self.stamp(partial)
        except Exception as error:
            # torch and safetensors report a full disk each in their own way; the reason's first line is kept
            shutil.rmtree(partial, ignore_errors=True)
            reason = first_line(error)
            raise OSError(
                f"checkpoint {target} could not be written ({reason}); free some space and continue with --resume: "
                "earlier checkpoints are intact"
            ) from error
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            for old in self.all()[: -self.keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def load_newest(self) -> Path | None:
        """Load the newest checkpoint into everything that `accelerator` has prepared. Call on every rank.

        Returns:
            The checkpoint's folder, None when there is none yet.

        Raises:
            InputError: The checkpoint is damaged or belongs to another model.
        """
        checkpoints = self.all()
        if not checkpoints:
            return None
        try:
            self.accelerator.load_state(str(checkpoints[-1]))
        except Exception as error:
            reason = first_line(error)
            raise InputError(
                f"checkpoint {checkpoints[-1]} cannot be loaded ({reason}); resume with the recipe that wrote it, or "
                "delete this checkpoint to go on from an older one"
            ) from error
        return checkpoints[-1]
