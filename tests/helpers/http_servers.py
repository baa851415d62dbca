"""A real HTTP server on this machine, with the faults of the real ones."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Faults:
    """What goes wrong; may be changed while the server runs."""

    break_after: int | None = None  # bytes of a body, then the connection is closed
    statuses: list[int] = field(default_factory=list)  # answered first, one per request
    always_status: int | None = None
    ignore_range: bool = False
    etag: str | None = ""  # "" is a strong one made from the content; None sends none
    etags: list[str] = field(default_factory=list)  # one per request, before `etag`
    content_range: str | None = None  # sent instead of the true one
    extra_length: int = 0  # added to the true Content-Length
    no_length: bool = False
    html_page: bool = False
    raw: bytes | None = None  # sent instead of an answer, a line at a time, before the connection is closed
    encoding: str | None = None  # the body is sent as it is under this Content-Encoding
    delay: float = 0.0  # seconds before every block of 64 KiB


@dataclass
class Request:
    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0


class FaultyServer:
    """`files` is a folder, or a dict of path (no leading slash) to bytes, which may be changed while it runs."""

    def __init__(self, files: Mapping[str, bytes] | str | Path, faults: Faults):
        self.files, self.faults = files, faults
        self.requests: list[Request] = []
        self.most_connections = 0
        self._connections = 0
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with owner._counted(), contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    owner._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def content(self, path: str) -> bytes | None:
        if isinstance(self.files, Mapping):
            return self.files.get(path)
        root = Path(self.files).resolve()
        file = (root / path).resolve()
        return file.read_bytes() if root in file.parents and file.is_file() else None

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._connections += 1
            self.most_connections = max(self.most_connections, self._connections)
        try:
            yield
        finally:
            with self._lock:
                self._connections -= 1

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        faults, headers = self.faults, handler.headers
        request = Request(unquote(urlsplit(handler.path).path).lstrip("/"), headers["Range"], headers["If-Range"])
        with self._lock:
            self.requests.append(request)
            forced = faults.statuses.pop(0) if faults.statuses else faults.always_status
            etag = faults.etags.pop(0) if faults.etags else faults.etag
        if faults.raw is not None:
            for line in faults.raw.splitlines(keepends=True):
                time.sleep(faults.delay)
                handler.wfile.write(line)
            handler.close_connection = True
            return
        body = self.content(request.path)
        extra, start = {}, 0
        if forced or body is None:
            status, body = forced or 404, b"refused"
        elif faults.html_page:
            status, body = 200, b"<html>Please log in</html>"
            extra["Content-Type"] = "text/html"
        else:
            etag = f'"{hashlib.md5(body).hexdigest()}"' if etag == "" else etag
            if etag:
                extra["ETag"] = etag
            if faults.encoding:
                extra["Content-Encoding"] = faults.encoding
            status, start = self._range(request, etag, len(body))
            if status == 206:
                extra["Content-Range"] = faults.content_range or f"bytes {start}-{len(body) - 1}/{len(body)}"
            elif status == 416:
                extra["Content-Range"], body = f"bytes */{len(body)}", b""
        request.status = status
        rest = body[start:]
        handler.send_response(status)
        for name, value in extra.items():
            handler.send_header(name, value)
        if not faults.no_length:
            handler.send_header("Content-Length", str(len(rest) + faults.extra_length))
        handler.end_headers()
        rest = rest if faults.break_after is None else rest[: faults.break_after]
        for position in range(0, len(rest), 2**16):
            time.sleep(faults.delay)
            request.sent += handler.wfile.write(rest[position : position + 2**16])

    def _range(self, request: Request, etag: str | None, length: int) -> tuple[int, int]:
        if not request.range or self.faults.ignore_range or (request.if_range and request.if_range != etag):
            return 200, 0
        start = int(request.range.removeprefix("bytes=").partition("-")[0])
        return (206, start) if start < length else (416, 0)


@contextlib.contextmanager
def serve(files: Mapping[str, bytes] | str | Path, **faults: object) -> Iterator[FaultyServer]:
    """A running server at `.url`; the keywords are the fields of `Faults`."""
    server = FaultyServer(files, Faults(**faults))
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
        thread.join()
