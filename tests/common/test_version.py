"""The version that logs carry is the one that CHANGELOG.md and CITATION.cff describe."""

import re

import pytest
from paths import ROOT

from common.command_line import CommandLine
from common.version import VERSION


def test_the_changelog_describes_it_first():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## (\S+)", text, re.MULTILINE)[0] == VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_the_citation_names_it():
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.*)$", text, re.MULTILINE) == [f'"{VERSION}"']


def test_commands_print_it(capsys):
    with pytest.raises(SystemExit) as stopped:
        CommandLine("").parse_args(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"{VERSION}\n"
