"""Files from https and S3, resumed where they broke off.

What has arrived is kept in a partial file, with a note of the version of the remote file that it belongs to. The next
attempt, in this process or a later one, asks for the rest of that version only. A server that cannot promise that it is
the same version sends everything again: a file sewn together from two versions looks whole and is not.

Nothing that a server sends is believed before it has been checked, and what libraries say of a failure is not passed
on, as it holds whole addresses.
"""

import contextlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from threading import Thread
from types import MappingProxyType

import requests
import urllib3
from tqdm import tqdm

from common.addresses import path_of, shown
from common.errors import UserError
from common.json_files import read_json

ATTEMPTS = 8  # failures in a row, none of which brought a byte further than before, until a download gives up
FIRST_WAIT = 1.0  # seconds before the second attempt; doubled after each failure in a row
LONGEST_WAIT = 60.0  # seconds
TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two pieces of an answer
ANSWER_SECONDS = 60.0  # for the head of an answer as a whole, redirects included
PATIENCE = 60.0  # seconds, after which a body must have come at LEAST_RATE on average
LEAST_RATE = 1000.0  # bytes a second
BLOCK = 2**18
LENGTH = "[0-9]{1,18}"
STRONG_ETAG = re.compile(r'"[!\x23-\x7e]*"')  # a weak one is no promise
OWN_ENCODINGS = MappingProxyType({".gz": "gzip", ".tgz": "gzip", ".bz2": "bzip2", ".xz": "xz"})  # of files by suffix
OTHER_MEANS = "download it by other means and give the path"


class _TryAgain(Exception):
    """An attempt failed, and the next may not."""


class _TooSlow(_TryAgain):
    """What came was too little to count as progress."""


def download(address: str, partial: Path, *, progress: bool = True, label: str = "") -> str | None:
    """Bring `partial` to the whole file at https://, http:// or s3://bucket/key; synced to disk at the end.

    It resumes after what is there already; `partial` with `.json` added notes the version that this belongs to. Returns
    the remote file's strong ETag, if it has one.

    Raises:
        UserError: refused by the server, too large for the disk, or gave up after ATTEMPTS without progress.
    """
    failures, furthest = 0, _size(partial)
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, desc=label, disable=None if progress else True) as bar:
        while True:
            try:
                return _attempt(address, partial, bar)
            except _TryAgain as error:
                is_further = _size(partial) > furthest and not isinstance(error, _TooSlow)
                failures = 0 if is_further else failures + 1
                furthest = max(furthest, _size(partial))
                if failures >= ATTEMPTS:
                    raise UserError(
                        f"{shown(address)}: gave up after {ATTEMPTS} attempts without progress ({error})",
                        "check the connection and start again, what has arrived is kept",
                    ) from error
            time.sleep(min(FIRST_WAIT * 2**failures, LONGEST_WAIT) * random.uniform(0.5, 1.0))


def _attempt(address: str, partial: Path, bar: tqdm) -> str | None:
    note_path = partial.with_name(partial.name + ".json")
    note = _read_note(note_path, address)
    etag = note.get("validator")
    start = _size(partial) if etag else 0
    if start and start == note.get("total"):
        return etag
    headers = {"Accept-Encoding": "identity"}  # compressed in transit, lengths would be those of something else
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": etag}
    with contextlib.closing(_ask(address, headers)) as response:
        found = response.headers.get("ETag", "")
        found = found if STRONG_ETAG.fullmatch(found) else None
        is_encoded = _is_encoded(response, address)
        if response.status_code == 200:
            start, total = 0, _length(response, address)
            if is_encoded:  # its length and its parts are of other bytes than the file's
                found = total = None
        else:
            whole = note.get("total") or LENGTH
            span = re.fullmatch(f"bytes {start}-[0-9]+/({whole})", response.headers.get("Content-Range", ""))
            if not span or found not in (None, etag) or is_encoded:
                note_path.unlink(missing_ok=True)
                raise _TryAgain("the file changed on the server")
            found, total = etag, int(span[1])
        if start == 0:
            partial.write_bytes(b"")  # first: bytes of one version must never lie beside the note of another
            note_path.write_text(
                json.dumps({"url": shown(address), "validator": found, "total": total}), encoding="utf-8"
            )
        free = shutil.disk_usage(partial.parent).free
        if total is not None and total - start > free:
            raise UserError(
                f"{partial.parent}: {shown(address)} needs {total - start:,} more bytes and the disk has {free:,} free",
                "free some space or choose another folder, what has arrived is kept",
            )
        bar.total = total
        bar.n = bar.initial = start
        bar.refresh()
        _receive(_blocks(response, is_encoded), partial, start, total, bar)
    return found


def _is_encoded(response: requests.Response, address: str) -> bool:
    """Whether the body is compressed in transit, unasked; raises UserError if by something that is not known here."""
    said = response.headers.get("Content-Encoding", "").lower().replace("x-", "")
    encodings = {each.strip() for each in said.split(",")} - {"", "identity"}
    if encodings == {OWN_ENCODINGS.get(PurePosixPath(path_of(address)).suffix.lower())}:
        return False  # said of the file itself, which is compressed and wanted so
    if not encodings <= set(response.raw.CONTENT_DECODERS):
        raise UserError(f"{shown(address)}: the server sent it in an unknown Content-Encoding, {said!r}", OTHER_MEANS)
    return bool(encodings)


def _length(response: requests.Response, address: str) -> int | None:
    """Bytes of a whole body; None where it comes in chunks, of which the last is known."""
    how, length = (response.headers.get(name, "") for name in ("Transfer-Encoding", "Content-Length"))
    if how.lower() == "chunked":
        return None
    if not how and re.fullmatch(LENGTH, length):
        return int(length)
    unknown = "the server does not say how long the file is, so a broken connection could pass for its end"
    raise UserError(f"{shown(address)}: {unknown}", OTHER_MEANS)


def _receive(blocks: Iterator[bytes], partial: Path, start: int, total: int | None, bar: tqdm) -> None:
    begin, received = time.monotonic(), 0
    with open(partial, "ab" if start else "wb") as file:
        for block in blocks:
            file.write(block)
            bar.update(len(block))
            received += len(block)
            if received < (time.monotonic() - begin - PATIENCE) * LEAST_RATE:
                raise _TooSlow(f"fewer than {LEAST_RATE:,.0f} bytes a second came")
        file.flush()
        os.fsync(file.fileno())
    size = _size(partial)
    if total is not None and size != total:
        if size > total:
            partial.unlink()
        raise _TryAgain(f"the connection ended at byte {size} of {total}")


def _blocks(response: requests.Response, is_encoded: bool) -> Iterator[bytes]:
    try:
        # read1 hands over what has come; read would lose up to a block when the connection breaks.
        while block := response.raw.read1(BLOCK, decode_content=is_encoded):
            yield block
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise _TryAgain(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """Why requests, urllib3 or boto3 failed: in the system's words, or else the name of their exception."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror and not isinstance(inner, requests.RequestException):
            return inner.strerror
        causes = (*inner.args, getattr(inner, "reason", None), inner.__cause__, inner.__context__)
        inner = next((cause for cause in causes if isinstance(cause, BaseException)), None)
    return type(error).__name__


def _answer(url: str, headers: dict[str, str]) -> requests.Response:
    """requests.get, but within ANSWER_SECONDS: its own timeout begins anew with every byte and every redirect."""
    future: Future[requests.Response] = Future()

    def ask() -> None:
        try:
            future.set_result(requests.get(url, headers=headers, stream=True, timeout=TIMEOUT))
        except Exception as error:
            future.set_exception(error)

    Thread(target=ask, daemon=True).start()
    try:
        return future.result(ANSWER_SECONDS)
    except TimeoutError as error:
        if future.done():
            raise
        raise _TryAgain(f"no whole answer came within {ANSWER_SECONDS:.0f} seconds") from error


def _ask(address: str, headers: dict[str, str]) -> requests.Response:
    """The server's answer of status 200, 206 or 416."""
    url = _signed(address) if address.lower().startswith("s3://") else address
    try:
        response = _answer(url, headers)
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, OSError) as error:
        reason = _reason(error)
        may_pass = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
        if isinstance(error, may_pass) and "CERTIFICATE_VERIFY_FAILED" not in reason:
            raise _TryAgain(reason) from error
        raise UserError(
            f"{shown(address)}: cannot be asked for ({reason})",
            "check the address and, for a certificate, the CA bundle in REQUESTS_CA_BUNDLE",
        ) from error
    status, suffix = response.status_code, PurePosixPath(path_of(address)).suffix.lower()
    is_page = response.headers.get("Content-Type", "").lower().startswith("text/html")
    if status == 200 and is_page and suffix not in ("", ".html", ".htm"):
        response.close()
        raise UserError(
            f"{shown(address)}: the server sent a web page instead of a {suffix} file, probably an error or login page",
            "open the address in a browser",
        )
    if status in (200, 206, 416):
        return response
    response.close()
    if status in (408, 429) or status >= 500:
        raise _TryAgain(f"HTTP status {status}")
    remedy = "check the address and your credentials (netrc; for S3 AWS's, and AWS_DEFAULT_REGION)"
    raise UserError(f"{shown(address)}: HTTP status {status}", remedy)


def _signed(address: str) -> str:
    """The https address of an S3 object; public ones are read without an account."""
    # Imported where S3 is asked for: training imports this module too, and starts sooner without.
    import boto3
    import botocore.config
    import botocore.exceptions

    bucket, _, key = address[len("s3://") :].partition("/")
    try:
        session = boto3.Session()
        version = "s3v4" if session.get_credentials() else botocore.UNSIGNED
        config = botocore.config.Config(signature_version=version)
        client = session.client("s3", config=config, region_name=session.region_name or "us-east-1")
        return client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key})
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        remedy = "check AWS's settings and the address, s3://bucket/key"
        raise UserError(f"{shown(address)}: cannot be asked for ({_reason(error)})", remedy) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_note(path: Path, address: str) -> dict:
    try:
        note = read_json(path, "note of a download", "remove it")
    except UserError:
        return {}
    known = note.get("url") == shown(address) and STRONG_ETAG.fullmatch(str(note.get("validator")))
    return note if known and isinstance(note.get("total"), int | None) else {}
