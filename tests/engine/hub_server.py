"""A hub of one repository on this machine, speaking as much of the hub's protocol as a snapshot download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPO_ID = "someone/tiny"


@contextmanager
def serve(folder: Path, revision: str) -> Iterator[str]:
    """Serve a folder as `someone/tiny` at one revision, which is also its newest; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, format: str, *arguments: object) -> None:
            return None

        def _answer(self, *, with_body: bool) -> None:
            # A dataset's addresses are a model's with `datasets` in them.
            path = self.path.split("?")[0].replace("/api/datasets/", "/api/models/").removeprefix("/datasets")
            if path in (f"/api/models/{REPO_ID}", f"/api/models/{REPO_ID}/revision/{revision}"):
                self._send(json.dumps(_info(folder, revision)).encode(), {}, with_body)
            elif path == f"/api/models/{REPO_ID}/tree/{revision}":
                self._send(json.dumps(_tree(folder)).encode(), {}, with_body)
            elif path.startswith(f"/{REPO_ID}/resolve/{revision}/"):
                content = (folder / path.rsplit("/", 1)[-1]).read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                self._send(content, {"X-Repo-Commit": revision, "ETag": f'"{digest}"'}, with_body)
            else:
                self.send_error(404)

        def _send(self, content: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(200)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _info(folder: Path, revision: str) -> dict[str, object]:
    names = sorted(path.name for path in folder.iterdir())
    return {"id": REPO_ID, "modelId": REPO_ID, "sha": revision, "siblings": [{"rfilename": name} for name in names]}


def _tree(folder: Path) -> list[dict[str, object]]:
    files = sorted(folder.iterdir())
    return [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40} for path in files]
