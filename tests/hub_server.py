"""A server on localhost that speaks the file protocol of the Hugging Face hub, and misbehaves.

It takes uploads, too, from whoever shows `TOKEN`: it checks a card's metadata by a few of the
hub's rules, makes repositories, says which files go by Git LFS, takes those, and commits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_test"
LICENSES = {"mit", "apache-2.0", "cc-by-4.0", "other"}
NEW = "d" * 40  # the commit that an upload makes


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
    repositories: set[str] = field(default_factory=set)  # made by uploads
    stored: dict[str, bytes] = field(default_factory=dict)  # by SHA-256, uploaded by LFS
    url: str = ""

    def put(self, repo: str, path: str, file: File) -> None:
        """Add a file to the main branch and under its commit."""
        self.files[repo, "main", path] = self.files[repo, file.commit, path] = file


def faults_of_card(text: str) -> list[str]:
    """Return what the hub would refuse in a card's metadata, by some of its documented rules."""
    _, block, _ = text.split("---\n", 2)
    data = yaml.safe_load(block)
    faults = []
    if data.get("license", "mit") not in LICENSES:
        faults.append(f'"license" must be one of {sorted(LICENSES)}')
    for model in data.get("model-index", []):
        if not isinstance(model.get("name"), str):
            faults.append('"model-index[0].name" must be a string')
        for result in model["results"]:
            names = [result["task"].get("type"), *map(result["dataset"].get, ("type", "name"))]
            if not all(isinstance(name, str) and name for name in names):
                faults.append('"model-index[0].results" lacks a task or a dataset')
            if not all({"type", "value"} <= metric.keys() for metric in result["metrics"]):
                faults.append('"model-index[0].results" has a metric without type and value')
    return faults


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

        def do_PUT(self) -> None:
            hub.requests.append(("PUT", self.path, None))
            content = self.rfile.read(int(self.headers["Content-Length"]))
            hub.stored[self.path.removeprefix("/lfs/")] = content
            self.reply({})

        def do_POST(self) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(("POST", path, None))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if path == "/api/validate-yaml":
                faults = faults_of_card(json.loads(body)["content"])
                errors = {"errors": [{"message": fault} for fault in faults], "warnings": []}
                return self.reply(errors, 400 if faults else 200)
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.refuse(401, "Unauthorized")
            if path == "/api/repos/create":
                asked = json.loads(body)
                repo = f"{asked['organization']}/{asked['name']}"
                known, where = repo in hub.repositories, {"url": f"{hub.url}/{repo}"}
                hub.repositories.add(repo)
                return self.reply(
                    where | {"error": "exists"} if known else where, 200 + 209 * known
                )
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = json.loads(body)["objects"]
                for one in objects:
                    if one["oid"] not in hub.stored:
                        one["actions"] = {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}
                return self.reply({"objects": objects, "transfer": "basic"})
            repo, _, action = path.removeprefix("/api/models/").partition("/preupload/")
            if action:
                files = [one | {"shouldIgnore": False} for one in json.loads(body)["files"]]
                for one in files:
                    large = one["path"].endswith(".safetensors")
                    one |= {"uploadMode": "lfs" if large else "regular", "oid": None}
                return self.reply({"files": files})
            repo, _, branch = path.removeprefix("/api/models/").partition("/commit/")
            if repo not in hub.repositories or branch != "main":
                return self.refuse(404, "RepoNotFound")
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "lfsFile":
                    hub.put(repo, value["path"], File(hub.stored[value["oid"]], NEW))
                elif line["key"] == "file":
                    content = base64.b64decode(value["content"])
                    hub.put(repo, value["path"], File(content, NEW, large=False))
            where = f"{hub.url}/{repo}/commit/{NEW}"
            return self.reply({"success": True, "commitUrl": where, "commitOid": NEW})

        def reply(self, facts: dict[str, Any], status: int = 200) -> None:
            content = json.dumps(facts).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

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
