"""A Hub on loopback that keeps what it is sent: enough of its HTTP interface for the real huggingface_hub clients.

::

    with hub_server() as hub:
        hub.add_repo("tester/whisper-tiny", folder)             # served as a Hub model
        subprocess.run(command, env={**os.environ, **hub.environment()})
        hub.files("tester/my-model")["config.json"]             # bytes that a client pushed

Speaks: whoami, repo creation, branches, preupload, git-LFS batch and upload, commits and pull requests of members,
model, dataset and Space info, trees, paths, refs, file resolution with HEAD, GET, redirects and ranges. Does not speak Xet:
clients must run with `HF_HUB_DISABLE_XET=1`, which `environment()` sets. A request it does not know answers 404 and is
listed in `unknown`. `fail()` lets requests end badly.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

TOKEN = "hf_tokenOfTheTests"
USER = "tester"
ORGANIZATION = "tester-org"
LFS_SUFFIXES = (".onnx", ".onnx_data", ".safetensors", ".bin", ".parquet", ".wav", ".mp3", ".flac", ".ogg", ".zip")
LOST = -1
LFS_SIZE = 10 * 2**20
DATE = "2024-01-01T00:00:00.000Z"
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<type>model|dataset|space)s/{REPO}"
FOLDER = r"(?P<folder>datasets/|spaces/)?"


@dataclass(frozen=True)
class Blob:
    """One stored content. `path` is where its bytes lie on disk."""

    path: Path
    size: int
    sha256: str
    git_sha1: str
    lfs: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_sha1

    def entry(self, name: str) -> dict[str, Any]:
        """The file as the tree endpoint lists it."""
        entry: dict[str, Any] = {"type": "file", "path": name, "size": self.size, "oid": self.git_sha1}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 130}
        return entry


@dataclass(frozen=True)
class Commit:
    """One commit: its message, and every file of the repo at that point."""

    sha: str
    message: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repo: commits by sha, heads of branches, and the order in which the commits came."""

    type: str
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, message: str, files: dict[str, Blob]) -> Commit:
        seed = f"{self.id}\n{branch}\n{len(self.commits)}\n{message}".encode()
        commit = Commit(hashlib.sha1(seed).hexdigest(), message, files)
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]


class HubError(Exception):
    """An answer with an error status, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Hub:
    """What the server holds, and what a test may ask of it."""

    def __init__(self, store: Path) -> None:
        self.endpoint = ""
        self.storage = ""  # another origin, as on the Hub: clients treat its redirects differently
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, Path] = {}  # by sha256: what LFS uploads delivered, plus everything served
        self.private_owners: set[str] = set()  # whose new repos are private unless they are asked to be public
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.faults: list[tuple[str, int | None]] = []
        self.store = store
        self.lock = threading.RLock()

    # --- for tests

    def environment(self, token: str | None = TOKEN) -> dict[str, str]:
        """Variables under which a new process talks to this Hub and to nothing else."""
        variables = {"HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        variables |= {"HF_DATASETS_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
        variables |= {"HF_HOME": str(self.store / "hf_home"), "NO_PROXY": "127.0.0.1"}
        return variables | ({"HF_TOKEN": token} if token else {})

    def patch(self, monkeypatch: pytest.MonkeyPatch, token: str | None = TOKEN) -> None:
        """Point the huggingface_hub that this process has imported to this Hub."""
        from huggingface_hub import constants, file_download
        from huggingface_hub.utils import _http

        home = self.store / "hf_home"
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN", raising=False)
        if hasattr(_http, "reset_sessions"):  # before huggingface_hub 1.0
            monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            _http.reset_sessions()  # they remember that they were offline

    def fail(self, request: str, *outcomes: int | None) -> None:
        """Let the next requests that match the pattern, as 'PUT .*', end so: with a status; None: without an answer; LOST:
        done, but without an answer."""
        self.faults += [(request, outcome) for outcome in outcomes]

    def add_repo(self, repo_id: str, folder: Path, repo_type: str = "model", branch: str = "main") -> Commit:
        """Serve the files of `folder` as a repo; they are read where they lie."""
        files = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            files[name] = self.make_blob(path, is_lfs(name, path.stat().st_size))
        return self.create(repo_type, repo_id, private=False).commit(branch, "served", files)

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        return self.repos[repo_type, repo_id]

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        """Content of every file of the repo, by path."""
        commit = self.repo(repo_id, repo_type).at(revision)
        return {name: blob.path.read_bytes() for name, blob in commit.files.items()}

    # --- for the handler

    def create(self, repo_type: str, repo_id: str, private: bool) -> Repo:
        if (repo_type, repo_id) in self.repos:
            raise HubError(409, "You already created this model repo")
        repo = self.repos[repo_type, repo_id] = Repo(repo_type, repo_id, private)
        attributes = self.store / f"gitattributes-{len(self.repos)}"
        attributes.write_text("".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES))
        repo.commit("main", "initial commit", {".gitattributes": self.make_blob(attributes, lfs=False)})
        return repo

    def make_blob(self, path: Path, lfs: bool) -> Blob:
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        self.blobs[sha256] = path
        tracked = content
        if lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n"
            tracked = pointer.encode()
        git_sha1 = hashlib.sha1(b"blob %d\0" % len(tracked) + tracked).hexdigest()
        return Blob(path, len(content), sha256, git_sha1, lfs)

    def keep(self, content: bytes) -> Path:
        path = self.store / "blobs" / hashlib.sha256(content).hexdigest()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path


def is_lfs(name: str, size: int) -> bool:
    return name.endswith(LFS_SUFFIXES) or size > LFS_SIZE


def front_matter(card: str) -> Any:
    """What stands above a card's text; None where nothing does."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


class Handler(BaseHTTPRequestHandler):
    """Routes: (method, pattern) -> method of this class, with the pattern's groups, unquoted, as arguments."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    routes: ClassVar[list[tuple[str, str, str]]] = [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("GET", r"/api/agent-harnesses", "not_offered"),
        ("POST", r"/api/repos/create", "create_repo"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("GET", rf"{API}(/revision/(?P<revision>[^/]+))?", "info"),
        ("GET", rf"{API}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", "tree"),
        ("POST", rf"{API}/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("GET", rf"{API}/refs", "refs"),
        ("POST", rf"{API}/branch/(?P<branch>[^/]+)", "create_branch"),
        ("POST", rf"{API}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", rf"{API}/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", rf"/{FOLDER}{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/(?P<sha256>[0-9a-f]{64})", "upload"),
        ("GET", r"/(?P<sha256>[0-9a-f]{64})", "download"),
        ("GET", rf"/{FOLDER}{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", "resolve"),
    ]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.dispatch("GET")

    def do_HEAD(self) -> None:
        self.dispatch("GET")

    def do_POST(self) -> None:
        self.dispatch("POST")

    def do_PUT(self) -> None:
        self.dispatch("PUT")

    def dispatch(self, method: str) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.body = self.read_body()
        self.mute = False
        self.hub.requests.append(f"{self.command} {self.path}")
        for fault in self.hub.faults:
            if re.fullmatch(fault[0], self.hub.requests[-1]):
                self.hub.faults.remove(fault)
                if fault[1] is None:
                    self.close_connection = True
                elif fault[1] == LOST:
                    self.mute = True
                    break
                else:
                    self.answer({"error": "not now"}, fault[1])
                return
        try:
            for route_method, pattern, name in self.routes:
                match = re.fullmatch(pattern, parts.path)
                if match and route_method == method:
                    arguments = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    with self.hub.lock:
                        getattr(self, name)(**arguments)
                    return
            self.hub.unknown.append(f"{self.command} {self.path}")
            raise HubError(404, f"no such route: {self.command} {parts.path}")
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self.answer({"error": str(error)}, error.status, headers)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self.mute:
            self.close_connection = True
            return
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        kind = "application/octet-stream" if isinstance(value, bytes) else "application/json; charset=utf-8"
        self.send_response(status)
        for key, text in ({"Content-Type": kind, "Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # --- who asks

    def user(self) -> str | None:
        header = self.headers.get("Authorization")
        if header is not None and header != f"Bearer {TOKEN}":
            raise HubError(401, "Invalid credentials in Authorization header")
        return USER if header else None

    def writer(self, namespace: str) -> None:
        if self.user() is None:
            raise HubError(401, "Invalid username or password.")
        if namespace not in (USER, ORGANIZATION):
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{namespace}".')

    def find(self, repo: str, type: str) -> Repo:
        found = self.hub.repos.get((type, repo))
        if found is None or (found.private and self.user() is None):
            raise HubError(404 if self.user() else 401, "Repository not found", "RepoNotFound")
        return found

    # --- account and repos

    def not_offered(self) -> None:
        raise HubError(404, "known, but of no use here")

    def whoami(self) -> None:
        if self.user() is None:
            raise HubError(401, "Invalid username or password.")
        organization = {"type": "org", "name": ORGANIZATION, "fullname": ORGANIZATION, "roleInOrg": "write"}
        token = {"displayName": "tests", "role": "write"}
        self.answer(
            {"type": "user", "id": "1", "name": USER, "fullname": USER, "isPro": False, "orgs": [organization],
             "auth": {"type": "access_token", "accessToken": token}}
        )  # fmt: skip

    def create_repo(self) -> None:
        asked = json.loads(self.body)
        namespace = asked.get("organization") or USER
        self.writer(namespace)
        default = "private" if namespace in self.hub.private_owners or asked.get("private") else "public"
        private = asked.get("visibility", "public" if asked.get("private") is False else default) == "private"
        repo_id, repo_type = f"{namespace}/{asked['name']}", asked.get("type") or "model"
        url = f"{self.hub.endpoint}/{'' if repo_type == 'model' else f'{repo_type}s/'}{repo_id}"
        if (repo_type, repo_id) in self.hub.repos:
            self.answer({"error": "You already created this model repo", "url": url}, 409)
            return
        self.hub.create(repo_type, repo_id, private)
        self.answer({"url": url, "name": repo_id, "id": "1"})

    def validate_yaml(self) -> None:
        data = front_matter(json.loads(self.body)["content"])
        errors = [] if isinstance(data, dict) else [{"message": "the metadata block is not a mapping"}]
        for key in ("license", "pipeline_tag", "library_name"):
            if isinstance(data, dict) and not isinstance(data.get(key, ""), str):
                errors.append({"message": f'"{key}" must be a string'})
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, repo: str, type: str, revision: str = "main") -> None:
        found = self.find(repo, type)
        commit = found.at(revision)
        files = commit.files.items()
        siblings = [{"rfilename": name, "size": blob.size, "blobId": blob.git_sha1} for name, blob in files]
        card = commit.files.get("README.md")
        data = front_matter(card.path.read_text(encoding="utf8")) if card is not None else None
        self.answer(
            ({"cardData": data} if data else {})
            | ({"sdk": (data or {}).get("sdk", "static")} if type == "space" else {})
            | {"_id": "1", "id": repo, "modelId": repo, "author": repo.split("/")[0], "sha": commit.sha, "tags": [],
             "private": found.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0,
             "createdAt": DATE, "lastModified": DATE, "siblings": siblings}
        )  # fmt: skip

    def refs(self, repo: str, type: str) -> None:
        branches = self.find(repo, type).branches.items()
        heads = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches]
        self.answer({"branches": heads, "tags": [], "converts": []})

    def create_branch(self, repo: str, type: str, branch: str) -> None:
        self.writer(repo.split("/")[0])
        found = self.find(repo, type)
        if branch in found.branches:
            raise HubError(409, f"Reference already exists: {branch}")
        start = (json.loads(self.body) if self.body else {}).get("startingPoint", "main")
        found.branches[branch] = found.at(start).sha
        self.answer({})

    # --- reading

    def tree(self, repo: str, type: str, revision: str, folder: str = "") -> None:
        files = self.find(repo, type).at(revision).files
        prefix = f"{folder}/" if folder else ""
        inside = {name: blob for name, blob in files.items() if name.startswith(prefix)}
        if folder and not inside:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: list[dict[str, Any]] = []
        seen: set[str] = set()
        for name, blob in sorted(inside.items()):
            parents = name[len(prefix) :].split("/")[:-1]
            for depth in range(1, len(parents) + 1) if recursive else range(1, min(len(parents), 1) + 1):
                path = prefix + "/".join(parents[:depth])
                if path not in seen:
                    seen.add(path)
                    entries.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
            if recursive or not parents:
                entries.append(blob.entry(name))
        self.answer(entries)

    def paths_info(self, repo: str, type: str, revision: str) -> None:
        files = self.find(repo, type).at(revision).files
        kind = self.headers.get("Content-Type", "")
        asked = json.loads(self.body)["paths"] if "json" in kind else parse_qs(self.body.decode())["paths"]
        asked = [asked] if isinstance(asked, str) else asked
        entries = [files[name].entry(name) for name in asked if name in files]
        folders = [name for name in asked if any(path.startswith(f"{name}/") for path in files)]
        self.answer(entries + [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in folders])

    def resolve(self, repo: str, revision: str, name: str, folder: str = "models/") -> None:
        commit = self.find(repo, folder[:-2]).at(revision)
        if name not in commit.files:
            message = f"{name} does not exist on {revision}"
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": message, "X-Repo-Commit": commit.sha}
            self.answer({"error": message}, 404, headers)
            return
        blob = commit.files[name]
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
            headers["Location"] = f"{self.hub.storage}/{blob.sha256}"
            self.answer(b"", 302, headers)
            return
        self.send_content(blob.path.read_bytes(), headers)

    def download(self, sha256: str) -> None:
        if sha256 not in self.hub.blobs:
            raise HubError(404, "Object not found")
        self.send_content(self.hub.blobs[sha256].read_bytes(), {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})

    def send_content(self, content: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked or not content:
            self.answer(content, 200, headers)
            return
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.answer(content[start : end + 1], 206, headers)

    # --- writing

    def preupload(self, repo: str, type: str, revision: str) -> None:
        self.writer(repo.split("/")[0])
        present = self.find(repo, type).at(revision).files
        answers = []
        for asked in json.loads(self.body)["files"]:
            name, size = asked["path"], asked["size"]
            mode = "lfs" if is_lfs(name, size) else "regular"
            answer = {"path": name, "uploadMode": mode, "shouldIgnore": False}
            answers.append(answer | ({"oid": present[name].etag} if name in present else {}))
        self.answer({"files": answers})

    def lfs_batch(self, repo: str, folder: str = "models/") -> None:
        self.writer(repo.split("/")[0])
        self.find(repo, folder[:-2])
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.blobs:
                answer["actions"] = {"upload": {"href": f"{self.hub.storage}/{asked['oid']}"}}
            objects.append(answer)
        self.answer({"transfer": "basic", "objects": objects})

    def upload(self, sha256: str) -> None:
        found = hashlib.sha256(self.body).hexdigest()
        if found != sha256:
            raise HubError(400, f"the content has sha256 {found}")
        self.hub.blobs[sha256] = self.hub.keep(self.body)
        self.answer({})

    def commit(self, repo: str, type: str, revision: str) -> None:
        self.writer(repo.split("/")[0])
        found = self.find(repo, type)
        if revision not in found.branches:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = dict(found.at(revision).files)
        message = ""
        for line in self.body.splitlines():
            key, value = (operation := json.loads(line))["key"], operation["value"]
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit", found.branches[revision]) != found.branches[revision]:
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = self.hub.make_blob(self.hub.keep(base64.b64decode(value["content"])), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise HubError(400, f"LFS object of {value['path']} was never uploaded")
                files[value["path"]] = self.hub.make_blob(self.hub.blobs[value["oid"]], lfs=True)
            elif key == "deletedFile":
                del files[value["path"]]
            elif key == "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                files = {name: blob for name, blob in files.items() if not name.startswith(folder)}
            else:
                raise HubError(400, f"unknown operation {key}")
        answer: dict[str, Any] = {"success": True, "hookOutput": ""}
        if self.query.get("create_pr") == ["1"]:
            number = 1 + sum(branch.startswith("refs/pr/") for branch in found.branches)
            revision = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{self.hub.endpoint}/{repo}/discussions/{number}"
        sha = found.commit(revision, message, files).sha
        self.answer({**answer, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{sha}"})


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A running Hub on a free port of 127.0.0.1; what it was sent is gone when the context ends."""
    store = Path(tempfile.mkdtemp(prefix="hub-server-"))
    hub = Hub(store)
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.endpoint, hub.storage = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads):
            server.shutdown()
            server.server_close()
            thread.join()
        shutil.rmtree(store)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A fresh Hub for one test."""
    with hub_server() as running:
        yield running
