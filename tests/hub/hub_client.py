"""Users of the tests' Hub: functions run in processes of their own, with their own HF_HOME and endpoint.

The libraries read HF_ENDPOINT and HF_HOME when they are imported, and importing them takes seconds. So one process
imports them once and forks a child a call.
"""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


class ClientError(Exception):
    """What the function raised: `kind` is the exception's name."""

    def __init__(self, kind: str, message: str, output: str):
        super().__init__(f"{kind}: {message}")
        self.kind, self.message, self.output = kind, message, output


class HubClient:
    """Runs functions as a user of the Hub at `endpoint`.

    Args:
        endpoint: What HF_ENDPOINT is.
        folder: For HF_HOME and what passes between the processes.
        token: Whose calls these are, unless a call says another.
        has_hfembed: Whether hfembed can be imported there.
    """

    def __init__(self, endpoint: str, folder: Path, token: str, has_hfembed: bool = True):
        self.folder, self.token = folder, token
        self.home = folder / "home"
        self.output = ""
        self.number = 0
        self.started = threading.Event()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))},
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hub.hub_client", *(["hfembed"] if has_hfembed else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=REPOSITORY,
        )

    def __call__(self, function: Callable, *, token: str | None = None, offline: bool = False, **arguments):
        """Run the function's source, which must import what it needs, and return what it returns, as JSON has it.

        Args:
            function: A plain function.
            token: "" for a user who is not logged in.
            offline: As with HF_HUB_OFFLINE=1.
            **arguments: The function's, as JSON has them.

        Raises:
            ClientError: The function raised something.
        """
        self.start(function, token=token, offline=offline, **arguments)
        return self.finish()

    def start(self, function: Callable, *, token: str | None = None, offline: bool = False, **arguments):
        """As a call, without waiting for the end."""
        self.number += 1
        self.result = self.folder / f"result_{self.number}.json"
        call = {
            "source": textwrap.dedent(inspect.getsource(function)),
            "name": function.__name__,
            "arguments": {name: str(v) if isinstance(v, Path) else v for name, v in arguments.items()},
            "token": self.token if token is None else token,
            "offline": offline,
            "result": str(self.result),
            "output": str(self.result.with_suffix(".txt")),
        }
        self.started.clear()
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        self.child = int(self.process.stdout.readline())
        self.started.set()

    def kill(self) -> None:
        """Kill what runs, as a power cut does; from any thread."""
        self.started.wait()
        os.kill(self.child, signal.SIGKILL)

    def finish(self) -> Any:
        """Wait for the end of what was started."""
        status = int(self.process.stdout.readline())
        self.output = self.result.with_suffix(".txt").read_text()
        if not self.result.exists():
            raise ClientError("Killed", f"wait status {status}", self.output)
        result = json.loads(self.result.read_text())
        if "error" in result:
            raise ClientError(result["error"], result["message"], self.output)
        return result["value"]

    def forget(self) -> None:
        """Empty the cache of downloaded files."""
        shutil.rmtree(self.home / "hub", ignore_errors=True)
        shutil.rmtree(self.home / "modules", ignore_errors=True)
        shutil.rmtree(self.home / "datasets", ignore_errors=True)

    def close(self) -> None:
        # nothing is lost: between calls the process only waits
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def _serve() -> None:
    # what the calls use, imported before the forks
    import huggingface_hub.constants  # noqa: F401
    import torch
    from transformers import AutoModel  # noqa: F401

    if "hfembed" in sys.argv:
        import datasets  # noqa: F401

        import hfembed.checkpoint.loading  # noqa: F401
        import hfembed.checkpoint.push  # noqa: F401
    else:
        sys.modules["hfembed"] = None  # as where it is not installed

    torch.set_num_threads(1)
    for line in sys.stdin:
        call = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(call)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)


def _run(call: dict[str, Any]) -> None:
    from huggingface_hub import constants

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    output = os.open(call["output"], os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ["HF_TOKEN"] = call["token"]
    # read when they are used
    constants.HF_HUB_OFFLINE = call["offline"]
    try:
        namespace: dict[str, Any] = {}
        exec(compile(call["source"], call["name"], "exec"), namespace)  # noqa: S102
        result = {"value": namespace[call["name"]](**call["arguments"])}
    except (Exception, SystemExit) as error:
        import traceback

        traceback.print_exc()
        result = {"error": type(error).__name__, "message": str(error)}
    temporary = call["result"] + ".part"
    Path(temporary).write_text(json.dumps(result))
    os.replace(temporary, call["result"])
    sys.stdout.flush()
    sys.stderr.flush()
    threading.excepthook = lambda arguments: None
    os._exit(0)


if __name__ == "__main__":
    _serve()
