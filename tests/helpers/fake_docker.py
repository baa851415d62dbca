"""Commands docker, nvidia-smi and df that answer as another machine would, and docker writes down how it was called."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from paths import ROOT

# All that the scripts need beside docker. Nothing else is on their PATH, so neither is a docker of this machine.
NEEDED = ("bash", "cat", "chown", "cmp", "dirname", "env", "grep", "head", "id", "mkdir", "rm", "sed", "sort", "tail")
NEEDED += ("tr", "uname")
DOCKER = """#!{python}
import json, os, sys
given = sys.argv[1:]
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(given) + "\\n")
daemon = os.environ["DAEMON"]
if given[0] == "info":
    if daemon:
        print(daemon, file=sys.stderr)
        sys.exit(1)
    facts = {{
        ".ServerVersion": "28.0",
        ".DockerRootDir": os.environ["DOCKER_ROOT"],
        "json .Runtimes": os.environ["RUNTIMES"],
        "json .SecurityOptions": os.environ["SECURITY"],
    }}
    print(facts[given[2].strip("{{}}")])
elif given[:2] == ["image", "inspect"]:
    sys.exit(int(os.environ["IMAGE_MISSING"]))
elif given[0] == "run" and "/bin/true" in given:
    sys.exit(int(os.environ["LIMITS_REFUSED"]))
else:
    sys.exit(int(os.environ["STATUS"]))
"""
NVIDIA_SMI = """#!/bin/sh
[ -n "$DRIVER" ] || { echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9; }
case $1 in
  --query-gpu=driver_version) echo "$DRIVER"; echo "$DRIVER" ;;
  --query-gpu=name) echo 'NVIDIA H200'; echo 'NVIDIA H200' ;;
  --query-gpu=compute_cap)
    [ -n "$CAPABILITIES" ] || { echo 'Field "compute_cap" is not a valid field to query.'; exit 2; }
    for capability in $CAPABILITIES; do echo "$capability"; done ;;
esac
"""
DF = '#!/bin/sh\necho "Avail"; echo "  $FREE_GB"\n'


class FakeMachine:
    """A copy of the container's scripts in a folder with a space in its name, and a PATH with made-up commands only."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.project = folder / "my project"
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        self.bin.mkdir()
        shutil.copytree(ROOT / "docker", self.project / "docker", ignore=shutil.ignore_patterns("*.crt", "*.run"))
        for name in ("data", "scripts"):
            (self.project / name).mkdir()
        for name in ("build_image.sh", "start_container.sh", "scripts/configuration.sh"):
            shutil.copy(ROOT / name, self.project / name)
        for name in NEEDED:
            (self.bin / name).symlink_to(shutil.which(name))
        self.command("docker", DOCKER.format(python=sys.executable))
        self.command("nvidia-smi", NVIDIA_SMI)
        self.command("df", DF)

    def command(self, name: str, content: str) -> None:
        """Puts a command on the PATH."""
        path = self.bin / name
        path.write_text(content, encoding="utf-8")
        path.chmod(0o755)

    def environment(self, **variables: str) -> dict[str, str]:
        """Of a machine with a running daemon and without GPUs; some of it changed."""
        usual = {
            "PATH": str(self.bin),
            "HOME": str(self.folder),
            "CALLS": str(self.calls),
            "DAEMON": "",  # what docker says instead of answering
            "DOCKER_ROOT": str(self.folder),
            "RUNTIMES": '{"runc":{}}',
            "SECURITY": '["name=seccomp"]',
            "IMAGE_MISSING": "0",
            "LIMITS_REFUSED": "0",
            "STATUS": "0",  # of docker build and docker run
            "DRIVER": "",
            "CAPABILITIES": "",
            "FREE_GB": "500",
        }
        return usual | variables

    def run(
        self, script: str, *given: object, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess:
        """Starts one of the scripts without a terminal."""
        return subprocess.run(
            [shutil.which("bash"), str(self.project / script), *map(str, given)],
            cwd=cwd or self.folder,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def called(self, verb: str) -> list[list[str]]:
        """The arguments of each `docker VERB`, without that which tries whether limits may be raised."""
        if not self.calls.exists():
            return []
        calls = [json.loads(line) for line in self.calls.read_text(encoding="utf-8").splitlines()]
        return [call[1:] for call in calls if call[0] == verb and "/bin/true" not in call]


def errors(ended: subprocess.CompletedProcess) -> list[str]:
    """The sentences of a refusal, which must have status 2 and print nothing else but notes."""
    assert ended.returncode == 2, ended
    lines = ended.stderr.splitlines()
    assert all(line.startswith(("error: ", "warning: ")) for line in lines), lines
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


def values(arguments: list[str], option: str) -> list[str]:
    """What is given after each `option`."""
    return [arguments[i + 1] for i, argument in enumerate(arguments) if argument == option]


def ids() -> str:
    """USER:GROUP of who runs the tests."""
    return f"{os.getuid()}:{os.getgid()}"
