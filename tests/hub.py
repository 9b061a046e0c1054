"""A hub in miniature: serves folders of models over HTTP the way huggingface.co does, so that tests need no network.

with serve({"someone/tiny": folder}) as endpoint: ...   # set HF_ENDPOINT to it before huggingface_hub is imported
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40
GATED = "someone/gated"
TOKEN = "hf_token-of-the-tests"
uploaded: dict[str, bytes] = {}
"""What was committed, by path."""


@contextmanager
def serve(models: Mapping[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """(endpoint, the paths asked for so far). `GATED` answers as a gated model; others than `models` as missing."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_POST(self) -> None:
            """Uploads: create, preupload and commit, as the hub's commit API takes small files."""
            path = unquote(urlsplit(self.path).path)
            asked.append(f"POST {path}")
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.refuse(401, "Unauthorized")
            elif path == "/api/repos/create":
                self.send(json.dumps({"url": f"http://{self.headers['Host']}/me/edited"}).encode(), "application/json")
            elif "/preupload/" in path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(data)["files"]
                ]
                self.send(json.dumps({"files": files}).encode(), "application/json")
            elif path == "/api/validate-yaml":
                self.send(json.dumps({"errors": [], "warnings": []}).encode(), "application/json")
            else:
                for line in (json.loads(line) for line in data.splitlines()):
                    if line["key"] == "file":
                        uploaded[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                answer = {
                    "success": True,
                    "commitOid": COMMIT,
                    "commitUrl": f"http://{self.headers['Host']}/me/edited/commit/{COMMIT}",
                    "hookOutput": "",
                }
                self.send(json.dumps(answer).encode(), "application/json")

        def answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(f"{self.command} {path}")
            name = "/".join(path.removeprefix("/api/models").split("/")[1:3])
            rest = path.removeprefix("/api/models").split("/")[3:]
            if name == GATED:
                self.refuse(403, "GatedRepo")
            elif name not in models:
                self.refuse(404, "RepoNotFound")
            elif len(rest) > 1 and rest[1] not in ("main", COMMIT):
                self.refuse(404, "RevisionNotFound")
            elif path.startswith("/api/models/"):
                self.describe(models[name], name, rest)
            else:
                self.give(models[name] / "/".join(rest[2:]), body=body)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def describe(self, folder: Path, name: str, rest: list[str]) -> None:
            files = [str(f.relative_to(folder)) for f in sorted(folder.rglob("*")) if f.is_file()]
            if rest[:1] == ["tree"]:
                entries = [(f, (folder / f).read_bytes()) for f in files]
                made: object = [
                    {"type": "file", "path": f, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for f, data in entries
                ]
            else:
                made = {"id": name, "modelId": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
            self.send(json.dumps(made).encode(), "application/json")

        def give(self, file: Path, *, body: bool) -> None:
            if not file.is_file():
                self.refuse(404, "EntryNotFound")
                return
            data = file.read_bytes()
            self.send(data, "application/octet-stream", hashlib.sha1(data).hexdigest(), body=body)

        def send(self, data: bytes, kind: str, etag: str | None = None, *, body: bool = True) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0] or 0)
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if etag:
                self.send_header("ETag", f'"{etag}"')
                self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data[start:])

        def log_message(self, *args: object) -> None:
            """Nothing: the paths are in `asked`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
