"""Texts as editors save them, and what is no text."""

import os

import pytest

from common.errors import UserError
from common.text_files import read_text


@pytest.mark.parametrize("content", ["a\nb\n", "\ufeffa\nb\n", "a\r\nb\r\n", "\ufeffa\rb\r"])
def test_marks_and_line_ends_are_all_the_same(tmp_path, content):
    (tmp_path / "text").write_bytes(content.encode())
    assert read_text(tmp_path / "text", "list", "give another") == "a\nb\n"


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "text").write_bytes("a\r\nnaïve".encode("latin-1"))
    with pytest.raises(UserError, match=r"The list .*text is not UTF-8 text \(byte 5, line 2\); give another\."):
        read_text(tmp_path / "text", "list", "give another")
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent", ".", "pipe"):
        with pytest.raises(UserError, match=r"The list .* cannot be read \(.*\); give another\."):
            read_text(tmp_path / name, "list", "give another")
