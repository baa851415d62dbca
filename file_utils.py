"""Files that are whole or absent.

A long run is killed sooner or later, and a half-written file that looks like a whole one costs more than the run. So
everything is written under a temporary name in the target's own folder (a rename is atomic only within a file system),
synced, and renamed. Downloads and unpacked archives keep the same promise.
"""

import contextlib
import datetime
import errno
import functools
import hashlib
import json
import lzma
import os
import shutil
import socket
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

from common.addresses import is_remote, last_part, shown
from common.errors import UserError
from common.json_files import read_json, regular
from common.remote_files import download

MAX_EXPANSION = 1000  # what an archive may unpack to, times its size: a bomb must not fill the disk
SECONDS_TO_WAIT = 6 * 3600  # for another process that makes what this one needs; then it is taken to hang
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system without locks, as Lustre may be mounted
MAX_NAME_BYTES = 255  # of Linux's file systems
LINK = "a link or device"
UNFINISHED = ".unfinished"  # how the names of temporary folders end
# gzip and bz2 report damage as OSError, zipfile what it cannot read, encrypted members among it, as RuntimeError.
DAMAGED = (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, for libraries that open files by name; becomes `path` when the block succeeds.

    On an error it is removed, and a file that was at `path` before stays as it was.
    """
    path = Path(path)
    # Its own folder, made safely unique; mkstemp would fix the permissions to 0600.
    with _temporary_folder_beside(path) as folder:
        temporary = Path(folder, path.name)
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
    """An empty folder to fill, which takes the place of `folder` when the block succeeds; see `atomic_path`."""
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_folder_beside(folder) as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        yield new
        for path in [*new.rglob("*"), new]:
            _sync(path)
        if folder.exists():
            os.replace(folder, Path(temporary, "old"))
        os.replace(new, folder)
    _sync(folder.parent)


def _temporary_folder_beside(path: Path) -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left of atomic files and folders of this name, which nobody may be writing now."""
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
def locked(path: Path, waiting: str | None = None, remedy: str = "wait until it ends") -> Iterator[None]:
    """Of the processes that lock the file `path`, one at a time is inside. The file stays, and names the last of them.

    The kernel frees the lock when its owner ends, whatever it dies of. Where the file system has no locks, a warning
    says so.

    Args:
        waiting: where another process is inside, print this on stderr (nothing if empty) and wait, for as long as
            SECONDS_TO_WAIT; None: do not wait.
        remedy: what to do where another process is inside.

    Raises:
        UserError: another process is inside, by its host, its number and its command.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, fallback_to_soft=False)  # a file that locks by being there would outlive its owner
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if waiting is None:
                raise
            if waiting:
                print(waiting, file=sys.stderr, flush=True)
            lock.acquire(timeout=SECONDS_TO_WAIT, poll_interval=0.1)
        with contextlib.suppress(OSError):  # a full disk does not unlock it
            since = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
            path.write_text(f"{Path(sys.argv[0]).name}, process {os.getpid()} on {socket.gethostname()}, since {since}")
    except Timeout as error:
        owner = path.read_text(encoding="utf-8", errors="replace") or "another process"
        raise UserError(f"{path.parent} is in use by {owner}", remedy) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        told = f"warning: {path.parent} cannot be locked ({error.strerror}); start no second command there"
        print(told, file=sys.stderr, flush=True)
    try:
        yield
    finally:
        lock.release()


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_path(
    url_or_path: str | os.PathLike, cache_dir: str | os.PathLike, *, name: str | None = None, progress: bool = True
) -> Path:
    """The local path of a file given by https://, http:// or s3:// address, or by path; downloaded at most once.

    A local file is returned as it is. A remote one is in `cache_dir` as `name`, or else as the first 12 digits of
    its address's SHA-256, a hyphen and the address's last part; NAME.json beside it records url, etag, bytes and
    sha256. Several processes may ask for the same file: one downloads, the others wait. Killed at any moment, the next
    call resumes with the bytes in `.NAME.KEY.part`. `progress` is a bar on stderr, when that is a terminal.
    """
    address = os.fspath(url_or_path)
    if not is_remote(address):
        path = Path(address).expanduser()
        if not path.exists():
            raise UserError(f"{path}: no such file", "check the path")
        return path
    key = hashlib.sha256(address.encode()).hexdigest()
    target = Path(cache_dir).expanduser() / (name or f"{key[:12]}-{last_part(address)}")
    record_file = target.with_name(f"{target.name}.json")
    lock = target.with_name(f".{target.name}.lock")
    with locked(lock, f"{shown(address)}: another process is downloading it; waiting"):
        if _is_whole(target, record_file, key):
            return target
        # The partial file's note knows the address without its query; the key tells queries apart.
        partial = target.with_name(f".{target.name}.{key[:12]}.part")
        etag = download(address, partial, progress=progress, label=target.name)
        record = {"url": shown(address), "address_sha256": key, "etag": etag}
        record |= {"bytes": partial.stat().st_size, "sha256": sha256_of(partial)}
        # An older file must not be taken for the one that the record describes.
        target.unlink(missing_ok=True)
        with atomic_write(record_file) as file:
            json.dump(record, file, indent=1)
        os.replace(partial, target)
        _sync(target.parent)
        partial.with_name(f"{partial.name}.json").unlink(missing_ok=True)
    return target


def _is_whole(target: Path, record_file: Path, key: str) -> bool:
    try:
        record = read_json(record_file, "record of a download", "remove it")
        return record["address_sha256"] == key and record["bytes"] == target.stat().st_size
    except (UserError, FileNotFoundError, KeyError):
        return False


def unpack(
    archive: str | os.PathLike,
    destination: str | os.PathLike,
    leave_out: Callable[[str, str], bool] = lambda member, problem: False,
) -> None:
    """Unpack zip or tar (.gz, .bz2, .xz) into a folder, which appears whole or not at all, in place of an older one.

    Args:
        leave_out: whether to go on without a member, of this path and with this problem, which is empty if there is
            none so far.

    Raises:
        UserError: it is no archive, or cut short, or a member is absolute or outside of the folder; or one that is not
            to be left out is damaged, encrypted, a link or a device, or has another's name.
    """
    archive, member = Path(archive), ""
    left = max(MAX_EXPANSION * archive.stat().st_size, 2**20)
    with atomic_folder(destination) as folder:
        try:
            for member, is_file, open_member in _members(archive):
                path = PurePosixPath(member.replace("\\", "/"))
                is_drive = member[1:2] == ":"
                if not path.parts or path.is_absolute() or ".." in path.parts or is_drive or "\0" in member:
                    raise UserError(f"{archive}: {member!r}: the member's path leaves the folder", "not unpacked")
                problem = "" if is_file else LINK
                if leave_out(member, problem):
                    continue
                problem = problem or _unpack_member(open_member, folder / path, left)
                if problem and not leave_out(member, problem):
                    raise UserError(f"{archive}: {member!r}: {problem}", "get or make the archive again")
                left -= 0 if problem else (folder / path).stat().st_size
                if left < 0:
                    raise UserError(f"{archive}: unpacks to {MAX_EXPANSION:,} times its size", "not unpacked")
        except DAMAGED as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's error, not the archive's
                raise
            what = "not an archive (zip, tar, tar.gz, tar.bz2), or cut short"
            where = f"{member!r}: damaged ({error})" if member else what
            raise UserError(f"{archive}: {where}", "get the archive again") from error


def _unpack_member(open_member: Callable[[], IO[bytes]], path: Path, most: int) -> str:
    """Write no more than a block beyond `most` bytes of a member; returns what is wrong with it, if anything."""
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
        return f"its name has more than {MAX_NAME_BYTES} bytes"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_member() as content, open(path, "xb") as file:
            while file.tell() <= most and (block := content.read(2**20)):
                file.write(block)
    except (FileExistsError, NotADirectoryError):
        return "the name collides with another's"
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        path.unlink(missing_ok=True)
        return f"damaged or encrypted ({error})"
    return ""


def _members(archive: Path) -> Iterator[tuple[str, bool, Callable[[], IO[bytes]]]]:
    """Name, whether it is a file, and a function that opens it, of every member that is no folder, in order."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if not info.is_dir():
                    is_file = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                    yield info.filename, is_file, functools.partial(file.open, info)
        return
    with tarfile.open(archive) as file:
        for info in file:
            if not info.isdir():
                yield info.name, info.isreg(), functools.partial(file.extractfile, info)
