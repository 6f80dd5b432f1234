"""A registry for tests: the OCI distribution API's blobs, uploads and tags, on a port of this machine."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

__all__ = ["Registry", "registry"]

_BLOB = re.compile(r"^/v2/(?P<name>.+)/blobs/(?P<digest>sha256:[0-9a-f]{64})$")
_UPLOAD = re.compile(r"^/v2/(?P<name>.+)/blobs/uploads/(?P<id>\d*)$")
_MANIFEST = re.compile(r"^/v2/(?P<name>.+)/manifests/(?P<tag>[^/]+)$")


class Registry:
    """What a registry holds: blobs by digest, manifests by tag."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    @property
    def _held(self) -> Registry:
        held: Registry = self.server.held  # type: ignore[attr-defined]
        return held

    def _answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        blob, manifest = _BLOB.match(path), _MANIFEST.match(path)
        if blob and blob["digest"] in self._held.blobs:
            self._answer(200, self._held.blobs[blob["digest"]])
        elif manifest and manifest["tag"] in self._held.manifests:
            kind = "application/vnd.oci.image.manifest.v1+json"
            self._answer(200, self._held.manifests[manifest["tag"]], Content_Type=kind)
        else:
            self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}')

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._body()
        found = _UPLOAD.match(urlsplit(self.path).path)
        if found is None:
            self._answer(404)
        else:
            self._answer(202, Location=f"/v2/{found['name']}/blobs/uploads/1")

    def do_PUT(self) -> None:
        address, data = urlsplit(self.path), self._body()
        manifest = _MANIFEST.match(address.path)
        if manifest:
            self._held.manifests[manifest["tag"]] = data
            self._answer(201, Location=self.path)
            return
        digest = parse_qs(address.query).get("digest", [""])[0]
        if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
            self._answer(400)
            return
        self._held.blobs[digest] = data
        self._answer(201, Location=self.path)


@contextlib.contextmanager
def registry() -> Iterator[Registry]:
    """A registry on a free port of the loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    held = Registry(f"127.0.0.1:{server.server_address[1]}")
    server.held = held  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
