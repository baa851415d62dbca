"""Downloads from a real local server: through every fault, the bytes are the server's or there is no file."""

import contextlib
import errno
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from http_servers import serve
from paths import ROOT

from common import remote_files
from common.errors import UserError
from file_utils import cached_path

DATA = random.Random(0).randbytes(1_000_003)
SUM = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def no_waiting_no_proxy(monkeypatch):
    monkeypatch.setattr(remote_files, "FIRST_WAIT", 0.0)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_downloads_once_and_records_it(tmp_path):
    with serve({"a/dump.bz2": DATA}) as server:
        address = f"{server.url}/a/dump.bz2"
        path = cached_path(address, tmp_path)
        assert path.read_bytes() == DATA
        assert path.name == f"{hashlib.sha256(address.encode()).hexdigest()[:12]}-dump.bz2"
        assert len(server.requests) == 1
    record = json.loads(Path(f"{path}.json").read_text())
    assert (record["url"], record["bytes"], record["sha256"]) == (address, len(DATA), SUM)
    assert cached_path(address, tmp_path) == path  # the server is gone
    assert visible(tmp_path) == [path.name, path.name + ".json"]


def test_breaking_off_often_asks_for_the_rest_only(tmp_path):
    with serve({"f": DATA}, break_after=50_000) as server:
        assert cached_path(f"{server.url}/f", tmp_path, name="f").read_bytes() == DATA
        assert len(server.requests) > 2 * remote_files.ATTEMPTS
        assert sum(request.sent for request in server.requests) == len(DATA)


@pytest.mark.parametrize(
    "faults",
    [
        {"ignore_range": True},
        {"statuses": [503, 429, 500]},
    ],
)
def test_gets_there(tmp_path, faults):
    with serve({"f": DATA}, **faults) as server:
        assert cached_path(f"{server.url}/f", tmp_path, name="f").read_bytes() == DATA


@pytest.mark.parametrize("change", ["content", "etag", "416", "content_range", "size", "ignore_range", "weak"])
def test_partial_file_of_another_version_is_not_sewn_on(tmp_path, monkeypatch, change):
    first = b"x" * 500_000
    with serve({"f": first}, break_after=300_000, etag='W/"1"' if change == "weak" else '"1"') as server:
        monkeypatch.setattr(remote_files, "ATTEMPTS", 0)  # gives up after the first break
        with pytest.raises(UserError, match="gave up"):
            cached_path(f"{server.url}/f", tmp_path, name="f")
        monkeypatch.setattr(remote_files, "ATTEMPTS", 4)
        assert visible(tmp_path) == []
        server.files["f"] = DATA if change != "416" else DATA[:100]
        server.faults.break_after = None
        if change != "416":
            server.faults.etag = 'W/"1"' if change == "weak" else '"2"'
        server.faults.ignore_range = change == "ignore_range"
        if change == "content_range":
            server.faults.etag, server.faults.content_range = '"1"', "bytes 7-9/10"
        if change == "size":  # of a server whose tags do not change with the file
            server.faults.etag = '"1"'
        assert cached_path(f"{server.url}/f", tmp_path, name="f").read_bytes() == server.files["f"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusals_are_final(tmp_path, status):
    with serve({"f": DATA}, always_status=status) as server:
        with pytest.raises(UserError, match=rf"{server.url}/f: HTTP status {status}; check the address and "):
            cached_path(f"{server.url}/f", tmp_path)
        assert len(server.requests) == 1
    assert visible(tmp_path) == []


def test_signatures_are_in_no_message(tmp_path):
    with serve({"f": DATA}) as server:
        address = f"{server.url}/f?X-Amz-Signature=SECRET"
    with pytest.raises(UserError, match=r"gave up after 8 attempts .*refused") as raised:
        cached_path(address, tmp_path)
    assert "SECRET" not in str(raised.value)


def test_gives_up_without_progress(tmp_path):
    with serve({"f": DATA}, always_status=503) as server:
        with pytest.raises(UserError, match=r"gave up after 8 attempts without progress \(HTTP status 503\)"):
            cached_path(f"{server.url}/f", tmp_path)
        assert len(server.requests) == remote_files.ATTEMPTS


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ({"extra_length": 1}, "gave up"),
        ({"no_length": True}, "does not say how long"),
        ({"html_page": True}, "web page"),
    ],
)
def test_what_may_not_be_whole_is_never_accepted(tmp_path, faults, says):
    with serve({"f.bz2": DATA}, **faults) as server, pytest.raises(UserError, match=says):
        cached_path(f"{server.url}/f.bz2", tmp_path)
    assert visible(tmp_path) == []


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (HEAD + b"Content-Length: \xb2\r\n\r\nabc", "does not say how long"),
        (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc", "does not say how long"),
        (HEAD + b"Content-Length: -3\r\n\r\nabc", "does not say how long"),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "cannot be asked for|does not say how long"),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\nContent-Length: 3\r\n\r\nabc", "does not say how long"),
        (HEAD + b"Content-Length: 3\r\nContent-Encoding: odd\r\n\r\nabc", "unknown Content-Encoding, 'odd'"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", "gave up"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n\xb2\r\nab", "gave up"),
        (HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n", "gave up"),
        (HEAD + b"X: x\r\n" * 200 + b"\r\n", "gave up"),
        (b"SSH-2.0\r\n", "gave up"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n", "cannot be asked for"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://h/f?SECRET\r\n\r\n", "cannot be asked for"),
        (b"HTTP/1.1 302 Found\r\nLocation: /f?SECRET\r\nContent-Length: 0\r\n\r\n", "cannot be asked for|gave up"),
        (b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\nabcde", "gave up"),
        (b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-2/\xb2\r\nContent-Length: 3\r\n\r\nabc", "gave up"),
    ],
)
def test_what_a_server_should_not_send_is_said_in_a_sentence(tmp_path, monkeypatch, answer, says):
    monkeypatch.setattr(remote_files, "ATTEMPTS", 1)
    with serve({}, raw=answer) as server, pytest.raises(UserError, match=says) as raised:
        cached_path(f"{server.url.replace('//', '//u:SECRET@')}/f?SECRET", tmp_path)
    assert "SECRET" not in str(raised.value)
    assert visible(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "encoding", "body"),
    [
        ("f", "gzip", gzip.compress(DATA)),
        ("f", "deflate", zlib.compress(DATA)),
        ("f", "GZIP, x-gzip", gzip.compress(gzip.compress(DATA))),
        ("f", "identity", DATA),
        ("f.gz", "x-gzip", DATA),  # said of the file itself
        ("f.bz2", "bzip2", DATA),
        ("f.bz2", "gzip", gzip.compress(DATA)),
    ],
)
def test_what_is_compressed_in_transit_is_unpacked(tmp_path, name, encoding, body):
    with serve({name: body}, encoding=encoding) as server:
        assert cached_path(f"{server.url}/{name}", tmp_path).read_bytes() == DATA


def test_a_head_or_a_body_that_trickles_in_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_files, "ATTEMPTS", 1)
    monkeypatch.setattr(remote_files, "ANSWER_SECONDS", 0.3)
    with (
        serve({}, raw=HEAD + b"X: x\r\n" * 20, delay=0.1) as server,
        pytest.raises(UserError, match=r"gave up after 1 attempts .*\(no whole answer came"),
    ):
        cached_path(f"{server.url}/f", tmp_path)
    monkeypatch.setattr(remote_files, "ANSWER_SECONDS", 60.0)
    monkeypatch.setattr(remote_files, "PATIENCE", 0.0)
    monkeypatch.setattr(remote_files, "LEAST_RATE", 1e12)
    with serve({"f": DATA}) as server, pytest.raises(UserError, match="bytes a second came"):
        cached_path(f"{server.url}/f", tmp_path)


def test_another_host_gets_no_password(tmp_path):
    got = []
    with serve({}) as other, serve({}) as first:
        host = other.url.replace("127.0.0.1", "localhost")
        first.faults.raw = f"HTTP/1.1 302 Found\r\nLocation: {host}/g\r\nContent-Length: 0\r\n\r\n".encode()
        answer = other._answer
        other._answer = lambda handler: (got.append(handler.headers["Authorization"]), answer(handler))
        other.files = {"g": DATA}
        assert cached_path(f"{first.url.replace('//', '//u:PW@')}/f", tmp_path).read_bytes() == DATA
    assert got == [None]


def test_too_little_space_is_said_before_a_byte(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(remote_files.shutil, "disk_usage", lambda _: usage)
    with serve({"f": DATA}) as server, pytest.raises(UserError, match="needs 1,000,003 more bytes and the disk has 10"):
        cached_path(f"{server.url}/f", tmp_path)


def test_full_disk_keeps_what_arrived(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with serve({"f": DATA}) as server:
        with monkeypatch.context() as patch:
            patch.setattr(remote_files.os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                cached_path(f"{server.url}/f", tmp_path, name="f")
        assert visible(tmp_path) == []
        assert cached_path(f"{server.url}/f", tmp_path, name="f").read_bytes() == DATA
        assert len(server.requests) == 1


def test_local_path(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(DATA)
    assert cached_path(file, tmp_path / "cache") == file
    assert not (tmp_path / "cache").exists()
    with pytest.raises(UserError, match="no such file"):
        cached_path(tmp_path / "none", tmp_path)


def start(address, folder):
    code = "import sys, file_utils; print(file_utils.cached_path(sys.argv[1], sys.argv[2], name='f'))"
    return subprocess.Popen([sys.executable, "-c", code, address, str(folder)], cwd=ROOT, stderr=subprocess.PIPE)


def test_killed_then_resumed(tmp_path):
    with serve({"f": DATA}, delay=0.05) as server:
        process = start(f"{server.url}/f", tmp_path)
        while not any(p.suffix == ".part" and p.stat().st_size > 200_000 for p in tmp_path.iterdir()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (partial,) = (p for p in tmp_path.iterdir() if p.suffix == ".part")
        arrived = partial.stat().st_size
        server.faults.delay = 0
        assert cached_path(f"{server.url}/f", tmp_path, name="f").read_bytes() == DATA
        assert server.requests[-1].range == f"bytes={arrived}-"
        assert server.requests[-1].sent == len(DATA) - arrived


def test_several_processes_download_once(tmp_path):
    with serve({"f": DATA}, delay=0.1) as server:
        processes = [start(f"{server.url}/f", tmp_path) for _ in range(3)]
        messages = [process.communicate()[1].decode() for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0]
        assert len(server.requests) == 1
    assert (tmp_path / "f").read_bytes() == DATA
    assert any("another process is downloading it" in message for message in messages)


@pytest.fixture
def s3(monkeypatch):
    servers = pytest.importorskip("moto.server")
    import boto3

    server = servers.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="a/f.bin", Body=DATA)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        yield client


def test_s3(tmp_path, s3):
    assert cached_path("s3://bucket/a/f.bin", tmp_path).read_bytes() == DATA
    with pytest.raises(UserError, match=r"s3://bucket/none: HTTP status 404"):
        cached_path("s3://bucket/none", tmp_path)


def test_s3_without_credentials(tmp_path, s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    s3.put_object_acl(Bucket="bucket", Key="a/f.bin", ACL="public-read")
    assert cached_path("s3://bucket/a/f.bin", tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("changed", [False, True])
def test_s3_resumes_the_same_version_only(tmp_path, s3, changed):
    etag = s3.head_object(Bucket="bucket", Key="a/f.bin")["ETag"]
    partial = tmp_path / "p"
    partial.write_bytes(DATA[:400_000])
    note = {"url": "s3://bucket/a/f.bin", "validator": etag, "total": len(DATA)}
    Path(f"{partial}.json").write_text(json.dumps(note))
    expected = DATA
    if changed:
        expected = DATA[::-1]
        s3.put_object(Bucket="bucket", Key="a/f.bin", Body=expected)
    remote_files.download("s3://bucket/a/f.bin", partial)
    assert partial.read_bytes() == expected
