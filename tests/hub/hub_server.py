"""A Hub on the loopback address, for the tests: repositories in memory behind the HTTP protocol of the real one.

It has the routes that our pushes and downloads use (large files by LFS), and fails on demand (`Hub.faults`).
"""

import base64
import hashlib
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

LARGE = (".safetensors", ".bin", ".pt", ".pth", ".parquet", ".arrow", ".tgz", ".png", ".jpg", ".gif", ".onnx")
LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "bsd-3-clause", "unknown")
PIPELINE_TAGS = (
    "feature-extraction", "image-feature-extraction", "image-classification", "image-to-image", "object-detection",
    "sentence-similarity", "mask-generation", "zero-shot-image-classification",
)  # fmt: skip


@dataclass(frozen=True)
class User:
    """Who a token belongs to, and what it may do."""

    name: str
    may_write: bool = True
    organizations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blob:
    """A file's content; `large` ones go by the sha256 of their bytes, the others by git's sha1."""

    data: bytes
    large: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_oid(self) -> str:
        data = self.data
        if self.large:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
            data = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git_oid


@dataclass(frozen=True)
class Commit:
    id: str
    title: str
    author: str
    date: str
    parent: str | None
    files: dict[str, Blob]


@dataclass
class Repository:
    kind: str  # models, datasets, spaces
    id: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)  # who may read though it is private or gated
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob], title: str, author: str) -> Commit:
        parent = self.branches.get(branch)
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        # clients cache by commit id: never the same one twice
        identity = f"{parent} {title} {time.time_ns()} {secrets.token_hex(4)}"
        commit = Commit(hashlib.sha1(identity.encode()).hexdigest(), title, author, date, parent, files)
        self.commits[commit.id] = commit
        self.branches[branch] = commit.id
        return commit

    def find(self, revision: str) -> Commit | None:
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        commit_id = self.branches.get(name) or self.tags.get(name)
        if commit_id is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            commit_id = next((id for id in self.commits if id.startswith(revision)), None)
        return self.commits.get(commit_id)

    def history(self, commit: Commit | None) -> list[Commit]:
        commits = []
        while commit is not None:
            commits.append(commit)
            commit = self.commits.get(commit.parent)
        return commits


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that fit.

    Attributes:
        path: Regular expression, searched in "METHOD /path".
        kind: "status": answered with `status`; "cut": the connection breaks half-way, in the request's body where it
            has one, else in the answer's; "slow": answered after `seconds`; "corrupt": one byte of the answer differs;
            "short": the answer's second half is missing and its length says so; "call": `call` is run first.
        times: How often.
        status: With "status".
        retry_after: With "status": seconds the client is told to wait.
        seconds: With "slow".
        call: With "call".
    """

    path: str
    kind: Literal["status", "cut", "slow", "corrupt", "short", "call"]
    times: int = 1
    status: int = 500
    retry_after: int | None = None
    seconds: float = 0.0
    call: Callable[[], None] | None = None


class Answer(Exception):
    """Raised by a route to end the request."""

    def __init__(self, status: int, content: Any = None, headers: dict[str, str] | None = None):
        super().__init__(status)
        self.status = status
        self.body = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        self.headers = {"Content-Type": "application/json", **(headers or {})}


def refusal(status: int, code: str | None, message: str) -> Answer:
    headers = {"X-Error-Message": message}
    if code:
        headers["X-Error-Code"] = code
    return Answer(status, {"error": message}, headers)


class Hub:
    """The server. Use it as a context manager; `url` is what `HF_ENDPOINT` should be.

    Attributes:
        users: Token -> whose it is.
        repositories: (kind, id) -> repository.
        faults: What goes wrong next.
        requests: "METHOD /path" of all requests so far.
    """

    def __init__(self):
        self.users: dict[str, User] = {}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()

    def create(self, id: str, kind: str = "models", private: bool = False) -> Repository:
        repository = Repository(kind, id, private)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE)
        repository.commit("main", {".gitattributes": Blob(attributes.encode())}, "initial commit", id.split("/")[0])
        self.repositories[kind, id] = repository
        return repository

    def files(self, id: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """Path -> content, without .gitattributes."""
        commit = self.repositories[kind, id].find(revision)
        return {path: blob.data for path, blob in commit.files.items() if path != ".gitattributes"}

    def titles(self, id: str, revision: str = "main", kind: str = "models") -> list[str]:
        """The commits' titles, newest first."""
        repository = self.repositories[kind, id]
        return [commit.title for commit in repository.history(repository.find(revision))]

    def take_fault(self, request: str) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.path, request):
                    fault.times -= 1
                    return fault
        return None


def check_card(content: str, kind: str) -> list[str]:
    """What is wrong with a card's YAML block."""
    match = re.match(r"^\s*---\r?\n(.*?)\r?\n---\s*(\n|$)", content, re.DOTALL)
    if match is None:
        return []
    try:
        data = yaml.safe_load(match.group(1)) or {}
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    if not isinstance(data, dict):
        return ["the YAML block must be a mapping"]
    errors = []
    for name in ("tags", "datasets", "metrics", "language", "base_model"):
        values = data.get(name) or []
        if not all(isinstance(value, str) for value in (values if isinstance(values, list) else [values])):
            errors.append(f'"{name}" must be a string or a list of strings')
    license = data.get("license")
    if license == "other":
        if "license_name" not in data:
            errors.append('"license_name" is required when "license" is "other"')
        elif not re.fullmatch(r"[a-z0-9-.]+", data["license_name"]):
            errors.append('"license_name" must match [a-z0-9-.]+')
    elif license is not None and license not in LICENSES:
        errors.append(f'"license" must be one of {", ".join(LICENSES)} or other')
    if kind == "model" and data.get("pipeline_tag", PIPELINE_TAGS[0]) not in PIPELINE_TAGS:
        errors.append(f'"pipeline_tag" must be one of {", ".join(PIPELINE_TAGS)}')
    for repository in data.get("datasets") or []:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(repository)):
            errors.append(f'"datasets": {repository!r} is no repository\'s id')
    index = data.get("model-index", [])
    for number, model in enumerate(index if isinstance(index, list) else [{}]):
        where = f'"model-index[{number}]'
        if not isinstance(model.get("name"), str):
            errors.append(f'{where}.name" is required')
        for result in model.get("results", []):
            if not isinstance(result.get("task", {}).get("type"), str):
                errors.append(f'{where}.results[].task.type" is required')
            for name in ("type", "name"):
                if not isinstance(result.get("dataset", {}).get(name), str):
                    errors.append(f'{where}.results[].dataset.{name}" is required')
            if not result.get("metrics"):
                errors.append(f'{where}.results[].metrics" is required')
            for metric in result.get("metrics", []):
                if not isinstance(metric.get("type"), str) or "value" not in metric:
                    errors.append(f'{where}.results[].metrics[].type and .value" are required')
    return errors


def card_data(files: dict[str, Blob]) -> dict[str, Any]:
    if "README.md" not in files:
        return {}
    match = re.match(r"^\s*---\r?\n(.*?)\r?\n---", files["README.md"].data.decode(), re.DOTALL)
    return (yaml.safe_load(match.group(1)) or {}) if match else {}


_REPOSITORY = r"/api/(models|datasets|spaces)/([^/]+/[^/]+)"
_WEB = r"/(?:(datasets|spaces)/)?((?!api/|_)[^/]+/[^/]+)"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    # ------------------------------------------------------------------ a request

    def answer(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        fault = self.hub.take_fault(f"{self.command} {self.path}")
        if fault and fault.kind == "call" and fault.call:
            fault.call()
        if fault and fault.kind == "slow":
            time.sleep(fault.seconds)
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.kind == "cut" and length:
            self.rfile.read(length // 2)
            self.hang_up()
            return
        self.body = (
            self.read_chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        )
        if fault and fault.kind == "status":
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            answer = Answer(fault.status, {"error": "made to fail"}, headers)
        else:
            answer = self.route(url.path)
        if fault and fault.kind == "corrupt":
            # in the second half: a safetensors file's header stays whole
            place = len(answer.body) * 3 // 4
            answer.body = answer.body[:place] + bytes([answer.body[place] ^ 1]) + answer.body[place + 1 :]
        self.send(answer, fault.kind if fault else None)

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, answer: Answer, fault: str | None) -> None:
        body = answer.body
        if fault == "short":
            body = body[: len(body) // 2]
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.hang_up()
            return
        self.wfile.write(body)

    def hang_up(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def route(self, path: str) -> Answer:
        for methods, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split():
                groups = [None if group is None else unquote(group) for group in match.groups()]
                with self.hub.lock:
                    try:
                        getattr(self, name)(*groups)
                    except Answer as answer:
                        return answer
        return refusal(404, None, f"no such route: {self.command} {path}")

    # ------------------------------------------------------------------ who may do what

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    def user(self) -> User | None:
        header = self.headers.get("Authorization")
        if not header:
            return None
        user = self.hub.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise refusal(401, None, "Invalid credentials in Authorization header")
        return user

    def repository(self, kind: str, id: str) -> Repository:
        user = self.user()
        found = self.hub.repositories.get((kind, id))
        if found is None or (found.private and not self.is_reader(user, found)):
            raise refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        return found

    def is_reader(self, user: User | None, repository: Repository) -> bool:
        owner = repository.id.split("/")[0]
        return user is not None and (user.name in {owner, *repository.readers} or owner in user.organizations)

    def writable(self, kind: str, id: str) -> Repository:
        found = self.repository(kind, id)
        self.check_right(id.split("/")[0])
        return found

    def check_right(self, namespace: str) -> User:
        user = self.user()
        if user is None:
            raise refusal(401, None, "Invalid username or password.")
        if not user.may_write or namespace not in {user.name, *user.organizations}:
            raise refusal(403, None, f"You don't have the rights to write to the namespace {namespace}")
        return user

    def revision(self, repository: Repository, revision: str) -> Commit:
        commit = repository.find(revision)
        if commit is None:
            raise refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def check_gate(self, repository: Repository) -> None:
        user = self.user()
        if repository.gated and not self.is_reader(user, repository):
            message = f"Access to {repository.kind[:-1]} {repository.id} is restricted. You must have access to it."
            raise refusal(403 if user else 401, "GatedRepo", message)

    # ------------------------------------------------------------------ accounts and repositories

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise refusal(401, None, "Invalid username or password.")
        role = "write" if user.may_write else "read"
        token = {"role": role, "displayName": "test"}
        organizations = [{"name": name} for name in user.organizations]
        account = {"type": "user", "name": user.name, "fullname": user.name, "orgs": organizations}
        raise Answer(200, {**account, "auth": {"type": "access_token", "accessToken": token}})

    def create_repository(self) -> None:
        user = self.user()
        namespace = self.json.get("organization") or (user.name if user else "")
        self.check_right(namespace)
        id, kind = f"{namespace}/{self.json['name']}", f"{self.json.get('type', 'model')}s"
        web = id if kind == "models" else f"{kind}/{id}"
        if (kind, id) in self.hub.repositories:
            raise Answer(409, {"error": "You already created this repo", "url": f"{self.hub.url}/{web}"})
        self.hub.create(id, kind, self.json.get("visibility") == "private")
        raise Answer(200, {"url": f"{self.hub.url}/{web}", "name": id})

    def validate_yaml(self) -> None:
        errors = check_card(self.json["content"], self.json.get("repoType", "model"))
        raise Answer(400 if errors else 200, {"errors": [{"message": error} for error in errors], "warnings": []})

    def show_repository(self, kind: str, id: str, revision: str | None = None) -> None:
        repository = self.repository(kind, id)
        commit = self.revision(repository, revision or "main")
        raise Answer(200, self.info(repository, commit, "blobs" in self.query))

    def info(self, repository: Repository, commit: Commit, blobs: bool = False) -> dict[str, Any]:
        siblings = []
        for path, blob in sorted(commit.files.items()):
            entry: dict[str, Any] = {"rfilename": path}
            if blobs:
                entry |= {"size": len(blob.data), "blobId": blob.git_oid}
                if blob.large:
                    entry["lfs"] = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": 130}
            siblings.append(entry)
        card = card_data(commit.files)
        info = {
            "_id": hashlib.sha1(repository.id.encode()).hexdigest()[:24],
            "id": repository.id,
            "author": repository.id.split("/")[0],
            "sha": commit.id,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "tags": list(card.get("tags") or []),
            "cardData": card,
            "siblings": siblings,
            "lastModified": commit.date,
            "createdAt": repository.history(commit)[-1].date,
            "downloads": 0,
            "likes": 0,
        }
        if repository.kind == "models":
            info["modelId"] = repository.id
            info |= {name: card[name] for name in ("library_name", "pipeline_tag", "model-index") if name in card}
        return info

    # ------------------------------------------------------------------ trees and references

    def entries(self, commit: Commit, folder: str = "", recursive: bool = True) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(commit.files.items()):
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                parent = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(f"{commit.id} {parent}".encode()).hexdigest()
                if recursive or depth == 1:
                    entries.setdefault(parent, {"type": "directory", "path": parent, "oid": oid, "size": 0})
            if recursive or len(parts) == 1:
                entries[path] = self.entry(path, blob)
        return list(entries.values())

    def entry(self, path: str, blob: Blob) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "oid": blob.git_oid, "size": len(blob.data)}
        if blob.large:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 130}
        return entry

    def tree(self, kind: str, id: str, revision: str, folder: str | None = None) -> None:
        commit = self.revision(self.repository(kind, id), revision)
        recursive = self.query.get("recursive", "false").lower() in ("true", "1")
        entries = self.entries(commit, folder or "", recursive)
        if folder and not entries:
            raise refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        raise Answer(200, entries)

    def paths_info(self, kind: str, id: str, revision: str) -> None:
        commit = self.revision(self.repository(kind, id), revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            wanted = self.json["paths"]
        else:
            wanted = parse_qs(self.body.decode()).get("paths", [])
        known = {entry["path"]: entry for entry in self.entries(commit)}
        raise Answer(200, [known[path] for path in wanted if path in known])

    def references(self, kind: str, id: str) -> None:
        repository = self.repository(kind, id)
        branches, tags = (
            [{"name": name, "ref": f"refs/{ref}/{name}", "targetCommit": commit} for name, commit in known.items()]
            for ref, known in (("heads", repository.branches), ("tags", repository.tags))
        )
        raise Answer(200, {"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def branch(self, kind: str, id: str, name: str) -> None:
        repository = self.writable(kind, id)
        if name in repository.branches:
            raise refusal(409, None, f"Reference already exists: {name}")
        start = self.revision(repository, self.json.get("startingPoint", "main"))
        repository.branches[name] = start.id
        raise Answer(200, {})

    def tag(self, kind: str, id: str, revision: str) -> None:
        repository = self.writable(kind, id)
        if self.json["tag"] in repository.tags:
            raise refusal(409, None, f"Tag reference exists already: {self.json['tag']}")
        repository.tags[self.json["tag"]] = self.revision(repository, revision).id
        raise Answer(200, {})

    # ------------------------------------------------------------------ upload

    def preupload(self, kind: str, id: str, revision: str) -> None:
        commit = self.revision(self.writable(kind, id), revision)
        files = []
        for file in self.json["files"]:
            large = file["path"].endswith(LARGE) or file["size"] > 10 << 20
            entry = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if file["path"] in commit.files:
                present = commit.files[file["path"]]
                entry["oid"] = present.sha256 if large else present.git_oid
            files.append(entry)
        raise Answer(200, {"files": files})

    def commit(self, kind: str, id: str, branch: str) -> None:
        repository = self.writable(kind, id)
        if branch not in repository.branches:
            raise refusal(404, "RevisionNotFound", f"no branch {branch}")
        head = self.revision(repository, branch)
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        parent = header.get("parentCommit")
        if parent is not None and not head.id.startswith(parent):
            raise refusal(412, None, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                files[value["path"]] = Blob(self.large_file(value["oid"], value.get("size")), large=True)
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise refusal(404, "EntryNotFound", f"{value['path']} does not exist")
            elif line["key"] == "deletedFolder":
                files = {path: blob for path, blob in files.items() if not path.startswith(value["path"].rstrip("/"))}
        new = repository.commit(branch, files, header["summary"], self.user().name)
        web = id if kind == "models" else f"{kind}/{id}"
        raise Answer(200, {"success": True, "commitOid": new.id, "commitUrl": f"{self.hub.url}/{web}/commit/{new.id}"})

    def large_file(self, sha256: str, size: int | None) -> bytes:
        if sha256 not in self.hub.large_files:
            raise refusal(400, None, f"the bytes of {sha256} have not been uploaded")
        if size is not None and len(self.hub.large_files[sha256]) != size:
            raise refusal(400, None, f"{sha256} has another size")
        return self.hub.large_files[sha256]

    def lfs_batch(self, kind: str | None, id: str) -> None:
        self.writable(kind or "models", id)
        objects = []
        for file in self.json["objects"]:
            entry = {"oid": file["oid"], "size": file["size"]}
            if file["oid"] not in self.hub.large_files:
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.url}/_lfs/{file['oid']}"},
                    "verify": {"href": f"{self.hub.url}/_lfs/{file['oid']}/verify"},
                }
            objects.append(entry)
        raise Answer(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise refusal(400, None, "the bytes do not have this sha256")
        self.hub.large_files[oid] = self.body
        raise Answer(200)

    def lfs_verify(self, oid: str) -> None:
        raise Answer(200 if len(self.hub.large_files.get(oid, b"")) == self.json["size"] else 404)

    # ------------------------------------------------------------------ download

    def resolve(self, kind: str | None, id: str, revision: str, path: str) -> None:
        kind = kind or "models"
        repository = self.repository(kind, id)
        commit = self.revision(repository, revision)
        self.check_gate(repository)
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            message = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            raise Answer(404, {"error": "Entry not found"}, headers | message)
        blob = commit.files[path]
        name = quote(path.split("/")[-1])
        headers["Content-Disposition"] = f"inline; filename*=UTF-8''{name}; filename=\"{name}\";"
        headers |= {
            "ETag": f'"{blob.etag}"',
            "Content-Type": "application/octet-stream",
            "Last-Modified": formatdate(),
        }
        if blob.large:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
        raise self.ranged(blob.data, headers)

    def ranged(self, data: bytes, headers: dict[str, str]) -> Answer:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            answer = Answer(200, data, headers)
        else:
            first, last = asked.groups()
            start = int(first) if first else max(len(data) - int(last), 0)
            stop = min(int(last) + 1, len(data)) if first and last else len(data)
            if start >= len(data):
                raise Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            answer = Answer(
                206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            )
        if self.command == "HEAD":
            answer.headers["Content-Length"] = str(len(answer.body))
        return answer


_ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create_repository"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("GET", _REPOSITORY, "show_repository"),
    ("GET", _REPOSITORY + r"/revision/([^/]+)", "show_repository"),
    ("GET", _REPOSITORY + r"/tree/([^/]+)(?:/(.+))?", "tree"),
    ("POST", _REPOSITORY + r"/paths-info/([^/]+)", "paths_info"),
    ("GET", _REPOSITORY + r"/refs", "references"),
    ("POST", _REPOSITORY + r"/branch/([^/]+)", "branch"),
    ("POST", _REPOSITORY + r"/tag/([^/]+)", "tag"),
    ("POST", _REPOSITORY + r"/preupload/([^/]+)", "preupload"),
    ("POST", _REPOSITORY + r"/commit/([^/]+)", "commit"),
    ("POST", _WEB + r"\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/_lfs/([0-9a-f]{64})", "lfs_upload"),
    ("POST", r"/_lfs/([0-9a-f]{64})/verify", "lfs_verify"),
    ("GET HEAD", _WEB + r"/resolve/([^/]+)/(.+)", "resolve"),
]
