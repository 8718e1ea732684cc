"""What the page's server does besides gradio: whom it answers, and how long uploads lie on the disk."""

import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hfembed.atomic import is_running

KEPT_SECONDS = 300  # how long an upload may lie on the disk, for a second look at it
_UNFINISHED_SECONDS = 30  # without a new byte, an upload was refused or given up
_SWEEP_SECONDS = 10
_PREFIX = "hfembed-demo-"
_MAX_BODY_BYTES = 1 << 20  # of requests that are not uploads: file names, words and numbers


class HostCheck:
    """Answers only requests that name the page's own address.

    A foreign website can point its own name at this machine (DNS rebinding); its scripts would then read the page with
    the browser's blessing, but their requests still name the website.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        space = os.environ.get("SPACE_HOST", "")
        self.names = {"localhost", "127.0.0.1", "::1", host.lower(), *filter(None, space.lower().split(","))}
        # whoever listens on all addresses is reached by any of them, and an address cannot be rebound
        self.is_open = host in ("0.0.0.0", "::", "")
        if self.is_open:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or self._is_own(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            refusal = PlainTextResponse("this page does not answer to the host name of the request\n", 421)
            await refusal(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        hosts = [value.decode("latin-1").strip().lower() for name, value in scope["headers"] if name == b"host"]
        found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:]+))(?::\d+)?", hosts[0]) if len(hosts) == 1 else None
        if found is None:
            return False
        name = found[1] or found[2].rstrip(".")
        return name in self.names or (self.is_open and _is_address(name))


class UploadsOnly:
    """Refuses requests that name a file that was not uploaded: gradio fetches a URL given instead of an upload."""

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self.app = app
        self.folder = os.path.realpath(folder)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS") or _is_upload(scope):
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > _MAX_BODY_BYTES:
                await PlainTextResponse("the request is too large\n", 413)(scope, receive, send)
                return
        try:
            if body.strip():
                json.loads(body, object_pairs_hook=self._check)
        except (ValueError, RecursionError) as error:
            reason = str(error) if isinstance(error, _NotUploadedError) else "the request is not valid JSON"
            await PlainTextResponse(f"{reason}\n", 400)(scope, receive, send)
            return
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        await self.app(scope, replay, send)

    def _check(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, value in pairs:
            if key == "path" and value is not None and not (isinstance(value, str) and self._is_upload_path(value)):
                raise _NotUploadedError("the request names a file that was not uploaded to this page")
            # browsers repeat the upload's own address
            if key == "url" and value is not None:
                own = unquote(urlsplit(value).path).partition("/gradio_api/file=")[2] if isinstance(value, str) else ""
                if not own or not self._is_upload_path(own):
                    raise _NotUploadedError("the request names a URL; upload the photo instead")
        return dict(pairs)

    def _is_upload_path(self, path: str) -> bool:
        return os.path.isabs(path) and os.path.realpath(path).startswith(self.folder + os.sep)


class _NotUploadedError(ValueError):
    pass


def _is_upload(scope: Scope) -> bool:
    return scope["path"].rstrip("/").endswith("/upload")


def _is_address(name: str) -> bool:
    with suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Yield a folder for uploads, whose files are deleted after minutes, and all when the block ends.

    Folders that killed servers of this user left are removed too.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        process = left.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and not is_running(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    ended = threading.Event()

    def sweep() -> None:
        while not ended.wait(_SWEEP_SECONDS):
            delete_old(folder)

    threading.Thread(target=sweep, daemon=True).start()
    try:
        yield folder
    finally:
        ended.set()
        shutil.rmtree(folder, ignore_errors=True)


def seconds_old(file: Path) -> float:
    """How long ago a file was last written or moved."""
    return time.time() - file.stat().st_ctime


def delete_old(folder: Path, age: Callable[[Path], float] = seconds_old) -> None:
    """Delete expired uploads, and incomplete ones in the top folder."""
    for path in folder.rglob("*"):
        kept = _UNFINISHED_SECONDS if path.parent == folder else KEPT_SECONDS
        with suppress(OSError):
            if path.is_file() and age(path) > kept:
                path.unlink()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make SIGTERM and a closed terminal end the program in order, as Ctrl-C does, so that nothing is left behind."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
