"""A Hugging Face Hub in memory on the loopback interface, for tests of pushes and pulls without internet.

It answers what the unmodified clients (`huggingface_hub`, `transformers`, `datasets`, `evaluate`) ask for:

* account: `GET /api/whoami-v2`, `/api/agent-harnesses`
* upload: `POST /api/repos/create`, `/api/validate-yaml`, `/api/{type}s/{id}/preupload/{revision}`,
  `/{id}.git/info/lfs/objects/batch`, `PUT /lfs/{sha256}`, `POST /api/{type}s/{id}/commit/{revision}`
* look-up: `GET /api/{type}s/{id}[/revision/{revision}]`, `/api/{type}s/{id}/tree/{revision}[/{path}]`,
  `POST /api/{type}s/{id}/paths-info/{revision}`
* download: `GET` and `HEAD /{id}/resolve/{revision}/{path}`, with `Range`

Repos are public, have one branch (`main`) and keep all revisions. Writing needs the token. Not simulated: xet storage,
pull requests, other branches, tags, `.gitignore`, README metadata (all YAML is valid, repo info has no card data).
"""

import base64
import hashlib
import json
import re
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from os import PathLike
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

USER = "user"  # the owner of the token, and of repos created without a namespace
LFS_THRESHOLD = 10 * 2**20  # larger text files go to large file storage too; binary files always do

_REPO_API = r"/api/(?P<kind>model|dataset|space)s/(?P<repo_id>[^/]+/[^/]+)"
_REPO_PAGE = r"/((?P<kind>dataset|space)s/)?(?P<repo_id>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
_GROUP_DEFAULTS = {"kind": "model", "revision": "main", "path": ""}


class Commit(NamedTuple):
    number: int  # first, so that the commits of a repo sort by age
    id: str
    title: str
    date: str


class File:
    """One version of a file, with the commit that made it."""

    def __init__(self, data: bytes, commit: Commit) -> None:
        self.data = data
        self.commit = commit
        self.lfs: dict[str, Any] | None = None
        in_git = data
        if _is_lfs(data, len(data)):
            sha256 = hashlib.sha256(data).hexdigest()
            in_git = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
            # A tree calls the hash "oid", repo info calls it "sha256".
            self.lfs = {"oid": sha256, "sha256": sha256, "size": len(data), "pointerSize": len(in_git)}
        self.oid = hashlib.sha1(b"blob %d\0" % len(in_git) + in_git).hexdigest()
        self.etag = self.lfs["oid"] if self.lfs else self.oid


class Snapshot(NamedTuple):
    commit: Commit
    files: dict[str, File]

    def under(self, folder: str) -> dict[str, File]:
        return {path: file for path, file in self.files.items() if path.startswith(f"{folder}/")}

    def entry(self, path: str, expand: bool) -> dict[str, Any] | None:
        """A file or folder as in a tree, None if there is no such thing."""
        if file := self.files.get(path):
            entry = {"type": "file", "path": path, "size": len(file.data), "oid": file.oid}
            entry |= {"lfs": file.lfs} if file.lfs else {}
            commit = file.commit
        elif inside := self.under(path):
            content = "".join(f"{name} {file.oid}\n" for name, file in inside.items())
            entry = {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(content.encode()).hexdigest()}
            commit = max(file.commit for file in inside.values())
        else:
            return None
        return entry | ({"lastCommit": commit._asdict()} if expand else {})


class Reply(NamedTuple):
    body: Any  # what is not bytes is sent as JSON
    status: int = 200
    headers: dict[str, str] = {}


class HubError(Exception):
    """A refusal: the clients choose their exception by the status and the (ASCII) `X-Error-*` headers."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        headers |= {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply = Reply({"error": message}, status, headers)


_ROUTES: list[tuple[str, re.Pattern[str], bool, Callable[..., Any]]] = []


def _route(method: str, pattern: str, needs_token: bool = False) -> Callable[[Callable], Callable]:
    """Make a method of `HubServer` answer requests; it gets the request and the named groups of the pattern."""

    def register(answer: Callable) -> Callable:
        _ROUTES.append((method, re.compile(pattern), needs_token, answer))
        return answer

    return register


class HubServer:
    """The server, as a context manager. `requests` and `unhandled` hold lines such as `GET /api/whoami-v2`."""

    def __init__(self, token: str = "hf_test") -> None:
        self.token = token
        self.requests: list[str] = []
        self.unhandled: list[str] = []
        self._repos: dict[tuple[str, str], list[Snapshot]] = {}
        self._uploads: dict[str, bytes | None] = {}  # LFS objects by sha256; None: announced, not yet sent
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Connection, self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home: str | PathLike[str]) -> dict[str, str]:
        """Variables to lay over `os.environ` for a subprocess (the clients read them when they are imported)."""
        online = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "0")
        return online | {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets and evaluate count loads on another host
            "no_proxy": "127.0.0.1",
        }

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        with self._lock:
            return {path: file.data for path, file in self._snapshot(repo_type, repo_id, revision).files.items()}

    def add(self, repo_id: str, files: dict[str, bytes], repo_type: str = "model") -> str:
        """Commit files to a repo, which need not exist yet. Returns the new revision."""
        with self._lock:
            return self._commit(repo_type, repo_id, "add files", files)

    def answer(self, request: "_Connection") -> Reply:
        line = f"{request.command} {request.path}"
        with self._lock:
            self.requests.append(line)
            try:
                result = self._dispatch(request)
            except HubError as error:
                return error.reply
            except Exception as error:
                if not isinstance(error, NotImplementedError):
                    traceback.print_exc()
                self.unhandled.append(line)
                # The clients would take a 404 for an answer, and retry a 500.
                return Reply({"error": f"unhandled: {error!r}"}, 501)
        return result if isinstance(result, Reply) else Reply(result)

    def _dispatch(self, request: "_Connection") -> Any:
        path = urlsplit(request.path).path
        method = "GET" if request.command == "HEAD" else request.command
        if method == "POST" and request.query:
            raise NotImplementedError("options such as create_pr")  # to ignore one would be a wrong commit
        for route_method, pattern, needs_token, answer in _ROUTES:
            if route_method == method and (match := pattern.fullmatch(path)):
                if needs_token and request.headers["Authorization"] != f"Bearer {self.token}":
                    raise HubError(401, "Invalid credentials in Authorization header")
                groups = {name: unquote(value or _GROUP_DEFAULTS[name]) for name, value in match.groupdict().items()}
                return answer(self, request, **groups)
        raise NotImplementedError("no such route")

    def _history(self, kind: str, repo_id: str) -> list[Snapshot]:
        if (kind, repo_id) not in self._repos:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return self._repos[kind, repo_id]

    def _snapshot(self, kind: str, repo_id: str, revision: str) -> Snapshot:
        for snapshot in reversed(self._history(kind, repo_id)):
            if revision in ("main", snapshot.commit.id):
                return snapshot
        raise HubError(404, "Revision not found", "RevisionNotFound")

    def _commit(self, kind: str, repo_id: str, title: str, changes: dict[str, bytes | None]) -> str:
        """Add a revision, the first one makes the repo; a change to None is a deletion."""
        history = self._repos.setdefault((kind, repo_id), [])
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        commit = Commit(len(history), secrets.token_hex(20), title, date)
        files = history[-1].files if history else {}
        files = files | {path: File(data, commit) for path, data in changes.items() if data is not None}
        kept = {path: file for path, file in sorted(files.items()) if changes.get(path, b"") is not None}
        history.append(Snapshot(commit, kept))
        return commit.id

    def _page(self, kind: str, repo_id: str) -> str:
        return f"{self.url}/{repo_id}" if kind == "model" else f"{self.url}/{kind}s/{repo_id}"

    @_route("GET", "/api/whoami-v2", needs_token=True)
    def _whoami(self, request: "_Connection") -> dict[str, Any]:
        return {"type": "user", "name": USER, "fullname": USER, "orgs": []}

    @_route("GET", "/api/agent-harnesses")
    def _agent_harnesses(self, request: "_Connection") -> dict[str, Any]:
        """`huggingface_hub` asks once per home directory, for its user-agent header."""
        return {"standardEnvVars": [], "harnesses": {}}

    @_route("POST", "/api/repos/create", needs_token=True)
    def _create_repo(self, request: "_Connection") -> Reply:
        wanted = json.loads(request.body)
        kind, repo_id = wanted.get("type") or "model", f"{wanted.get('organization') or USER}/{wanted['name']}"
        exists = (kind, repo_id) in self._repos
        if not exists:
            self._commit(kind, repo_id, "initial commit", {})
        # With `exist_ok` the client reads the url of a 409.
        return Reply({"url": self._page(kind, repo_id), "name": repo_id}, 409 if exists else 200)

    @_route("POST", "/api/validate-yaml")
    def _validate_yaml(self, request: "_Connection") -> dict[str, Any]:
        return {"errors": [], "warnings": []}

    @_route("POST", rf"{_REPO_API}/preupload/{_REVISION}", needs_token=True)
    def _preupload(self, request: "_Connection", kind: str, repo_id: str, revision: str) -> dict[str, Any]:
        """Say how to send each file, and the hash of its present version: the client leaves out what is unchanged."""
        present = self._snapshot(kind, repo_id, revision).files
        answers = []
        for file in json.loads(request.body)["files"]:
            mode = "lfs" if _is_lfs(base64.b64decode(file["sample"]), file["size"]) else "regular"
            oid = present[file["path"]].etag if file["path"] in present else None
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    @_route("POST", rf"{_REPO_PAGE}\.git/info/lfs/objects/batch", needs_token=True)
    def _lfs_batch(self, request: "_Connection", kind: str, repo_id: str) -> dict[str, Any]:
        self._history(kind, repo_id)
        objects = json.loads(request.body)["objects"]
        for item in objects:
            if self._uploads.setdefault(item["oid"], None) is None:  # else it is here: no action
                item["actions"] = {"upload": {"href": f"{self.url}/lfs/{item['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    @_route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
    def _lfs_put(self, request: "_Connection", oid: str) -> dict[str, Any]:
        """The clients send no token here: as with a signed URL, to have been given it is the permission."""
        if oid not in self._uploads:
            raise HubError(403, "This upload was not announced")
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise HubError(400, "The content does not have the announced sha256")
        self._uploads[oid] = request.body
        return {}

    @_route("POST", rf"{_REPO_API}/commit/{_REVISION}", needs_token=True)
    def _commit_operations(self, request: "_Connection", kind: str, repo_id: str, revision: str) -> dict[str, Any]:
        parent = self._snapshot(kind, repo_id, revision)
        if revision != "main":
            raise HubError(400, "Commits go to a branch")
        title, changes = "", {}
        for operation in map(json.loads, request.body.splitlines()):
            value = operation["value"]
            match operation["key"]:
                case "header":
                    title = value["summary"]
                    if value.get("parentCommit", parent.commit.id) != parent.commit.id:
                        raise HubError(412, "A commit has happened since. Please refresh and try again.")
                case "file":
                    changes[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile" if self._uploads.get(value["oid"]) is not None:
                    changes[value["path"]] = self._uploads[value["oid"]]
                case "lfsFile":
                    raise HubError(400, "The content of an LFS file was not uploaded")
                case "deletedFile" if value["path"] in parent.files:
                    changes[value["path"]] = None
                case "deletedFolder" if inside := parent.under(value["path"].rstrip("/")):
                    changes |= dict.fromkeys(inside)
                case "deletedFile" | "deletedFolder":
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                case key:
                    raise NotImplementedError(key)
        commit_id = self._commit(kind, repo_id, title, changes)
        return {"commitOid": commit_id, "commitUrl": f"{self._page(kind, repo_id)}/commit/{commit_id}"}

    @_route("GET", rf"{_REPO_API}(/revision/{_REVISION})?")
    def _repo_info(self, request: "_Connection", kind: str, repo_id: str, revision: str) -> dict[str, Any]:
        commit, files = self._snapshot(kind, repo_id, revision)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in files]
        if "blobs" in request.query:
            for sibling, file in zip(siblings, files.values(), strict=True):
                sibling |= {"size": len(file.data), "blobId": file.oid, "lfs": file.lfs}
        info = {"id": repo_id, "author": repo_id.split("/")[0], "sha": commit.id, "siblings": siblings}
        dates = {"createdAt": self._history(kind, repo_id)[0].commit.date, "lastModified": commit.date}
        return info | dates | {"private": False, "gated": False, "disabled": False, "tags": []}

    @_route("GET", rf"{_REPO_API}/tree/{_REVISION}(/(?P<path>.+))?")
    def _tree(self, request: "_Connection", kind: str, repo_id: str, revision: str, path: str) -> list[Any]:
        snapshot = self._snapshot(kind, repo_id, revision)
        recursive, expand = (request.query.get(option) == ["true"] for option in ("recursive", "expand"))
        prefix = f"{path}/" if path else ""
        names = set()  # of files and folders below path
        for name in snapshot.files:
            if name.startswith(prefix):
                *folders, _ = name.removeprefix(prefix).split("/")
                names |= {name} | {prefix + "/".join(folders[: depth + 1]) for depth in range(len(folders))}
        if path and not names:
            raise _entry_not_found(snapshot)
        if not recursive:
            names = {name for name in names if "/" not in name.removeprefix(prefix)}
        return [snapshot.entry(name, expand) for name in sorted(names)]

    @_route("POST", rf"{_REPO_API}/paths-info/{_REVISION}")
    def _paths_info(self, request: "_Connection", kind: str, repo_id: str, revision: str) -> list[Any]:
        snapshot = self._snapshot(kind, repo_id, revision)
        form = parse_qs(request.body.decode())
        entries = (snapshot.entry(path, form.get("expand") == ["true"]) for path in form.get("paths", []))
        return [entry for entry in entries if entry]

    @_route("GET", rf"{_REPO_PAGE}/resolve/{_REVISION}/(?P<path>.+)")
    def _resolve(self, request: "_Connection", kind: str, repo_id: str, revision: str, path: str) -> Reply:
        snapshot = self._snapshot(kind, repo_id, revision)
        if path not in snapshot.files:
            raise _entry_not_found(snapshot)
        file = snapshot.files[path]
        size = len(file.data)
        headers = {"X-Repo-Commit": snapshot.commit.id, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(size)}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if not span:
            return Reply(file.data, 200, headers)
        start, last = int(span[1]), min(int(span[2] or size), size - 1)
        if start > last:
            raise HubError(416, "Range not satisfiable", **{"Content-Range": f"bytes */{size}"})
        return Reply(file.data[start : last + 1], 206, headers | {"Content-Range": f"bytes {start}-{last}/{size}"})


class _Connection(BaseHTTPRequestHandler):
    """HTTP for `HubServer.answer`."""

    protocol_version = "HTTP/1.1"  # the clients keep connections open
    disable_nagle_algorithm = True  # else a body may wait 40 ms for the acknowledgement of its headers

    def __init__(self, hub: HubServer, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)  # serves the connection before it returns

    def do_GET(self) -> None:
        self.query = parse_qs(urlsplit(self.path).query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        reply = self.hub.answer(self)
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr: there is `HubServer.requests`."""


def _is_lfs(start: bytes, size: int) -> bool:
    return b"\0" in start[:512] or size > LFS_THRESHOLD


def _entry_not_found(snapshot: Snapshot) -> HubError:
    # With the commit, because the clients remember that this revision has no such file.
    return HubError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": snapshot.commit.id})
