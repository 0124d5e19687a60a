"""A server on localhost that speaks the file protocol of the Hugging Face hub, and misbehaves."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class File:
    """One file of one revision."""

    content: bytes
    commit: str = "a" * 40
    large: bool = True  # stored by LFS and named by its SHA-256; small files by git's SHA-1
    sent: bytes | None = None  # what is really sent, if not the content
    break_at: int | None = None  # the next transfer breaks off after so many bytes
    stated: str = ""  # what is stated as hash, if not the content's

    @property
    def etag(self) -> str:
        """The hash that the hub states."""
        if self.stated:
            return self.stated
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Hub:
    """What the server has and what it was asked."""

    files: dict[tuple[str, str, str], File] = field(default_factory=dict)  # repo, revision, path
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # repo: status, error code
    down: set[tuple[str, str]] = field(default_factory=set)  # repo, path: answered by 503
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # + Range
    url: str = ""

    def put(self, repo: str, path: str, file: File) -> None:
        """Add a file to the main branch and under its commit."""
        self.files[repo, "main", path] = self.files[repo, file.commit, path] = file


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub on a free port of localhost."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            hub.requests.append(("HEAD", self.path, None))
            self.answer(body=False)

        def do_GET(self) -> None:
            hub.requests.append(("GET", self.path, self.headers.get("Range")))
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            if self.path.startswith("/storage/"):  # where large files are redirected to
                where = self.path.removeprefix("/storage/")
            else:
                where = self.path.removeprefix("/")
            repo, _, rest = where.partition("/resolve/")
            revision, _, path = rest.partition("/")
            if repo in hub.refused:
                return self.refuse(*hub.refused[repo])
            if (repo, path) in hub.down:
                return self.refuse(503, "ServiceUnavailable")
            known = {key[:2] for key in hub.files}
            if (repo, revision) not in known:
                some = any(key[0] == repo for key in hub.files)
                return self.refuse(404, "RevisionNotFound" if some else "RepoNotFound")
            file = hub.files.get((repo, revision, path))
            if file is None:
                return self.refuse(404, "EntryNotFound")
            if file.large and not self.path.startswith("/storage/"):
                self.send_response(302)
                storage = hub.url.replace("127.0.0.1", "localhost")  # another host, as in life
                self.send_header("Location", f"{storage}/storage/{where}")
                self.send_header("X-Linked-Etag", f'"{file.etag}"')
                self.send_header("X-Linked-Size", str(len(file.content)))
                self.send_header("X-Repo-Commit", file.commit)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            content = file.content if file.sent is None else file.sent
            start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.send_header("ETag", f'"{file.etag}"')
            self.send_header("X-Repo-Commit", file.commit)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if body and file.break_at:
                self.wfile.write(content[: file.break_at])
                self.close_connection, file.break_at = True, None
            elif body:
                self.wfile.write(content[start:])
            return None

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
