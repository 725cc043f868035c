"""A server on loopback that speaks as much of the Hugging Face Hub's API as loading and sharing need."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_of_the_tests"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Hub(ThreadingHTTPServer):
    """Repositories, each a list of commits (id and files, the last one is main); tags; uploads; a log of requests.

    `status` is answered instead of anything else, if it is set. A file called `endless` never ends, whatever is said of
    its size.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: dict[str, bool] = {}
        self.tags: dict[str, str] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.status: int | None = None
        self.endless = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        commits = self.repositories.setdefault(repository, [])
        kept = commits[-1][1] if commits else {}
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits.append((commit, {**kept, **files}))
        return commit

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories[repository]
        wanted = self.tags.get(revision, revision)
        return commits[-1] if revision == "main" else next((c for c in commits if c[0] == wanted), None)


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.handle_any()

    do_GET = do_POST = do_PUT = do_HEAD

    def handle_any(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if hub.status is not None:
            self.answer(hub.status)
        elif self.command in ("POST", "PUT") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            # The address of an upload is signed: it carries no token.
            self.upload(path, body) if path.startswith("/lfs/") else self.answer(401, {"error": "Invalid token"})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.validate(json.loads(body)["content"])
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [{**o, "actions": {"upload": {"href": f"{hub.address}/lfs/{o['oid']}"}}} for o in objects]
            self.answer(200, {"transfer": "basic", "objects": actions})
        elif path.startswith("/lfs/"):
            self.upload(path, body)
        else:
            self.of_repository([part for part in path.split("/") if part], body)

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{self.server.address}/{name}"}
        if name in self.server.repositories:
            self.answer(409, url)
            return
        # The one word of clients before 2.0, and the other.
        self.server.private[name] = wanted.get("private", False) or wanted.get("visibility") == "private"
        self.server.commit(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.answer(200, url)

    def validate(self, content: str) -> None:
        import yaml

        front = yaml.safe_load(content.split("---\n")[1])
        known = front.get("license", "mit") in ("mit", "bsd-3-clause", "cc-by-4.0", "other")
        errors = [] if known else [{"message": f'"license" must be one of [...], not {front["license"]}'}]
        self.answer(200 if known else 400, {"errors": errors, "warnings": []})

    def upload(self, path: str, body: bytes) -> None:
        name = path.removeprefix("/lfs/")
        known = sha256(body) == name
        if known:
            self.server.uploads[name] = body
        self.answer(200 if known else 400)

    def of_repository(self, parts: list[str], body: bytes) -> None:
        """/api/models/ORGANIZATION/NAME/KIND/REVISION, or /ORGANIZATION/NAME/resolve/REVISION/FILE."""
        hub = self.server
        is_api = parts[:2] == ["api", "models"]
        organization, name, kind, revision, *rest = [*(parts[2:] if is_api else parts), "revision", "main"]
        repository = f"{organization}/{name}"
        if repository not in hub.repositories:
            self.answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return
        found = hub.find(repository, revision)
        if found is None:
            self.answer(404, {"error": f"Invalid rev id: {revision}"}, X_Error_Code="RevisionNotFound")
            return
        commit, files = found
        if kind == "resolve":
            content = files.get(rest[0])
            headers = {"X_Repo_Commit": commit, "ETag": f'"{git_oid(content or b"")}"'}
            if content is None:
                self.answer(404, X_Error_Code="EntryNotFound", **headers)
            elif self.command == "GET" and rest[0] == hub.endless:
                self.stream_without_end()
            else:
                self.answer(200, content, **headers)
        elif kind == "revision":
            siblings = [{"rfilename": file} for file in files]
            self.answer(200, {"id": repository, "modelId": repository, "sha": commit, "siblings": siblings, "tags": []})
        elif kind == "preupload":
            wanted = [file["path"] for file in json.loads(body)["files"]]
            modes = [
                {
                    "path": file,
                    "uploadMode": mode,
                    "shouldIgnore": False,
                    "oid": oid(files[file]) if file in files else None,
                }
                for file in wanted
                for mode, oid in [("lfs", sha256) if file.endswith(".safetensors") else ("regular", git_oid)]
            ]
            self.answer(200, {"files": modes})
        elif kind == "commit":
            self.take(repository, [json.loads(line) for line in body.splitlines()])

    def stream_without_end(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        piece = bytes(1 << 20)
        with suppress(ConnectionError):
            while True:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.close_connection = True

    def take(self, repository: str, lines: list[dict[str, Any]]) -> None:
        hub, changed = self.server, {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changed[value["path"]] = hub.uploads[value["oid"]]
        commit = hub.commit(repository, changed)
        url = f"{hub.address}/{repository}/commit/{commit}"
        self.answer(200, {"success": True, "commitUrl": url, "commitOid": commit})

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def shared(hub: Hub, folders: dict[str, Any]) -> str:
    """The default model of the tests as ``lab/model`` on the Hub; its commit."""
    return hub.commit("lab/model", {path.name: path.read_bytes() for path in folders["default"].iterdir()})


# Evaluates each argument, and says what came of it: its type, and its name or message.
SCRIPT = """
import json, os, shutil, sys
from pathlib import Path
from sagefm.checkpoint._hub import push_to_hub
from sagefm.checkpoint._resolve import resolve_model
from sagefm.errors import SagefmError

def embed(section, model):
    import anndata, sagefm
    adata = anndata.read_h5ad(section)
    sagefm.tl.embed(adata, model)
    adata.write_h5ad(section)
    return adata.uns["sagefm"]["X_sagefm"]["model"]

def pretrained(*args, **kwargs):
    from sagefm.model import SAGEFM
    return SAGEFM.from_pretrained(*args, **kwargs).to_checkpoint()

outcomes = []
for call in sys.argv[1:]:
    try:
        result = eval(call)
    except SagefmError as error:
        result = error
    outcomes.append([type(result).__name__, getattr(result, "name", None) or str(result)])
sys.stdout.write(json.dumps(outcomes))
"""


@pytest.fixture
def at_hub(hub: Hub, tmp_path: Path) -> Callable[..., list[list[str]]]:
    """Return a function that makes calls in a new process, to which the server is the Hub."""

    def run(*calls: str, silent: bool = True, **environment: str) -> list[list[str]]:
        settings = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": TOKEN,
            # The server speaks the protocol of large files that came before.
            "HF_HUB_DISABLE_XET": "1",
        }
        ignored = [
            "ignore::SyntaxWarning",  # as in pyproject.toml, like the next
            "ignore:The 'future.infer_string' option is deprecated:DeprecationWarning",
            "ignore:Use 'content=:DeprecationWarning",  # huggingface_hub on uploading a large file
        ]
        done = subprocess.run(
            [sys.executable, *(f"-W{action}" for action in ("error", *ignored)), "-c", SCRIPT, *calls],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            env={**os.environ, **settings, **environment},
        )
        assert done.returncode == 0, done.stderr
        # A push shows a bar even off a terminal.
        assert not silent or not done.stderr
        return json.loads(done.stdout)

    return run
