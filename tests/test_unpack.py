"""Archives made with the standard library, honest and hostile: the folder is the whole archive or is not there."""

import io
import os
import stat
import tarfile
import zipfile

import pytest

import file_utils
from common.errors import UserError
from file_utils import unpack

FILES = {"a.txt": b"one", "folder/b.txt": b"two" * 1000, "folder/deep/c": b""}


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def make(path, members=None):
    members = FILES.items() if members is None else members
    if path.suffix == ".zip":
        make_zip(path, members)
    else:
        make_tar(path, members, {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2"}[path.suffix])
    return path


def refused(tmp_path, archive, match):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=match) as error:
        unpack(archive, tmp_path / "out")
    assert str(archive) in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2"])
def test_archives(tmp_path, name):
    out = tmp_path / "out"
    unpack(make(tmp_path / name), out)
    assert {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()} == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", name]


@pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
@pytest.mark.parametrize("member", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_leaving_the_folder(tmp_path, archive, member):
    refused(tmp_path, make(tmp_path / archive, [("good", b"1"), (member, b"2")]), "leaves the folder")


@pytest.mark.parametrize("members", [["a", "a/b"], ["a/b", "a"], ["a", "./a"]])
@pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
def test_colliding_names(tmp_path, archive, members):
    refused(tmp_path, make(tmp_path / archive, [(name, b"1") for name in members]), "collides")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path, kind):
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        file.addfile(info)
    refused(tmp_path, tmp_path / "x.tar", "link or device")


def test_link_in_a_zip(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    refused(tmp_path, tmp_path / "x.zip", "link or device")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.bz2"])
def test_absurd_expansion(tmp_path, monkeypatch, name):
    archive = make(tmp_path / name, [("few", b"1"), ("zeros", bytes(5_000_000))])
    monkeypatch.setattr(file_utils, "MAX_EXPANSION", 100)
    refused(tmp_path, archive, "unpacks to 100 times its size")
    monkeypatch.setattr(file_utils, "MAX_EXPANSION", 10**9)
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out" / "zeros").stat().st_size == 5_000_000


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_short(tmp_path, name, share):
    archive = make(tmp_path / name, [("a", os.urandom(300_000)), ("b", os.urandom(300_000))])
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    refused(tmp_path, archive, "damaged|cut short")


def test_flipped_byte_in_a_zip(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", b"one two three")
    archive.write_bytes(archive.read_bytes().replace(b"two", b"twx"))
    refused(tmp_path, archive, "'a': damaged")


def test_encrypted_zip(tmp_path):
    archive = make(tmp_path / "x.zip", [("a", b"1")])
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # general purpose flag, bit 0
    archive.write_bytes(content)
    refused(tmp_path, archive, "'a': damaged .*encrypted")


def test_no_archive(tmp_path):
    (tmp_path / "x.zip").write_text("<html>")
    refused(tmp_path, tmp_path / "x.zip", "not an archive")


def test_what_was_there_is_replaced_by_a_whole_archive_only(tmp_path):
    archive = make(tmp_path / "x.zip")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    refused(tmp_path, make(tmp_path / "y.zip", [("a", b"1"), ("../b", b"2")]), "leaves the folder")
    unpack(archive, out)
    assert not (out / "mine").exists()
    assert (out / "a.txt").read_bytes() == b"one"


@pytest.mark.parametrize("name", ["x.zip", "x.tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_are_left_out_leave_the_others(tmp_path, name):
    """The kinds that end an archive otherwise, and one that is not wanted; but none that climbs out."""
    long = "l" * 256
    archive = make(tmp_path / name, [("Ab: c", b"1"), ("big", bytes(9)), ("Ab: c", b"2"), (long, b"3"), ("z", b"4")])
    told = []

    def leave_out(member, problem):
        told.append((member, problem))
        return bool(problem) or member == "big"

    unpack(archive, tmp_path / "out", leave_out)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {"Ab: c": b"1", "z": b"4"}
    assert [member for member, problem in told if problem] == ["Ab: c", long]


def test_a_zero_byte_in_a_name(tmp_path):
    info = tarfile.TarInfo("a")
    info.pax_headers = {"path": "a\0b"}
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        file.addfile(info)
    refused(tmp_path, tmp_path / "x.tar", "leaves the folder")


def test_a_damaged_member_of_a_zip_is_left_out_alone(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in (("a", b"one"), ("b", b"two"), ("c", b"three")):
            file.writestr(name, content)
    archive.write_bytes(archive.read_bytes().replace(b"two", b"twx"))
    unpack(archive, tmp_path / "out", lambda member, problem: "damaged" in problem)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {"a": b"one", "c": b"three"}
