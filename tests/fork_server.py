"""Processes of their own for tests, without the seconds of importing torch and hfembed in each.

The standard library's fork server imports them once and forks one child per process, with its own memory, environment
and end, which can be killed.
"""

import multiprocessing
import os
import runpy
import socket
import sys
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

import datasets
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
# what the scripts import
PRELOADED = [
    "datasets",
    "timm",
    "hfembed.faces.training.train",
    "hfembed.images.training.train",
    "hfembed.faces.swap.train",
    "hfembed.words.training.train",
]


def fork_server() -> multiprocessing.context.BaseContext:
    """The context whose `Process` is forked from the server, which is started where it does not run yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with patch.dict(os.environ, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", PYTHONPATH=str(REPOSITORY)):
        forkserver.ensure_running()
    return context


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class ScriptRun:
    """A script of the repository that runs on the CPU, on one rank or on several as `accelerate launch` starts them.

    Args:
        script: The script's file.
        arguments: Its arguments.
        output: The file that takes what it prints, replaced.
        ranks: Processes.
        of_ranks: More arguments of each rank, which is then the only one of its machine, started as torchrun does:
            accelerate is not told that there is no GPU, where there is none.
    """

    def __init__(
        self,
        script: Path,
        arguments: list[str],
        output: Path,
        ranks: int = 1,
        of_ranks: list[list[str]] | None = None,
    ) -> None:
        self.output = output
        output.write_text("")
        is_told = not of_ranks or torch.accelerator.is_available()
        environment = {"ACCELERATE_USE_CPU": "true"} if is_told else {}
        if ranks > 1:
            environment |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.processes = []
        for rank in range(ranks):
            its_own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            if of_ranks:
                its_own |= {"LOCAL_RANK": "0", "GROUP_RANK": str(rank)}
            given = [str(argument) for argument in [*arguments, *(of_ranks[rank] if of_ranks else [])]]
            arguments_of_run = (str(script), given, environment | its_own, output)
            self.processes.append(fork_server().Process(target=_run, args=arguments_of_run))
            self.processes[-1].start()

    def is_running(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def kill(self) -> None:
        """Kill -9, all ranks."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def finish(self, seconds: float = 600) -> tuple[int, str]:
        """Wait for the end.

        Returns:
            The first exit code that is not 0, or 0, and what was printed.
        """
        for process in self.processes:
            process.join(seconds)
        self.kill()  # what is not over by now
        codes = [process.exitcode for process in self.processes]
        return next((code for code in codes if code), 0), self.output.read_text()


def _run(script: str, arguments: list[str], environment: dict[str, str], output: Path) -> None:
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    os.chdir(REPOSITORY)
    multiprocessing.set_start_method(None, force=True)  # as in a program of its own: its workers too would be served
    sys.argv = [script, *arguments]
    datasets.config.HF_DATASETS_CACHE = output.parent / "cache"  # what is cached stays in the test's folder
    runpy.run_path(script, run_name="__main__")
