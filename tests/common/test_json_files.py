"""common/json_files.py: every way in which a file is not the JSON that it should be is a sentence."""

import pytest

from common.errors import UserError
from common.json_files import read_json


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
