"""A command whose packages are not installed names an environment that has them, in words to paste."""

import ast
import shlex
import subprocess
import sys

import pytest
from paths import ROOT

from common import packages

COMMANDS = [
    path
    for path in (*ROOT.glob("*.py"), *ROOT.glob("[!t.]*/*.py"), ROOT / "tasks" / "__main__.py")
    if "run_main(main)" in path.read_text("utf-8") and path.name != "check_environment.py"  # which reports them itself
]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_every_command_asks_for_the_sentence_before_it_imports_what_may_be_missing(path):
    for node in ast.parse(path.read_text("utf-8")).body:
        if "explain_missing()" in ast.unparse(node):
            assert ast.unparse(node.test) == "__name__ == '__main__'"
            return
        names = [node.module] if isinstance(node, ast.ImportFrom) else [n.name for n in getattr(node, "names", ())]
        assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_a_python_without_packages_ends_with_a_sentence(tmp_path):
    command = [sys.executable, "-S", "-E", ROOT / "benchmark" / "summarize.py", "results/pretraining/dllogger.json"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert line.startswith(f"error: the package tqdm is not installed for {sys.executable}; ")
    assert "pip install" in line or "source" in line


def said(capsys, error):
    packages._explain(type(error), error, None)
    return capsys.readouterr().err


def test_the_remedy_is_the_environment_that_is_there_or_makes_one(monkeypatch, tmp_path, capsys):
    project = tmp_path / "a folder"
    project.mkdir()
    monkeypatch.setattr(packages, "PROJECT", project)
    (project / "requirements.txt").write_text("google-crc32c==1.9.0   # sums\ntorch==2.13.0\n", encoding="utf-8")
    missing = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    requirements, script = (shlex.quote(f"{project}/{name}") for name in ("requirements.txt", "scripts/quickstart.sh"))
    line = said(capsys, missing)
    assert f"{sys.executable} -m pip install --requirement {requirements}; " in line
    assert f"bash {script}." in line
    (project / ".venv").mkdir()
    activate = shlex.quote(f"{project}/.venv/bin/activate")
    assert said(capsys, missing).endswith(f"; activate the project's environment: source {activate}.\n")
    assert said(capsys, ModuleNotFoundError(name="google_crc32c")).startswith("error: the package google_crc32c")
    monkeypatch.setattr(sys, "prefix", str(project / ".venv"))  # active, and incomplete
    assert "pip install" in said(capsys, missing)


@pytest.mark.parametrize("error", [ModuleNotFoundError(name="tasks.nothing"), ImportError("broken"), KeyError(1)])
def test_other_errors_are_shown_as_ever(error, capsys):
    assert said(capsys, error).startswith(("ModuleNotFoundError", "ImportError", "KeyError"))


def test_an_old_python_is_told_which_one_is_needed(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    monkeypatch.setattr(packages, "PROJECT", tmp_path)
    with pytest.raises(
        SystemExit, match=r"is Python 3\.9, and this project needs 3\.11 or later; .*PYTHON=python3\.11"
    ):
        packages.explain_missing()
