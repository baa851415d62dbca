"""What messages tell people to do can be done: the files, the flags and the variables that they name exist."""

import ast
import re
import shlex

import pytest
from known_flags import known_flags
from paths import ROOT
from script_runs import settings_of

import data.bertPrep
from scripts.data_checks import data_findings
from training.environment.machine_checks import machine_findings

FOLDERS = ("common", "data", "kernels", "models", "pretrained", "scripts", "tasks", "training", "benchmark")
SOURCES = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py"))]
SHELL = [path for pattern in ("*.sh", "scripts/*.sh", "scripts/*.slurm", "data/*.sh") for path in ROOT.glob(pattern)]
OF_OTHERS = {"--shm-size", "--ulimit", "--gpus", "--options", "--cap-add", "--nthreads", "--query-metrics", "--type"}
OF_OTHERS |= {"--do_"}  # what several flags begin with
STARTED = re.compile(r"(?:bash|python3?|sbatch) (?!-)([\w./-]+\.(?:py|sh|slurm))")


def messages(path):
    """The strings of a Python file that are no docstrings, what is filled into them as `{}`."""
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (docstrings | inner):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


def wrong_in(text, flags):
    """Files and flags that a message names and that are not there."""
    files = [name for name in STARTED.findall(text) if not (ROOT / name).is_file()]
    named = set(re.findall(r"(?<![\w{}-])--[a-z][\w-]+", text)) if " " in text.strip() else set()
    return files + sorted(flag for flag in named - OF_OTHERS if not {flag, flag.replace("--no-", "--", 1)} & {*flags})


@pytest.fixture(scope="module")
def flags():
    return known_flags()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_messages_name_files_and_flags_that_exist(path, flags):
    assert [wrong for text in messages(path) for wrong in wrong_in(text, flags)] == []


def test_messages_of_scripts_name_files_that_exist():
    lines = [
        line
        for path in SHELL
        for line in path.read_text("utf-8").splitlines()
        if "problems+=" in line or "echo" in line
    ]
    assert [wrong for line in lines for wrong in wrong_in(line, known_flags()) if not wrong.startswith("--")] == []


def test_planted_faults_are_found(flags):
    assert wrong_in("start bash scripts/absent.sh again", flags) == ["scripts/absent.sh"]
    assert wrong_in("give --no_such_flag 3", flags) == ["--no_such_flag"]
    assert wrong_in("give --max_steps 3, or bash scripts/quickstart.sh", flags) == []


def commands_in(remedy):
    """What stands behind a colon and is a command."""
    for part in re.split(r"; |: ", remedy):
        if "'" in part:
            continue  # a sentence
        words = shlex.split(part.rstrip("."))
        variables = [word.partition("=")[0] for word in words if re.match(r"[A-Z_]+=", word)]
        rest = words[len(variables) :]
        if rest and re.search(r"(^|/)(bash|python[\d.]*)$", rest[0]):
            yield variables, rest


def test_the_remedies_of_the_environments_check_are_commands_that_work(tmp_path):
    facts = {"python": "3.12.1", "other_versions_than_pinned": ["torch 1 (2)"], "gpu_counters_readable": False}
    facts |= {"shared_memory_bytes": 0, "locked_memory_bytes": 0, "profilers": []}
    findings = [*data_findings(tmp_path, None, False), *machine_findings(facts, 2, "ImportError: torch")]
    commands = [command for finding in findings for command in commands_in(finding.remedy)]
    assert len(commands) > 7
    for variables, (program, file, *arguments) in commands:
        if file == "-m":
            assert arguments[0] in ("pip", "nltk.downloader")
            assert program.startswith("/")
            continue
        path = ROOT / file
        assert file == str(path)
        assert path.is_file()
        assert set(variables) <= settings_of(path) | {"BERT_PREP_WORKING_DIR"}
        if path.name == "bertPrep.py":
            assert data.bertPrep.parse_arguments(arguments).action == "download"
