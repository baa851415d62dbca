"""Every file of a folder is taken, or named with the reason; and no walk ends in a loop or in a pipe."""

import os
import socket
from pathlib import Path, PurePath

import pytest

from data.corpus.text_files import (
    HIDDEN,
    LINKED_TWICE,
    NOT_REGULAR,
    OTHER_KIND,
    UNREADABLE,
    texts_in,
    why_not,
)


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("A book.", encoding="utf-8")


def test_texts_and_what_else_is_there(tmp_path):
    folder = tmp_path / "books"
    taken = ["a.txt", "b/B.TXT", "b/c/D.Txt", "e.f.txt"]
    other = ["README", "g.md", "h.txt.gz", "i.text", "j.txt~", "k.txt.bak"]
    hidden = [".DS_Store", "._a.txt", ".l.txt.swp", "__MACOSX/._a.txt", ".git/m.txt", "$RECYCLE.BIN/n.txt", "~$o.txt"]
    write(folder, *taken, *other, *hidden)
    texts, left_out = texts_in(folder)
    assert texts == {name: folder / name for name in taken}
    assert sorted(left_out[OTHER_KIND]) == sorted(other)
    # A folder is named, not what is in it.
    assert sorted(left_out[HIDDEN]) == sorted({name.partition("/")[0] for name in hidden})
    assert set(left_out) == {OTHER_KIND, HIDDEN}


def test_links_are_followed_once_and_real_folders_keep_their_names(tmp_path):
    folder, elsewhere = tmp_path / "books", tmp_path / "elsewhere"
    write(folder, "real/a.txt", "z.txt")
    write(elsewhere, "b.txt", "deep/c.txt")
    links = {"1 elsewhere": elsewhere, "2 the same": elsewhere, "3 real": folder / "real", "real/up": folder}
    for name, target in {**links, "d.txt": elsewhere / "b.txt", "e.txt": tmp_path / "nowhere"}.items():
        (folder / name).symlink_to(target)
    (elsewhere / "back").symlink_to(elsewhere)
    texts, left_out = texts_in(folder)
    assert list(texts) == ["1 elsewhere/b.txt", "1 elsewhere/deep/c.txt", "d.txt", "real/a.txt", "z.txt"]
    assert {reason: sorted(names) for reason, names in left_out.items()} == {
        LINKED_TWICE: ["1 elsewhere/back", "2 the same", "3 real", "real/up"],
        NOT_REGULAR: ["e.txt"],
    }
    assert list(texts_in(tmp_path / "books" / "1 elsewhere")[0]) == ["b.txt", "deep/c.txt"]


def test_pipes_and_sockets_are_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.txt")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.txt")
        texts, left_out = texts_in(Path(tmp_path))
    assert (texts, left_out) == ({}, {NOT_REGULAR: ["pipe.txt", "socket.txt"]})


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    write(tmp_path, "a.txt", "closed/b.txt")
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    texts, left_out = texts_in(tmp_path)
    assert (list(texts), left_out) == (["a.txt"], {UNREADABLE: ["closed"]})


@pytest.mark.parametrize(("name", "reason"), [("a/B.TXT", None), ("__MACOSX/a.txt", HIDDEN), ("a.txt/b", OTHER_KIND)])
def test_members_of_archives(name, reason):
    assert why_not(PurePath(name)) == reason
