"""common/json_files.py: every way in which a file is not the JSON that it should be is a sentence."""

import os

import pytest

from common.errors import UserError
from common.json_files import mismatch, parse_json, read_json


@pytest.mark.parametrize(
    ("content", "expected", "value"),
    [
        (b'{"a": "\xc3\xa9"}', dict, {"a": "é"}),
        (b'\xef\xbb\xbf{"a": 1}', dict, {"a": 1}),
        (b"[1, null]\n", list, [1, None]),
        (b"3", object, 3),
    ],
)
def test_what_is_read(tmp_path, content, expected, value):
    (tmp_path / "x.json").write_bytes(content)
    assert read_json(tmp_path / "x.json", "model configuration", "correct it", expected) == value


@pytest.mark.parametrize(
    ("content", "expected", "finding"),
    [
        (b'{"a": "caf\xe9"}', dict, "is not UTF-8 (byte 10)"),
        (b'{"a":\n  b}', dict, "is not JSON (line 2, column 3: Expecting value)"),
        (b"\xef\xbb\xbf \n", dict, "is empty"),
        (b"[" * 200_000, dict, "is JSON that cannot be read ("),
        (b"9" * 5_000, object, "is JSON that cannot be read ("),
        (b"[1]", dict, "holds no JSON object"),
        (b"{}", list, "holds no JSON list"),
    ],
)
def test_what_is_refused(tmp_path, content, expected, finding):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_json(path, "model configuration", "correct it", expected)
    (problem,) = raised.value.problems
    assert problem.problem.startswith(f"{path} is no model configuration: it {finding}")
    assert problem.remedy == "correct it"


def test_files_that_are_not_there_and_folders(tmp_path):
    for path, reason in ((tmp_path / "x.json", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError) as raised:
            read_json(path, "model configuration", "check --config_file")
        assert raised.value.sentences == [
            f"The model configuration {path} cannot be read ({reason}); check --config_file."
        ]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)], ids=["pipe", "device"])
def test_what_would_wait_or_never_end_is_not_opened(tmp_path, make):
    make(tmp_path / "x.json")
    with pytest.raises(UserError, match=r"cannot be read \(it is a pipe, a socket or a device\); correct it"):
        read_json(tmp_path / "x.json", "model configuration", "correct it")


@pytest.mark.parametrize("content", ["[" * 200_000, b"9" * 5_000, "{", b"\xff"])
def test_everything_wrong_with_json_is_a_value_error(content):
    with pytest.raises(ValueError, match=r"too deep|digits|column|decode"):
        parse_json(content)


FORM = {"step": int, "rate": float, "note": (str, type(None)), "groups": [{"ids": [int]}], "counts": {str: int}}
VALUE = {"step": 3, "rate": 0.5, "note": None, "groups": [{"ids": [1, 2], "more": 1}], "counts": {"rows": 2}, "new": 1}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, None),
        ({"note": "x"}, None),
        ({"note": 1.5}, "note is 1.5, not str"),
        ({"step": True}, "step is True, not int"),
        ({"step": [10**5000]}, "step is of the type list, not int"),
        ({"rate": 1}, "rate is of the type int, not float"),
        ({"groups": [{"ids": [1, "2"]}]}, "groups.0.ids.1 is '2', not int"),
        ({"groups": [{}]}, "groups.0.ids is missing"),
        ({"groups": {}}, "groups is of the type dict, not list"),
        ({"counts": {"rows": None}}, "counts.rows is None, not int"),
        ({"counts": {1: 1}}, "a key of counts is of the type int, not str"),
        ({"note": {"a" * 100: 1}}, "note is of the type dict, not str"),
    ],
)
def test_where_values_differ_from_a_form(change, found):
    assert mismatch({**VALUE, **change}, FORM) == found


def test_the_whole_may_be_of_another_type():
    assert mismatch([], FORM) == "it is of the type list, not dict"
