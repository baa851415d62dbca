"""docs/troubleshooting.md quotes this project's messages as the sources have them, and its commands start what exists.

A row's first cell quotes messages; those followed by a name in parentheses are of that software, all others ours.
"""

import ast
import re

import pytest
from paths import ROOT
from script_runs import SCRIPTS, settings_of

OTHERS = {"CUDA", "Docker", "HDF5", "Linux", "NCCL", "Nsight Compute", "PyTorch", "Triton", "torchrun"}
OF_OTHERS = re.compile(r"(?:`[^`]+`, )*`[^`]+` \(((?:[A-Z]|torchrun)[\w ,]*)\)")
COMMAND = re.compile(r"`((?:[A-Z][A-Z0-9_]*=\S* )*)(?:bash|python3) ([\w/]+\.(?:sh|py))[^`]*`")
FOLDERS = ("common", "data", "kernels", "models", "pretrained", "scripts", "tasks", "training")
OF_PYTHON = {"BERT_PREP_WORKING_DIR", "CUDA_LAUNCH_BLOCKING"}


def cells(text):
    """The first and the last cell of each row of the page's tables, without heads and rules."""
    rows = re.findall(r"^\| (.*?) \| .* \| (.*?) \|$", text, re.MULTILINE)
    return [row for row in rows if row[0] not in ("message", "what you see")]


def quoted(cell):
    """The messages of ours that a cell quotes, and whose the others are."""
    owners = {owner for found in OF_OTHERS.findall(cell) for owner in found.split(", ")}
    return re.findall(r"`([^`]+)`", OF_OTHERS.sub("", cell)), owners


def strings():
    """Every string of the sources, with a mark where something is filled in."""
    for path in (*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in ROOT.glob(f"{folder}/**/*.py"))):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
    for path in (*SCRIPTS, *ROOT.glob("docker/*.sh")):
        yield from path.read_text("utf-8").splitlines()


def is_printed(message, texts):
    """Whether some string has all pieces of a message, in their order; `...` stands for anything."""
    pieces = [re.escape(piece.strip()) for piece in message.split("...") if piece.strip()]
    return any(re.search(".*".join(pieces), text, re.DOTALL) for text in texts)


PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
OURS = sorted({message for cell, _ in cells(PAGE) for message in quoted(cell)[0]})
COMMANDS = sorted({match.groups() for _, cell in cells(PAGE) for match in COMMAND.finditer(cell)})


@pytest.fixture(scope="module")
def texts():
    return tuple(strings())


@pytest.mark.parametrize("message", OURS)
def test_messages_are_quoted_as_they_are_printed(message, texts):
    assert is_printed(message, texts)


def test_other_messages_name_their_software():
    assert set().union(*(quoted(cell)[1] for cell, _ in cells(PAGE))) == OTHERS
    assert len(OURS) > 10


@pytest.mark.parametrize(("variables", "script"), COMMANDS)
def test_commands_start_what_exists(variables, script):
    assert (ROOT / script).is_file()
    known = OF_PYTHON.union(*map(settings_of, (script, "scripts/environment.sh", "scripts/launch.sh")))
    assert set(re.findall(r"(\w+)=", variables)) <= known


def test_planted_faults_are_found(texts):
    (row,) = cells("| `a ... b` (PyTorch, NCCL), or `c` | why | `NO=1 bash scripts/absent.sh --flag` |")
    assert quoted(row[0]) == (["c"], {"PyTorch", "NCCL"})
    assert COMMAND.findall(row[1]) == [("NO=1 ", "scripts/absent.sh")]
    assert is_printed("the vocabulary ... has ... entries", texts)
    assert not is_printed("the vocabulary ... has ... words", texts)
    assert not is_printed("entries ... the vocabulary", ["the vocabulary has entries"])
