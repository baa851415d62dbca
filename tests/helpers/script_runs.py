"""Starts the shell scripts as users do, with settings that do not depend on who runs the tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from paths import ROOT

PATTERNS = ("*.sh", "scripts/*.sh", "scripts/*.slurm", "data/*.sh", ".ci/run")
SCRIPTS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
SETTING = re.compile(r"\b([A-Z][A-Z0-9_]*)=\$\{\1:-")
BIN = Path(sys.executable).parent


def settings_of(script):
    """The variables that a script takes from the environment."""
    return set(SETTING.findall((ROOT / script).read_text(encoding="utf-8")))


def environment(**variables):
    """What runs the tests, with these variables, and no others of the scripts' own."""
    taken = {*set().union(*map(settings_of, SCRIPTS)), "BERT_PREP_WORKING_DIR"}
    inherited = {name: value for name, value in os.environ.items() if name not in taken}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    inherited |= {"PATH": path, "INSTALL": "0", "OMP_NUM_THREADS": "1"}
    return inherited | {name: str(value) for name, value in variables.items()}


def run(script, *arguments, cwd, **variables):
    """Starts a script with these variables and waits for its end."""
    command = ["bash", str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(**variables), capture_output=True, text=True, check=False)


def copy_tree(target):
    """Copy what git would check out, and what is not committed yet."""
    listed = subprocess.check_output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def shown_settings(script, cwd, **variables):
    """What --help says of the configuration."""
    shown = run(script, "--help", cwd=cwd, **variables)
    assert (shown.returncode, shown.stderr) == (0, "")
    return dict(re.findall(r"^  (\w+)=(.*)$", shown.stdout, re.MULTILINE))


def python_that_only(folder, checks="true", trains="true"):
    """Variables with a python3 that does these lines of shell in place of run_*.py, which write to `folder`."""
    (folder / "bin").mkdir()
    python3 = folder / "bin" / "python3"
    lines = [
        "#!/bin/bash",
        'case "$*" in',
        "*importlib* | *settings_check.py*) ;;",
        f"*--check_only*) {checks} ;;",
        f"*) {trains} ;;",
        "esac",
    ]
    python3.write_text("\n".join(lines) + "\n", encoding="utf-8")
    python3.chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "NUM_GPUS": 1, "OUTPUT_DIR": folder, "PHASE1_STEPS": 7}
