"""Files that are whole or absent.

A long run is killed sooner or later, and a half-written file that looks like a whole one costs more than the run. So
everything is written under a temporary name in the target's own folder (a rename is atomic only within a file system),
synced, and renamed; whatever was there before stays until that moment. Downloads and unpacked archives keep the same
promise: a name in the cache is a whole, checked file, a destination folder is a whole archive.
"""

import contextlib
import functools
import hashlib
import json
import lzma
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from filelock import FileLock, Timeout

from common.errors import Problem, UserError
from common.json_files import read_json
from common.remote_files import download, is_remote, last_part, shown

UNFINISHED = ".unfinished"  # how the names of temporary folders end
MAX_EXPANSION = 1000  # times the size of an archive, which no honest one unpacks to
DAMAGED = (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, for libraries that open files by name; becomes `path` when the block succeeds.

    On an error it is removed, and a file that was at `path` before stays as it was.
    """
    path = Path(path)
    # Its own folder, made safely unique; mkstemp would fix the permissions to 0600.
    with _temporary_folder_beside(path) as folder:
        temporary = folder / path.name
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    _sync(path.parent)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w", **open_kwargs: Any) -> Iterator[IO]:
    """An open file that becomes `path` when the block succeeds; see `atomic_path`. Text is UTF-8 by default."""
    if "b" not in mode:
        open_kwargs.setdefault("encoding", "utf-8")
    with atomic_path(path) as temporary, open(temporary, mode, **open_kwargs) as file:
        yield file


@contextlib.contextmanager
def atomic_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `folder` when the block succeeds.

    On an error it is removed, and a folder that was there before stays as it was.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_folder_beside(folder) as temporary:
        new = temporary / "new"
        new.mkdir()
        yield new
        for path in [*new.rglob("*"), new]:
            _sync(path)
        if folder.exists():
            os.replace(folder, temporary / "old")
        os.replace(new, folder)
    _sync(folder.parent)


@contextlib.contextmanager
def _temporary_folder_beside(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent) as folder:
        yield Path(folder)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left of atomic files and folders of this name in `folder`.

    Nobody may be writing these at the time.
    """
    for path in folder.glob(f".{name}.*{UNFINISHED}/"):
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    # For a folder: a rename itself is durable only once the folder is.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, waiting: str | None = None) -> Iterator[None]:
    """Of the processes that lock the file `path`, one at a time is inside. The file stays, empty.

    Args:
        waiting: where another process is inside, print this on stderr (nothing if empty) and wait.

    Raises:
        UserError: another process is inside, and `waiting` is None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        if waiting is None:
            raise UserError(f"Another process is at work here, since it holds {path}", "wait until it ends") from error
        if waiting:
            print(waiting, file=sys.stderr, flush=True)
        lock.acquire(poll_interval=0.1)
    try:
        yield
    finally:
        lock.release()


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_path(
    url_or_path: str | os.PathLike,
    cache_dir: str | os.PathLike,
    sha256: str | None = None,
    *,
    name: str | None = None,
    progress: bool = True,
) -> Path:
    """The local path of a file given by https://, http:// or s3:// address, or by path; downloaded at most once.

    A local file is returned as it is. A remote one is in `cache_dir` as `name`, or else as the first 12 digits of
    its address's SHA-256, a hyphen and the address's last part; NAME.json beside it records url, etag, bytes and
    sha256. Several processes may ask for the same file: one downloads, the others wait. Killed at any moment, the next
    call resumes with the bytes in `.NAME.KEY.part`.

    Args:
        sha256: the expected checksum in hexadecimal; checked for cached and local files too.
        progress: a bar on stderr, when that is a terminal.

    Raises:
        UserError: no such file, a wrong checksum, a server that refuses or is out of reach, a full disk.
    """
    address = os.fspath(url_or_path)
    expected = sha256.lower() if sha256 else None
    if not is_remote(address):
        return _local_file(Path(address).expanduser(), expected)
    key = hashlib.sha256(address.encode()).hexdigest()
    target = Path(cache_dir).expanduser() / (name or f"{key[:12]}-{last_part(address)}")
    lock = target.with_name(f".{target.name}.lock")
    with locked(lock, f"{shown(address)}: another process is downloading it; waiting"):
        if not _is_whole(target, key, expected):
            _download_to(target, address, key, expected, progress)
    return target


def _local_file(path: Path, expected: str | None) -> Path:
    if not path.exists():
        raise UserError(f"{path}: no such file", "check the path")
    if expected and (found := sha256_of(path)) != expected:
        raise UserError(f"{path}: expected SHA-256 {expected}, got {found}", "get the file again")
    return path


def _record_path(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _is_whole(target: Path, key: str, expected: str | None) -> bool:
    try:
        record = read_json(_record_path(target), "record of a download", "remove it")
        fits = record["address_sha256"] == key and record["bytes"] == target.stat().st_size
    except (UserError, FileNotFoundError, KeyError):
        return False
    return fits and (expected is None or sha256_of(target) == expected)


def _download_to(target: Path, address: str, key: str, expected: str | None, progress: bool) -> None:
    # The partial file's note knows the address without its query; the key tells queries apart.
    partial = target.with_name(f".{target.name}.{key[:12]}.part")
    etag = download(address, partial, length_required=expected is None, progress=progress, label=target.name)
    found = sha256_of(partial)
    note = partial.with_name(partial.name + ".json")
    if expected and found != expected:
        partial.unlink()
        note.unlink(missing_ok=True)
        raise UserError(
            f"{shown(address)}: expected SHA-256 {expected}, got {found}",
            "the download was removed: check the expected sum and start again",
        )
    record = {"url": shown(address), "address_sha256": key, "etag": etag}
    record |= {"bytes": partial.stat().st_size, "sha256": found}
    # An older file must not be taken for the one that the record describes.
    target.unlink(missing_ok=True)
    with atomic_write(_record_path(target)) as file:
        json.dump(record, file, indent=1)
    os.replace(partial, target)
    _sync(target.parent)
    note.unlink(missing_ok=True)


def unpack(archive: str | os.PathLike, destination: str | os.PathLike) -> None:
    """Unpack zip or tar (.gz, .bz2, .xz); the destination, a folder, appears whole or not at all.

    A folder that is there already is replaced.

    Raises:
        UserError: not an archive, damaged, encrypted, absurdly larger than its archive, or with a member that is
            absolute, leaves the folder, is a link or a device, or has another's name; nothing is left behind.
    """
    archive = Path(archive)
    n_bytes, member = 0, ""
    limit = max(archive.stat().st_size * MAX_EXPANSION, 2**20)
    with atomic_folder(destination) as folder:
        try:
            for member, size, problem, open_member in _members(archive):
                n_bytes += size
                path = PurePosixPath(member.replace("\\", "/"))
                if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
                    problem = Problem("the member's path leaves the folder", "not unpacked")
                elif n_bytes > limit:
                    problem = Problem(f"unpacks to more than {limit:,} bytes", "not unpacked")
                if problem:
                    raise UserError(f"{archive}: {member!r}: {problem.problem}", problem.remedy)
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                with open_member() as content, open(folder / path, "xb") as file:
                    shutil.copyfileobj(content, file)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise UserError(f"{archive}: {member!r}: the name collides with another's", "not unpacked") from error
        except (*DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # gzip and bz2 report damage without one
                raise
            where = f"{member!r}: damaged" if member else "not an archive (zip, tar, tar.gz, tar.bz2), or cut short"
            raise UserError(f"{archive}: {where} ({error})", "get the archive again") from error


def _members(archive: Path) -> Iterator[tuple[str, int, Problem | None, Callable[[], IO[bytes]]]]:
    """Name, size, what is wrong, and a function that opens it, of every member that is no folder, in order."""
    not_a_file = Problem("a link or device", "not unpacked")
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                is_file = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                problem = None if is_file else not_a_file
                if info.flag_bits & 1:
                    problem = Problem("encrypted", "decrypt the archive first")
                if not info.is_dir():
                    yield info.filename, info.file_size, problem, functools.partial(file.open, info)
        return
    with tarfile.open(archive) as file:
        for info in file:
            if not info.isdir():
                problem = None if info.isreg() else not_a_file
                yield info.name, info.size, problem, functools.partial(file.extractfile, info)
