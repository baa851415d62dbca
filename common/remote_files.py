"""Files from https and S3, resumed where they broke off.

What has arrived is kept in a partial file, with a note of the version of the remote file that it belongs to. The next
attempt, in this process or a later one, asks for the rest of that version only. A server that cannot promise that it is
the same version sends everything again: a file sewn together from two versions looks whole and is not.
"""

import contextlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from tqdm import tqdm

from common.errors import UserError
from common.json_files import read_json

ATTEMPTS = 8  # failures in a row, none of which brought a byte further than before, until a download gives up
FIRST_WAIT = 1.0  # seconds before the second attempt; doubled after each failure in a row
LONGEST_WAIT = 60.0  # seconds
TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two pieces of an answer
BLOCK = 2**18
MAX_NAME_BYTES = 120  # file systems take 255, and what is made of a name is longer


class _TryAgain(Exception):
    """An attempt failed, and the next may not."""


def is_remote(address: str) -> bool:
    """Whether it is an address that `download` takes, as opposed to a local path."""
    return address.lower().startswith(("http://", "https://", "s3://"))


def shown(address: str) -> str:
    """The address without what may be secret: user, password and query (signatures)."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def last_part(address: str) -> str:
    """The file name that an address ends with, its end if it is very long; `download` if it has none."""
    name = unquote(urlsplit(address).path).rpartition("/")[2].replace("\0", "")
    return name.encode()[-MAX_NAME_BYTES:].decode(errors="ignore") or "download"


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
                failures = 0 if _size(partial) > furthest else failures + 1
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
        found = found if found.startswith('"') else None  # a weak one is no promise
        if response.status_code == 200:
            start = 0
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
        else:
            whole = note.get("total") or r"\d+"
            span = re.fullmatch(rf"bytes {start}-\d+/({whole})", response.headers.get("Content-Range", ""))
            if not span or found not in (None, etag):
                note_path.unlink(missing_ok=True)
                raise _TryAgain("the file changed on the server")
            found, total = etag, int(span[1])
        is_chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if total is None and not is_chunked:
            raise UserError(
                f"{shown(address)}: the server does not say how long the file is, so a broken connection could pass "
                "for its end",
                "download it by other means and give the path",
            )
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
        _receive(response, partial, start, total, bar)
    return found


def _receive(response: requests.Response, partial: Path, start: int, total: int | None, bar: tqdm) -> None:
    bar.total = total
    bar.n = bar.initial = start
    bar.refresh()
    with open(partial, "ab" if start else "wb") as file:
        for block in _blocks(response):
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
    size = _size(partial)
    if total is not None and size != total:
        if size > total:
            partial.unlink()
        raise _TryAgain(f"the connection ended at byte {size} of {total}")


def _blocks(response: requests.Response) -> Iterator[bytes]:
    try:
        # read1 hands over what has come; read would lose up to a block when the connection breaks.
        while block := response.raw.read1(BLOCK, decode_content=False):
            yield block
    except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
        raise _TryAgain(error) from error


def _ask(address: str, headers: dict[str, str]) -> requests.Response:
    """The server's answer of status 200, 206 or 416."""
    url = _signed(address) if address.lower().startswith("s3://") else address
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:
        # requests' own words hold the whole address, signatures included.
        reason = getattr(next(iter(error.args), None), "reason", error)
        may_pass = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
        if isinstance(error, may_pass) and "CERTIFICATE_VERIFY_FAILED" not in str(reason):
            raise _TryAgain(reason) from error
        raise UserError(
            f"{shown(address)}: cannot be asked for ({reason})",
            "check the address and, for a certificate, the CA bundle in REQUESTS_CA_BUNDLE",
        ) from error
    status, suffix = response.status_code, Path(urlsplit(address).path).suffix.lower()
    is_page = response.headers.get("Content-Type", "").startswith("text/html")
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
    except botocore.exceptions.BotoCoreError as error:
        remedy = "check AWS's settings and the address, s3://bucket/key"
        raise UserError(f"{address}: cannot be asked for ({error})", remedy) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_note(path: Path, address: str) -> dict:
    try:
        note = read_json(path, "note of a download", "remove it")
    except UserError:
        return {}
    return note if note.get("url") == shown(address) else {}
