"""One training run and its folder: what identifies it, where it stands, and how it ends in a model.

`run.json` in the folder holds the run's commands and how it ended. Every checkpoint holds the identity of its run and
is resumed by no other. The final model, its notes and its card take the place of an earlier model at once.
"""

import dataclasses
import functools
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from filelock import FileLock
from transformers.utils import logging

from hfembed.atomic import atomic_folder
from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.files import CARD_FILE, CONFIG_FILE, TRAINING_FILE
from hfembed.checkpoint.fingerprint import fingerprint_weights
from hfembed.checkpoint.json_notes import read_json, write_json
from hfembed.checkpoint.redaction import redact
from hfembed.checkpoint.saving import finish_save, save_checkpoint
from hfembed.errors import InputError, counted, exit_on_input_error, first_line
from hfembed.training.config import RunConfig, default_of
from hfembed.training.distributed import PATIENCE, check_shared_folder
from hfembed.training.sharing import HubSharing
from hfembed.version import __version__

RUN_FILE = "run.json"
IDENTITY_FILE = "identity.json"
BEST_FILE = "validation.json"
TENSORBOARD_FOLDER = "tensorboard"
_MODEL_FILES = (CONFIG_FILE, "*.safetensors")
# names of what is not complete, of atomic_write, atomic_folder, save_checkpoint (once finished) and the checkpoints
_TEMPORARY = re.compile(r"\.[\w-]+\.(old\.)?[a-z0-9_]{8}(\.\w+)?|\..+\.partial|\.saved|\.(preparing|ranks)-.+")

PATIENT = InitProcessGroupKwargs(timeout=PATIENCE)

_made_folders: set[Path] = set()  # by the runs of this process

Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class Identity:
    """What a run and its checkpoints must have in common.

    Attributes:
        fields: Name -> value of all that changes the result.
        length: Steps or words of the whole run. A run may be resumed as a longer one.
        unit: What `length` counts.
    """

    fields: dict[str, Any]
    length: int = 0
    unit: str = "steps"

    def write(self, folder: Path) -> None:
        """Write it into a checkpoint's folder."""
        write_json(folder / IDENTITY_FILE, dataclasses.asdict(self))

    def check(self, folder: Path) -> None:
        """Compare it with that of a checkpoint, or of a run's folder.

        Raises:
            InputError: They differ; the message names the field and both values.
        """
        notes = _read(folder / IDENTITY_FILE)
        fields = notes.get("fields", {})  # checkpoints from before runs had an identity have none
        for name, value in json.loads(json.dumps(self.fields)).items():
            earlier = fields.get(name, value)
            if earlier != value:
                raise InputError(
                    f"{folder} was written with {name} {_show(earlier)}, not {_show(value)}: resume with the recipe "
                    "and the data that wrote it, choose another --output_dir, or start again with --overwrite"
                )
        if 0 < self.length < notes.get("length", 0):
            raise InputError(
                f"{folder} is of a run of {notes['length']:,} {self.unit}, not {self.length:,}: a run can be resumed "
                "as a longer one, not as a shorter one"
            )


def training_program(main: Callable[..., None]) -> Callable[..., None]:
    """Make a training program end with one line where its input is at fault, and at Ctrl-C."""

    @functools.wraps(main)
    def wrapper(*arguments: Any) -> None:
        logging.disable_progress_bar()  # of files written, in the middle of the training's own
        try:
            with _unused_folders_removed():
                main(*arguments)
        except KeyboardInterrupt:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                line = (
                    "interrupted: the same command with --resume continues from the newest checkpoint; before the "
                    "first one (checkpoint_every steps) it starts from the beginning"
                )
                print(line, file=sys.stderr)  # noqa: T201
            sys.exit(130)
        except RuntimeError as error:
            # of gloo or NCCL, where another rank ended; torch's launcher says which
            if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
                raise
            if "TORCHELASTIC_RUN_ID" not in os.environ:
                print(f"error: the connection to another rank broke: {first_line(error)}", file=sys.stderr)  # noqa: T201
            sys.exit(1)

    return exit_on_input_error(wrapper)


@contextmanager
def _unused_folders_removed() -> Iterator[None]:
    """Remove the folder that a run made and failed before it trained anything."""
    try:
        yield
    except BaseException:
        for folder in _made_folders:
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
            if all(name in (RUN_FILE, IDENTITY_FILE) or _TEMPORARY.fullmatch(name) for name in names):
                shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        _made_folders.clear()


class Run:
    """One run with one folder. Made before any data is read: what is wrong with the folder is found here.

    The folder is new (or empty but for what no run writes), interrupted, finished, or foreign: it holds a model that
    this run did not make. `resume` continues an interrupted or finished run, `overwrite` replaces whatever is there.

    Args:
        config: The recipe.
        family: The name of its command: `hfembed train FAMILY`.
        accelerator: Device and ranks.

    Attributes:
        folder: The run's folder.
        notes: What the family wants in training.json besides the recipe.
        sharing: Its pushes to the Hub.

    Raises:
        InputError: The folder holds something that would be mixed up or lost, or an earlier run with other settings,
            or is not the same for all ranks.
        OSError: The folder cannot be written.
    """

    def __init__(self, config: RunConfig, family: str, accelerator: Accelerator):
        self.config, self.family, self.accelerator = config, family, accelerator
        self.folder = Path(config.output_dir)
        self.checkpoints = self.folder / "checkpoints"
        self.notes: dict[str, Any] = {}
        self.command = shlex.join(["hfembed", "train", family, *sys.argv[1:]])
        self.began = time.time()
        self.identity = Identity(
            {
                field.name: getattr(config, field.name)
                for field in dataclasses.fields(config)
                if field.metadata["changes_result"]
            }
        )
        if accelerator.is_main_process and not self.folder.exists():
            _made_folders.add(self.folder)
        check_shared_folder(self.folder)
        self._check_folder()
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self._open_folder()
        accelerator.wait_for_everyone()
        self.sharing = HubSharing(config, self.folder, accelerator.print)

    def prepare(self, load: Callable[[], Prepared]) -> Prepared:
        """Read data on each machine's main process first, so that its other ranks find it in the cache.

        They wait for a file's lock, outside of the process group, whose timeout a long preparation would exceed.
        """
        is_first = self.accelerator.is_local_main_process
        self.folder.mkdir(parents=True, exist_ok=True)
        machine = f"{platform.node()}-{os.environ.get('GROUP_RANK', '0')}"  # names alone need not tell machines apart
        lock = FileLock(self.folder / f".preparing-{machine}.lock")
        with lock if is_first else nullcontext():
            self.accelerator.wait_for_everyone()
            if is_first:
                prepared = load()
        if not is_first:
            lock.acquire()  # once the first is done
            lock.release()
            prepared = load()
        self.accelerator.wait_for_everyone()
        if is_first:
            Path(lock.lock_file).unlink(missing_ok=True)
        return prepared

    def describe_data(self, text: str, fingerprint: str, **facts: Any) -> None:
        """Note what is trained on, and say so.

        Args:
            text: A few sentences for the card.
            fingerprint: Changes when the training data does.
            facts: More for training.json.
        """
        self.notes |= {"data": text, **facts}
        self.data = fingerprint
        self.accelerator.print(
            f"{text} Training on {counted(self.accelerator.num_processes, 'rank')}, {self.accelerator.device.type}."
        )

    def identify(self, length: int, unit: str = "steps", **more: Any) -> bool:
        """Complete the identity once the data is known, and compare it with the run to be resumed.

        Args:
            length: Steps or words of the whole run.
            unit: What `length` counts.
            more: What else changes the result.

        Returns:
            Whether there is anything left to train.

        Raises:
            InputError: The run to be resumed has other data, or was longer.
        """
        self.identity = Identity({**self.identity.fields, "data": self.data, **more}, length, unit)
        newest = self.newest_checkpoint()
        if newest is not None or self.finished_at:
            if not (newest or self.folder).joinpath(IDENTITY_FILE).exists():
                self.accelerator.print(
                    f"{newest or self.folder} is of an older version and does not say which recipe and data wrote it: "
                    "resumed without comparing them"
                )
            self.identity.check(newest or self.folder)
            if newest is None and length > self.finished_at:
                raise InputError(
                    f"{self.folder} holds a finished run without its checkpoints, which cannot be resumed: train anew "
                    "with --overwrite, or choose another --output_dir"
                )
        self.accelerator.wait_for_everyone()
        if self.finished_at == length:
            self.accelerator.print(
                f"finished already: the model is in {self.folder}; more epochs continue its training"
            )
            if self.accelerator.is_main_process:
                self.sharing.push_result()
            return False
        if self.accelerator.is_main_process:
            self.identity.write(self.folder)
        return True

    @property
    def finished_at(self) -> int:
        """The length at which the model in the folder was finished; 0 where there is none."""
        if not (self.folder / CONFIG_FILE).exists():
            return 0
        return int(_read(self.folder / RUN_FILE).get("finished_at", 0))

    def newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint."""
        steps = sorted([*self.checkpoints.glob("step_*[0-9]"), *self.checkpoints.glob("segments_*[0-9]")])
        return steps[-1] if steps else None

    def best(self) -> tuple[Path | None, dict[str, float]]:
        """The folder with the best model so far and its figures on the validation data; None before there is one."""
        found = sorted(self.checkpoints.glob("best_*[0-9]"))
        return (found[-1], _read(found[-1] / BEST_FILE)) if found else (None, {})

    def save_best(self, step: int, save: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Keep a model as the best so far; call on the main process. The earlier one goes when it is complete."""
        earlier = self.best()[0]
        with atomic_folder(self.checkpoints / f"best_{step:08d}") as folder:
            save(folder)
            write_json(folder / BEST_FILE, metrics)
        if earlier is not None and earlier.name != f"best_{step:08d}":
            shutil.rmtree(earlier)

    def finish(
        self,
        save: Callable[[Path], None],
        length: int,
        seconds: float,
        metrics: dict[str, float] | None = None,
        machine: str = "",
        write_results: Callable[[Path], None] | None = None,
    ) -> None:
        """Put the final model with its notes and card into the folder, and push it; call on the main process.

        Killed at any moment, the folder holds the earlier model or this one, and `resume` completes it.

        Args:
            save: Writes the last model and what belongs to it into a folder; the best one takes its place if kept.
            length: Steps or words trained.
            seconds: Time spent training, over all starts.
            metrics: Figures on the validation data.
            machine: What it ran on; by default the accelerator's devices.
            write_results: Writes results into the folder it is given.
        """
        best, figures = self.best()

        def write(folder: Path) -> None:
            if best is None:
                save(folder)
            else:
                shutil.copytree(best, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(BEST_FILE))
            if write_results is not None:
                write_results(folder)
            notes = {"seconds": round(seconds, 3), "machine": machine or self._machine(), **self.notes}
            if figures or metrics:
                notes["validation"] = figures or metrics
            write_json(folder / TRAINING_FILE, self._training_notes(notes))
            write_card(folder)
            write_json(folder / RUN_FILE, {**self._run, "finished_at": length, "weights": fingerprint_weights(folder)})

        save_checkpoint(self.folder, write)
        self.accelerator.print(f"the model is in {self.folder}, its card is {self.folder / CARD_FILE}")
        self.sharing.push_result()

    def _check_folder(self) -> None:
        """Refuse a folder that holds something else; changes nothing."""
        config = self.config
        start = getattr(config, "init_from", "")
        place = Path(getattr(config, "path", str)(start)).resolve()
        if start and place.exists() and self.folder.resolve() in (place, *place.parents):
            raise InputError(f"init_from {start} lies in output_dir {self.folder}: choose another --output_dir")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"output_dir {self.folder} is not a folder")
        if config.overwrite:
            return
        earlier = _read(self.folder / RUN_FILE)
        newest = self.newest_checkpoint()
        has_model = any(file for pattern in _MODEL_FILES for file in self.folder.glob(pattern))
        is_ours = newest is not None or bool(earlier)
        if has_model and is_ours and "weights" in earlier and (self.folder / CONFIG_FILE).exists():
            is_ours = fingerprint_weights(self.folder) == earlier["weights"]
        if has_model and not is_ours:
            raise InputError(
                f"{self.folder} holds a model that this run did not make: choose another --output_dir, or replace it "
                "with --overwrite"
            )
        if (has_model or newest is not None or self.best()[0] is not None) and not config.resume:
            state = "a finished run" if "weights" in earlier else "checkpoints of an earlier run"
            raise InputError(
                f"{self.folder} holds {state}: continue it with --resume, replace it with --overwrite, or choose "
                "another --output_dir"
            )
        if config.resume and (newest is not None or "weights" in earlier):
            self.identity.check(newest or self.folder)

    def _open_folder(self) -> None:
        """Remove what killed processes and a replaced run left, and note the start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        finish_save(self.folder)
        for folder in (self.folder, self.checkpoints):
            for path in folder.iterdir() if folder.is_dir() else ():
                if _TEMPORARY.fullmatch(path.name):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self.newest_checkpoint() is None and not self.finished_at or self.config.overwrite:
            for name in ("checkpoints", "pictures", TENSORBOARD_FOLDER, IDENTITY_FILE, RUN_FILE):
                path = self.folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self._run = _read(self.folder / RUN_FILE)
        self._run["commands"] = [*self._run.get("commands", []), self.command]
        write_json(self.folder / RUN_FILE, self._run)

    def _training_notes(self, notes: dict[str, Any]) -> dict[str, Any]:
        """training.json, which is published: local folders are left out of it."""
        recipe = {
            field.name: getattr(self.config, field.name)
            for field in dataclasses.fields(self.config)
            if getattr(self.config, field.name) != default_of(field) and field.name not in _NOT_THE_RECIPE
        }
        said = redact({"recipe": recipe, "command": "\n".join(self._run["commands"])})
        return {
            "name": self.folder.resolve().name,
            **notes,
            "recipe": said["recipe"],
            "command": "\n".join(dict.fromkeys(said["command"].splitlines())),
            "version": describe_version(),
        }

    def _machine(self) -> str:
        device, count = self.accelerator.device, self.accelerator.num_processes
        if device.type == "cuda":
            return f"{count} x {torch.cuda.get_device_name(device)}"
        return f"{counted(count, 'process')} of {counted(torch.get_num_threads(), 'thread')}, {platform.machine()} CPU"


# where a run is and where its model goes say nothing of how it was trained
_NOT_THE_RECIPE = {"cache_dir", *(field.name for field in dataclasses.fields(RunConfig))}


def describe_version() -> str:
    """The version of hfembed, and the commit where it runs from a clone."""
    here = Path(__file__).parents[1]
    if not (here.parent / ".git").exists():
        return f"hfembed {__version__}"
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return f"hfembed {__version__}" + (f", commit {git.stdout.strip()}" if git.returncode == 0 else "")


def _show(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    return repr(text) if text in ("", " ") else text


def _read(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}
