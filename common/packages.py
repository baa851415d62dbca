"""What a command says where a package that it needs is not installed: a sentence that names an environment.

A command calls this before its imports, so this module needs nothing but a Python of any age.
"""

import shlex
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)


def explain_missing() -> None:
    """From now on, a package that is not installed ends this process with a sentence and status 1.

    A Python that is too old for this project ends it at once.
    """
    if sys.version_info < OLDEST:
        has, needs = (".".join(map(str, version)) for version in (sys.version_info[:2], OLDEST))
        make = f"PYTHON=python{needs} {project_command('bash', 'scripts/quickstart.sh')}"
        remedy = _activation() or f"let a newer one make .venv: {make}"
        sys.exit(f"error: {sys.executable} is Python {has}, and this project needs {needs} or later; {remedy}.")
    sys.excepthook = _explain


def _explain(kind, error, traceback) -> None:
    if not issubclass(kind, ModuleNotFoundError) or not _is_required((error.name or "").partition(".")[0]):
        sys.__excepthook__(kind, error, traceback)
        return
    make = project_command("bash", "scripts/quickstart.sh")
    remedy = _activation() or f"install the packages: {install_command()}; or let this make .venv: {make}"
    print(f"error: the package {error.name} is not installed for {sys.executable}; {remedy}.", file=sys.stderr)


def _activation() -> str:
    """How to activate the project's environment; empty where there is none, or where it is what runs this."""
    folder = PROJECT / ".venv"
    is_other = folder.is_dir() and Path(sys.prefix).resolve() != folder.resolve()
    return f"activate the project's environment: {project_command('source', '.venv/bin/activate')}" if is_other else ""


def project_command(program: str, file: str, *arguments: str) -> str:
    """A command to paste in any folder, which starts a file of this project with a program; `python3`: this one."""
    program = sys.executable if program == "python3" else program
    return " ".join(map(shlex.quote, (program, str(PROJECT / file), *arguments)))


def install_command(requirements: str = "requirements.txt") -> str:
    """What installs the packages of this project, or of another of its lists, for the Python that runs this."""
    words = (sys.executable, "-m", "pip", "install", "--requirement", str(PROJECT / requirements))
    return " ".join(map(shlex.quote, words))


def _is_required(package: str) -> bool:
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return package in [line.partition("==")[0].strip().replace("-", "_") for line in lines]
