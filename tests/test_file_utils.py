"""Files are whole or absent."""

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys

import pytest
from paths import ROOT

import file_utils
from common.errors import UserError
from file_utils import atomic_folder, atomic_path, atomic_write, locked, remove_leftovers


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("existing", [None, "old"])
def test_write(tmp_path, existing):
    target = tmp_path / "file.txt"
    if existing:
        target.write_text(existing, encoding="utf-8")
    with atomic_write(target) as file:
        file.write("né\n")
        file.flush()
        assert (target.read_text(encoding="utf-8") if target.exists() else None) == existing
    assert target.read_bytes() == "né\n".encode()
    assert names(tmp_path) == ["file.txt"]


def test_write_binary_and_by_string_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_write("file.bin", "wb") as file:
        file.write(b"\xff\x00")
    assert (tmp_path / "file.bin").read_bytes() == b"\xff\x00"


@pytest.mark.parametrize("existing", [None, "old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_keeps_what_was_there(tmp_path, existing, error):
    target = tmp_path / "file.txt"
    if existing:
        target.write_text(existing, encoding="utf-8")

    def fail_writing():
        with atomic_write(target) as file:
            file.write("half")
            raise error

    def fail_by_name():
        with atomic_path(target) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise error

    for fail in (fail_writing, fail_by_name):
        with pytest.raises(error):
            fail()
    assert names(tmp_path) == (["file.txt"] if existing else [])
    assert not existing or target.read_text(encoding="utf-8") == existing


def test_path_is_beside_the_target_under_its_own_name(tmp_path):
    with atomic_path(tmp_path / "weights.pt") as temporary:
        temporary.write_bytes(b"all")
        assert temporary.name == "weights.pt"
        assert temporary.stat().st_dev == tmp_path.stat().st_dev
        assert tmp_path in temporary.parents
        assert not (tmp_path / "weights.pt").exists()
    assert (tmp_path / "weights.pt").read_bytes() == b"all"
    assert names(tmp_path) == ["weights.pt"]


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "file") as file:
            file.write("text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Synced, then renamed, then the folder synced: the order that survives a power cut."""
    target, calls = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), replace(*paths)))
    with atomic_write(target) as file:
        file.write("text")
    assert calls[0].startswith(f"{tmp_path}/.file.")
    assert calls[1:] == ["rename", str(tmp_path)]


@pytest.mark.parametrize("existing", [True, False])
def test_a_folder_is_replaced_by_a_whole_one_only(tmp_path, existing):
    target = tmp_path / "deep" / "target"
    if existing:
        target.mkdir(parents=True)
        (target / "old").touch()
    with pytest.raises(FileNotFoundError), atomic_folder(target) as new:
        (new / "no folder" / "file").touch()
    assert names(tmp_path) == (["deep", "old", "target"] if existing else ["deep"])
    with atomic_folder(target) as new:
        (new / "file").touch()
    assert names(tmp_path) == ["deep", "file", "target"]


def test_leftovers_of_killed_processes(tmp_path):
    writers = [atomic_path(tmp_path / "a.txt"), atomic_folder(tmp_path / "b")]
    for writer in writers:
        writer.__enter__()
    assert len(names(tmp_path)) == 3
    remove_leftovers(tmp_path, "b")
    assert len(names(tmp_path)) == 1
    (tmp_path / ".mine").mkdir()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".mine"]


def test_one_at_a_time_and_a_killed_one_does_not_count(tmp_path, capsys):
    lock = tmp_path / "x.lock"
    hold = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\nfrom file_utils import locked\n"
        f"with locked(Path({str(lock)!r})):\n    print('held', flush=True); time.sleep(float(sys.argv[1]))"
    )

    def holder(seconds):
        process = subprocess.Popen([sys.executable, "-c", hold, str(seconds)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "held\n"
        return process

    killed = holder(60)
    owner = rf"{tmp_path} is in use by -c, process {killed.pid} on {socket.gethostname()}, since 20.*; wait"
    with pytest.raises(UserError, match=owner), locked(lock):
        pass
    with locked(tmp_path / "y.lock"):
        pass
    killed.kill()
    killed.communicate()
    with locked(lock):
        pass
    waited_for = holder(0.5)
    with locked(lock, "waiting"):
        assert capsys.readouterr().err == "waiting\n"
    waited_for.communicate()


def test_a_wait_for_a_process_that_hangs_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(file_utils, "SECONDS_TO_WAIT", 0.2)
    refused = pytest.raises(UserError, match=f"is in use by .*process {os.getpid()} on")
    with locked(tmp_path / "lock"), refused, locked(tmp_path / "lock", waiting=""):
        pass


def test_a_file_system_without_locks_is_told_of_and_ends_nothing(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "lock"):
        pass
    expected = f"warning: {tmp_path} cannot be locked (No locks available); start no second command there\n"
    assert capsys.readouterr().err == expected
