"""Files from https and S3, broken off and taken up again.

A dump of 20 GB over a bad line arrives in many pieces. What has arrived is kept in a partial file, with a note of which
version of the remote file it belongs to, and the next attempt, in this process or a later one, asks for the rest of
that version only. A server that cannot promise that it is the same version sends everything again: a file sewn together
from two versions looks whole and is not.
"""

import errno
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from tqdm import tqdm

from common.errors import UserError
from common.json_files import read_json

ATTEMPTS = 8
"""Failures in a row, none of which brought a byte further than before, until a download gives up."""
FIRST_WAIT = 1.0
"""Seconds before the second attempt; doubled after each failure in a row."""
LONGEST_WAIT = 60.0
"""Seconds; also the cap on what a server's Retry-After can ask for."""
TIMEOUT = (20.0, 60.0)
"""Seconds to connect, and between two pieces of an answer."""
BLOCK = 2**18

REMEDIES = (
    (401, "it wants credentials: give them (netrc, or AWS's credential chain) or choose another address"),
    (403, "access is refused: check the address and your credentials"),
    (404, "there is no such file: check the address"),
    (410, "the file is gone for good: choose another address"),
)


@dataclass
class Answer:
    """What a server sends: `blocks` of the file from byte `start` on; `total` bytes is the whole file, if known."""

    start: int
    total: int | None
    validator: str | None
    blocks: Iterator[bytes]
    close: Callable[[], None]
    end_is_proven: bool = False


class _TryAgain(Exception):
    def __init__(self, reason: object, wait: float | None = None):
        super().__init__(str(reason))
        self.wait = wait


class _Restart(Exception):
    """The partial file does not belong to what the server has now."""


def is_remote(address: str) -> bool:
    """Whether it is an address that `download` takes, as opposed to a local path."""
    return address.lower().startswith(("http://", "https://", "s3://"))


MAX_NAME_BYTES = 120  # file systems take 255, and what is made of a name is longer


def shown(address: str) -> str:
    """The address without what may be secret: user, password and query (signatures)."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def download(
    address: str, partial: Path, *, length_required: bool = True, progress: bool = True, label: str = ""
) -> str | None:
    """Bring `partial` to the whole remote file, going on from what it holds already; synced to disk at the end.

    Args:
        address: https://, http:// or s3://bucket/key.
        partial: the file to fill; `partial` with `.json` added notes the version it belongs to.
        length_required: refuse an answer whose end cannot be told from a broken connection.

    Returns:
        The remote file's validator (a strong ETag, or a modification date), if it has one.

    Raises:
        UserError: refused by the server, gave up after ATTEMPTS without progress, or the disk is full; what has
            arrived stays in `partial`.
    """
    opener = _open_s3 if address.lower().startswith("s3://") else _open_http
    failures, versions, furthest = 0, 0, _size(partial)
    version = _read_note(partial, address).get("validator")
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, desc=label, disable=None if progress else True) as bar:
        while True:
            try:
                return _attempt(opener, address, partial, length_required, bar)
            except _Restart as error:
                reason, wait = error, 0.0
                _note_path(partial).unlink(missing_ok=True)
            except _TryAgain as error:
                reason, wait = error, error.wait
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise UserError(
                    f"{partial.parent}: the disk is full while downloading {shown(address)}",
                    "free some space and start again, what has arrived is kept",
                ) from error
            if (current := _read_note(partial, address).get("validator")) != version:
                # Another version's bytes are progress from the start, but not for ever.
                version, versions, furthest = current, versions + 1, 0
            failures = 0 if _size(partial) > furthest else failures + 1
            furthest = max(furthest, _size(partial))
            if failures >= ATTEMPTS or versions > ATTEMPTS:
                raise UserError(
                    f"{shown(address)}: gave up after {ATTEMPTS} attempts without progress ({reason})",
                    "check the connection and start again, what has arrived is kept",
                )
            if wait is None:
                wait = FIRST_WAIT * 2 ** min(failures, 16) * random.uniform(0.5, 1.0)
            time.sleep(min(wait, LONGEST_WAIT))


def _attempt(
    opener: Callable[..., Answer], address: str, partial: Path, length_required: bool, bar: tqdm
) -> str | None:
    note = _read_note(partial, address)
    offset = _size(partial) if note.get("validator") else 0
    if offset and offset == note.get("total"):
        return note["validator"]
    answer = opener(address, offset, note.get("validator") if offset else None, note.get("total"))
    try:
        if answer.start == offset and offset and (answer.validator or note["validator"]) != note["validator"]:
            raise _Restart("the file changed on the server")
        if answer.start not in (0, offset):
            raise _Restart(f"asked for byte {offset} on, got byte {answer.start} on")
        if answer.total is None and not answer.end_is_proven and length_required:
            raise UserError(
                f"{shown(address)}: the server does not say how long the file is, so a broken connection could pass "
                "for its end",
                "give its SHA-256, or download it by other means and give the path",
            )
        _check_space(partial, answer, address)
        if answer.start == 0:
            _write_note(partial, address, answer)
        _receive(answer, partial, bar)
    finally:
        answer.close()
    return answer.validator or (note.get("validator") if answer.start else None)


def _receive(answer: Answer, partial: Path, bar: tqdm) -> None:
    bar.total = answer.total
    bar.n = bar.initial = answer.start
    bar.refresh()
    position = answer.start
    with open(partial, "ab" if answer.start else "wb") as file:
        for block in answer.blocks:
            file.write(block)
            position += len(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
    if answer.total is not None and position < answer.total:
        raise _TryAgain(f"the connection ended at byte {position} of {answer.total}")
    if answer.total is not None and position > answer.total:
        partial.unlink()
        raise _Restart(f"{position} bytes came, {answer.total} were announced")


def _check_space(partial: Path, answer: Answer, address: str) -> None:
    if answer.total is None:
        return
    # Starting again frees what the partial file holds.
    free = shutil.disk_usage(partial.parent).free + (0 if answer.start else _size(partial))
    if answer.total - answer.start > free:
        raise UserError(
            f"{partial.parent}: {shown(address)} needs {answer.total - answer.start:,} more bytes and the disk has "
            f"{free:,} free",
            "free some space or choose another folder, what has arrived is kept",
        )


def _open_http(address: str, offset: int, validator: str | None, total: int | None) -> Answer:
    # Compressed in transit, lengths and offsets would be those of something else.
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    try:
        response = requests.get(address, headers=headers, stream=True, timeout=TIMEOUT)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise UserError(
                f"{shown(address)}: its TLS certificate cannot be verified", "name your CA bundle in REQUESTS_CA_BUNDLE"
            ) from error
        raise _TryAgain(error) from error
    except requests.RequestException as error:
        raise UserError(f"{shown(address)}: cannot be asked for ({error})", "check the address") from error
    try:
        return _http_answer(response, address, offset, total)
    except BaseException:
        response.close()
        raise


def _http_answer(response: requests.Response, address: str, offset: int, total: int | None) -> Answer:
    headers = response.headers
    if response.status_code == 416 and offset:
        there = headers.get("Content-Range", "").removeprefix("bytes */")
        if there == str(offset) and total in (None, offset) and _validator(headers) is not None:
            return Answer(offset, offset, _validator(headers), iter(()), response.close)
        raise _Restart("the server has no such range (HTTP status 416)")
    _check_status(response.status_code, headers.get("Retry-After"), address)
    suffix = Path(urlsplit(address).path).suffix.lower()
    if headers.get("Content-Type", "").startswith("text/html") and suffix not in ("", ".html", ".htm"):
        raise UserError(
            f"{shown(address)}: the server sent a web page (HTTP status {response.status_code}, text/html) instead of "
            f"a {suffix} file, probably an error or login page",
            "open the address in a browser",
        )
    length = headers.get("Content-Length", "")
    start, whole = 0, int(length) if length.isdigit() else None
    if response.status_code == 206:
        start, whole = _content_range(headers.get("Content-Range", ""), offset)
        if start and total is not None and whole != total:
            raise _Restart(f"the file had {total} bytes and has {whole} now")
    chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
    return Answer(start, whole, _validator(headers), _http_blocks(response), response.close, chunked)


def _check_status(status: int, retry_after: str | None, address: str) -> None:
    if status in (200, 206):
        return
    if status in (408, 429) or status >= 500:
        wait = float(retry_after) if retry_after and retry_after.isdigit() else None
        raise _TryAgain(f"HTTP status {status}", wait)
    remedy = dict(REMEDIES).get(status, "check the address")
    raise UserError(f"{shown(address)}: HTTP status {status}, {remedy}")


def _content_range(value: str, offset: int) -> tuple[int, int]:
    # bytes FIRST-LAST/WHOLE
    try:
        unit, _, ranges = value.partition(" ")
        span, whole = ranges.split("/")
        first, last = map(int, span.split("-"))
        if unit != "bytes" or first != offset or not first <= last < int(whole):
            raise ValueError
    except ValueError:
        raise _Restart(f"asked for byte {offset} on, got Content-Range {value!r}") from None
    return first, int(whole)


def _validator(headers: Any) -> str | None:
    """What may stand in If-Range: a strong ETag, or a date old enough that no later change shares it."""
    etag = headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    try:
        modified, now = (parsedate_to_datetime(headers[name]) for name in ("Last-Modified", "Date"))
        return headers["Last-Modified"] if (now - modified).total_seconds() >= 60 else None
    except (KeyError, TypeError, ValueError):
        return None


def _http_blocks(response: requests.Response) -> Iterator[bytes]:
    try:
        # read1 hands over what has come; read would lose up to a block when the connection breaks.
        while block := response.raw.read1(BLOCK, decode_content=False):
            yield block
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise _TryAgain(error) from error


# boto3 is imported where S3 is asked for: training imports this module too, and starts sooner without.
def _open_s3(address: str, offset: int, validator: str | None, total: int | None) -> Answer:
    import botocore.exceptions

    bucket, _, key = address[len("s3://") :].partition("/")
    if not bucket or not key:
        raise UserError(f"{address}: an S3 address is s3://bucket/key")
    arguments = {"Bucket": bucket, "Key": key}
    if offset:
        arguments |= {"Range": f"bytes={offset}-", "IfMatch": validator}
    try:
        answer = _s3_client().get_object(**arguments)
    except botocore.exceptions.ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in (412, 416) and offset:
            raise _Restart(f"the object changed (HTTP status {status})") from error
        _check_status(status, None, address)
        raise
    except (botocore.exceptions.HTTPClientError, ConnectionError) as error:
        raise _TryAgain(error) from error
    except botocore.exceptions.BotoCoreError as error:
        raise UserError(f"{address}: cannot be asked for ({error})", "check the address and AWS's settings") from error
    start, whole = 0, answer["ContentLength"]
    if "ContentRange" in answer:
        start, whole = _content_range(answer["ContentRange"], offset)
    body = answer["Body"]
    return Answer(start, whole, answer.get("ETag"), _s3_blocks(body), body.close)


def _s3_client() -> Any:
    import boto3
    import botocore.config

    session = boto3.Session()
    # Public buckets are read without an account; a signature is possible only with one.
    signature = {} if session.get_credentials() else {"signature_version": botocore.UNSIGNED}
    config = botocore.config.Config(
        retries={"total_max_attempts": 1}, connect_timeout=TIMEOUT[0], read_timeout=TIMEOUT[1], **signature
    )
    # Reading objects needs no region, but the client's construction does.
    return session.client("s3", config=config, region_name=session.region_name or "us-east-1")


def _s3_blocks(body: Any) -> Iterator[bytes]:
    import botocore.exceptions

    try:
        while block := body.read(2**16):
            yield block
    except (botocore.exceptions.BotoCoreError, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise _TryAgain(error) from error


def last_part(address: str) -> str:
    """The file name that an address ends with, its end if it is very long; `download` if it has none."""
    name = unquote(urlsplit(address).path).rpartition("/")[2].replace("\0", "")
    return name.encode()[-MAX_NAME_BYTES:].decode(errors="ignore") or "download"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note_path(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _read_note(partial: Path, address: str) -> dict:
    try:
        note = read_json(_note_path(partial), "note of a download", "remove it")
    except UserError:
        return {}
    return note if note.get("url") == shown(address) else {}


def _write_note(partial: Path, address: str, answer: Answer) -> None:
    # Emptied first: bytes of one version must never lie beside the note of another.
    partial.write_bytes(b"")
    note = {"url": shown(address), "validator": answer.validator, "total": answer.total}
    temporary = _note_path(partial).with_suffix(".new")
    temporary.write_text(json.dumps(note), encoding="utf-8")
    os.replace(temporary, _note_path(partial))
