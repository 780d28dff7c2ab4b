"""A hub of one's own: a server on this machine that answers what huggingface_hub asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "f" * 40


@dataclass
class Hub:
    """Repositories by name, each with its files by name; `revisions`: what names a commit.

    Attributes:
        gated: repositories that ask for access; private: those that are not told of.
        asked: the paths that were asked for; down: whether nothing works.
    """

    models: dict[str, Mapping[str, bytes]]
    datasets: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    down: bool = False
    address: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer on a free port of this machine as long as this lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        form: Mapping[str, list[str]] = {}

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_POST(self) -> None:
            self.form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self._answer(body=True)

        def _send(self, code: int, content: bytes, headers: Mapping[str, str], body: bool) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _refuse(self, code: int, kind: str, body: bool) -> None:
            self._send(code, b"{}", {"X-Error-Code": kind, "X-Error-Message": kind}, body)

        def _answer(self, body: bool) -> None:
            path = unquote(self.path.partition("?")[0])
            hub.asked.append(path)
            if hub.down:
                return self._refuse(503, "Down", body)
            below = path.removeprefix("/api").strip("/").removeprefix("models/")
            parts = below.removeprefix("datasets/").split("/")
            repo, rest = "/".join(parts[:2]), parts[2:]
            files = (hub.datasets if below.startswith("datasets/") else hub.models).get(repo)
            if files is None:
                return self._refuse(401, "RepoNotFound", body)
            if repo in hub.gated and not path.startswith("/api"):
                return self._refuse(403, "GatedRepo", body)
            commit = hub.revisions.get(rest[1] if len(rest) > 1 else "main")
            if commit is None:
                return self._refuse(404, "RevisionNotFound", body)
            if path.startswith("/api") and rest[:1] in (["tree"], ["paths-info"]):
                names = self.form["paths"] if rest[0] == "paths-info" else _listed(files, "/".join(rest[2:]))
                found = [_entry(files, name) for name in names if name in files or _listed(files, name)]
                return self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"}, body)
            if path.startswith("/api"):
                listed = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
                text = json.dumps({"id": repo, "modelId": repo, "sha": commit, "siblings": listed})
                return self._send(200, text.encode(), {"Content-Type": "application/json"}, body)
            content = files.get("/".join(rest[2:]))
            if content is None:
                return self._refuse(404, "EntryNotFound", body)
            digest = hashlib.sha256(content).hexdigest()
            return self._send(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": commit}, body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _listed(files: Mapping[str, bytes], folder: str) -> list[str]:
    """What lies in a folder, its folders too."""
    inside = [Path(name).relative_to(folder or ".") for name in files if Path(name).is_relative_to(folder or ".")]
    return sorted({str(Path(folder) / name.parts[0]) for name in inside if name.parts})


def _entry(files: Mapping[str, bytes], name: str) -> dict[str, object]:
    oid = hashlib.sha1(name.encode()).hexdigest()
    if name in files:
        return {"type": "file", "oid": oid, "size": len(files[name]), "path": name}
    return {"type": "directory", "oid": oid, "size": 0, "path": name}


def cached(cache: Path, repo: str, files: Mapping[str, bytes], commit: str = COMMIT, *, kind: str = "models") -> Path:
    """The cache as huggingface_hub lays it out, with one commit of a repository; its folder of that commit."""
    root = cache / f"{kind}--{repo.replace('/', '--')}"
    folder = root / "snapshots" / commit
    for name, content in files.items():
        blob, link = root / "blobs" / hashlib.sha256(content).hexdigest(), folder / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(blob)
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    return folder
