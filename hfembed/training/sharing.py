"""A run's models on the Hub: beside the training, never in its way."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import get_token

from hfembed.checkpoint.card import write_card
from hfembed.checkpoint.files import TRAINING_FILE
from hfembed.checkpoint.push import push_folder
from hfembed.errors import first_line
from hfembed.training.config import CHECKPOINT_BRANCH, RunConfig


class HubSharing:
    """The pushes of a run. Nothing that the Hub does stops the training; what failed is said, with what to do later.

    Models on the way are pushed by a process of its own, one at a time, from a copy in a hidden folder of the run.

    Args:
        config: Where to, and how often.
        output_dir: The run's folder.
        say: Prints a line.
    """

    def __init__(self, config: RunConfig, output_dir: str | Path, say: Callable[[str], None] = print):
        self.config, self.output_dir, self.say = config, Path(output_dir), say
        self.process: subprocess.Popen | None = None
        self.folder = self.output_dir
        if config.push_to_hub and not get_token():
            say(f"no token for the Hub: log in with `hf auth login` meanwhile, or later {self._command(output_dir)}")

    def push_step(self, step: int, save: Callable[[Path], None]) -> None:
        """Start pushing the current model; skipped if the previous push is still running.

        Args:
            step: How far the training is.
            save: Writes model and what belongs to it into a folder.
        """
        if self.process is not None and self.process.poll() is None:
            self.say(f"step {step} is not pushed: the push of {self.folder.name} is still under way")
            return
        self._finish_step()
        folder = self.output_dir / ".hub" / f"step_{step:08d}"
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            save(folder)
            notes = {"name": self.output_dir.name, "data": f"A run that is not finished, after {step:,} steps."}
            (folder / TRAINING_FILE).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
            write_card(folder)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            self.say(f"step {step} is not pushed: {error}")
            return
        self.folder = folder
        with (folder.parent / f"{folder.name}.log").open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "hfembed.cli",
                    *self._arguments(folder, CHECKPOINT_BRANCH),
                    "--message",
                    f"Step {step}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def push_result(self) -> bool:
        """Push the run's folder, once model, notes and card are in it.

        Returns:
            Whether it is there now, or need not be.
        """
        if not self.config.push_to_hub:
            return True
        self._finish_step()
        try:
            pushed = push_folder(self.output_dir, self.config.push_to_hub, private=self.config.hub_private or None)
        except Exception as error:  # whatever the Hub's libraries raise: the model is trained, and kept
            reason = first_line(error)
            self.say(
                f"not pushed ({reason}); the model is in {self.output_dir}, later {self._command(self.output_dir)}"
            )
            return False
        self.say(f"the model is on the Hub: {pushed.url}")
        return True

    def _finish_step(self) -> None:
        """Wait for the push on the way, if any, and say what became of it."""
        if self.process is None:
            return
        failed = self.process.wait() != 0
        self.process = None
        log = self.folder.parent / f"{self.folder.name}.log"
        if failed:
            lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("error: ")]
            reason = lines[-1].removeprefix("error: ") if lines else f"see {log}"
            self.say(
                f"{self.folder.name} was not pushed ({reason}); later {self._command(self.folder, CHECKPOINT_BRANCH)}"
            )
        else:
            shutil.rmtree(self.folder)
            log.unlink()

    def _arguments(self, folder: str | Path, revision: str | None = None) -> list[str]:
        branch = ["--revision", revision] if revision else []
        private = ["--private"] if self.config.hub_private else []
        return ["push", str(folder), self.config.push_to_hub, *branch, *private]

    def _command(self, folder: str | Path, revision: str | None = None) -> str:
        return f"`{shlex.join(['hfembed', *self._arguments(folder, revision)])}`"
