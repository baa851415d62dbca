"""Files are whole or absent."""

import os
import stat

import pytest

from file_utils import atomic_path, atomic_write


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
