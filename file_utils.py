"""Files that are whole or absent.

A long run is killed sooner or later, and a half-written file that looks like a whole one costs more than the run. So
everything is written under a temporary name in the target's own folder (a rename is atomic only within a file system),
synced, and renamed; whatever was there before stays until that moment. Downloads and unpacked archives keep the same
promise: a name in the cache is a whole, checked file, a destination folder is a whole archive.
"""

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import stat
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from filelock import FileLock, Timeout

from common.errors import UserError
from common.json_files import read_json
from common.remote_files import download, is_remote, last_part, shown


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, for libraries that open files by name; becomes `path` when the block succeeds.

    On an error it is removed, and a file that was at `path` before stays as it was.
    """
    path = Path(path)
    # Its own folder, made safely unique; mkstemp would fix the permissions to 0600.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    _sync_folder(path.parent)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w", **open_kwargs: Any) -> Iterator[IO]:
    """An open file that becomes `path` when the block succeeds; see `atomic_path`. Text is UTF-8 by default."""
    if "b" not in mode:
        open_kwargs.setdefault("encoding", "utf-8")
    with atomic_path(path) as temporary, open(temporary, mode, **open_kwargs) as file:
        yield file


def _sync_folder(folder: Path) -> None:
    # The rename itself is durable only once the folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


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
    call goes on from the bytes in `.NAME.KEY.part`.

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
    name = name or f"{key[:12]}-{last_part(address)}"
    if PurePosixPath(name).name != name:
        raise UserError(f"{name!r}: a name in the cache must be a plain file name")
    folder = Path(cache_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    with _locked(folder / f".{name}.lock", f"{shown(address)}: another process is downloading it; waiting"):
        if not _is_whole(target, key, expected):
            _download_to(target, address, key, expected, progress)
    return target


def _local_file(path: Path, expected: str | None) -> Path:
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    if expected and (found := sha256_of(path)) != expected:
        raise UserError(f"{path}: expected SHA-256 {expected}, got {found}; get the file again")
    return path


@contextlib.contextmanager
def _locked(path: Path, message: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(message, file=sys.stderr, flush=True)
        lock.acquire(poll_interval=0.1)
    try:
        yield
    finally:
        lock.release()


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
            f"{shown(address)}: expected SHA-256 {expected}, got {found}; the download was removed: "
            "check the expected sum and start again"
        )
    record = {"url": shown(address), "address_sha256": key, "etag": etag}
    record |= {"bytes": partial.stat().st_size, "sha256": found}
    # An older file must not be taken for the one that the record describes.
    target.unlink(missing_ok=True)
    with atomic_write(_record_path(target)) as file:
        json.dump(record, file, indent=1)
    os.replace(partial, target)
    _sync_folder(target.parent)
    note.unlink(missing_ok=True)


def unpack(
    archive: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    max_bytes: int = 2**40,
    max_ratio: float = 1000.0,
    overwrite: bool = False,
) -> list[Path]:
    """Unpack zip, tar (.gz, .bz2, .xz) or a single .gz or .bz2 file; the destination appears whole or not at all.

    Args:
        destination: a folder; refused when it exists and is not empty, unless `overwrite`, which replaces it.
        max_bytes: refuse to write more than this in all.
        max_ratio: refuse to write more than this times the archive's size (and at least 1 MiB is always allowed).

    Returns:
        The unpacked files, sorted.

    Raises:
        UserError: not an archive, damaged, encrypted, larger than allowed, or with a member that is absolute, leaves
            the folder, is a link or a device, or has another's name; nothing is left behind.
    """
    archive, destination = Path(archive), Path(destination)
    if not archive.is_file():
        raise UserError(f"{archive}: no such file; check the path")
    occupied = destination.exists() and (not destination.is_dir() or any(destination.iterdir()))
    if occupied and not overwrite:
        raise UserError(f"{destination}: exists and is not empty; choose another folder, or overwrite it")
    destination.parent.mkdir(parents=True, exist_ok=True)
    limit = min(max_bytes, int(max(archive.stat().st_size * max_ratio, 2**20)))
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        _unpack_into(archive, folder, limit)
        if destination.exists():
            os.replace(destination, Path(temporary) / "old")
        os.replace(folder, destination)
    _sync_folder(destination.parent)
    return sorted(path for path in destination.rglob("*") if path.is_file())


def _unpack_into(archive: Path, folder: Path, limit: int) -> None:
    member, written, seen = "", 0, set()
    try:
        for member, content in _members(archive):
            target = _member_path(archive, member, folder)
            if str(target).casefold() in seen or any(str(p).casefold() in seen for p in target.parents):
                raise UserError(f"{archive}: {member!r}: the name collides with another member's; not unpacked")
            seen.add(str(target).casefold())
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as file:
                while block := content.read(2**18):
                    written += len(block)
                    if written > limit:
                        raise UserError(f"{archive}: {member!r}: unpacks to more than {limit:,} bytes; not unpacked")
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
    except (FileExistsError, IsADirectoryError) as error:
        raise UserError(f"{archive}: {member!r}: the name collides with another member's; not unpacked") from error
    except (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError) as error:
        raise UserError(f"{archive}: {member!r}: damaged ({error}); get the archive again") from error
    except OSError as error:
        if error.errno is None or isinstance(error, gzip.BadGzipFile):  # bz2 and gzip report damage so
            raise UserError(f"{archive}: {member!r}: damaged ({error}); get the archive again") from error
        raise UserError(f"{archive}: {member!r}: cannot be unpacked ({error.strerror})") from error


def _member_path(archive: Path, member: str, folder: Path) -> Path:
    parts = PurePosixPath(member.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in member:
        raise UserError(f"{archive}: {member!r}: the member's path leaves the folder; not unpacked")
    return folder.joinpath(*parts)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, open content) of every regular file, in order; raises UserError for what is neither file nor folder."""
    with open(archive, "rb") as file:
        start = file.read(6)
    if zipfile.is_zipfile(archive) and not start.startswith((b"BZh", b"\x1f\x8b")):
        yield from _zip_members(archive)
    elif _is_tar(archive):
        yield from _tar_members(archive)
    elif start.startswith((b"BZh", b"\x1f\x8b")):
        with (bz2.open if start.startswith(b"BZh") else gzip.open)(archive, "rb") as content:
            yield archive.stem, content
    else:
        raise UserError(
            f"{archive}: not an archive (zip, tar, tar.gz, tar.bz2, gz, bz2), or cut short; it starts with {start!r}"
        )


def _is_tar(archive: Path) -> bool:
    try:
        return tarfile.is_tarfile(archive)
    except (EOFError, OSError, zlib.error):
        # Damage in the first block; the name tells what it should have been.
        return archive.name.endswith((".tar", ".tgz", ".tar.gz", ".tar.bz2"))


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.flag_bits & 1:
                raise UserError(f"{archive}: {info.filename!r}: encrypted; decrypt the archive first")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{archive}: {info.filename!r}: a link or device; not unpacked")
            _member_path(archive, info.filename, Path())
            if not info.is_dir():
                with file.open(info) as content:
                    yield info.filename, content


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as file:
        for info in file:
            if not (info.isreg() or info.isdir()):
                raise UserError(f"{archive}: {info.name!r}: a link or device; not unpacked")
            if info.isreg():
                yield info.name, file.extractfile(info)
