"""sbatch, srun, scontrol and apptainer that really start processes, all on this machine, and record what they are told.

`install` puts them into a folder for the PATH. What they know of the real ones is what scripts/run_pretraining.slurm
relies on: sbatch runs a copy of the script, again under the same number after `scontrol requeue`; srun starts a task
per node, hands every signal on but for SIGTERM, at which it kills, and ends with the tasks' highest status. A container
is a translation of the mounted paths in the command, as there is no image here.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("sbatch", "srun", "scontrol", "apptainer")
JOB_ID = "4711"
OPTIONS_WITH_VALUE = ("--bind", "--pwd")  # those of apptainer that the script gives as two words


def install(folder: Path, *, without: tuple[str, ...] = (), pyxis: bool = True) -> Path:
    """Commands of these names in `folder`/bin; their records go to `folder`/calls.jsonl."""
    (folder / "bin").mkdir(parents=True)
    for name in set(NAMES) - set(without):
        command = folder / "bin" / name
        # -S: without what is installed, which takes a second to look through
        lines = ["#!/bin/sh", f'exec {sys.executable} -S {__file__} {name} {folder} {int(pyxis)} "$@"']
        command.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command.chmod(0o755)
    return folder / "bin"


def calls(folder: Path, name: str) -> list[dict]:
    """What a command was started with: `arguments`, and for `srun` the `environment`."""
    path = folder / "calls.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [call for call in map(json.loads, lines) if call["name"] == name]


def main() -> int:
    name, folder, pyxis, *arguments = sys.argv[1:]
    record = {"name": name, "arguments": arguments, "environment": dict(os.environ) if name == "srun" else {}}
    with open(Path(folder) / "calls.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    if name == "srun":
        return srun(arguments, pyxis == "1")
    return {"sbatch": sbatch, "scontrol": scontrol, "apptainer": apptainer}[name](arguments, Path(folder))


def sbatch(arguments: list[str], folder: Path) -> int:
    """Waits for the job's end, unlike the real one; `folder`/job.pid is the process of the batch script."""
    nodes = 1
    while arguments[0].startswith("--"):
        option, _, value = arguments.pop(0).partition("=")
        assert option == "--nodes", option
        nodes = int(value)
    copy = folder / "slurm_script"
    shutil.copy(arguments[0], copy)
    environment = {
        **os.environ,
        "SLURM_JOB_ID": JOB_ID,
        "SLURM_SUBMIT_DIR": os.getcwd(),
        "SLURM_NNODES": str(nodes),
        "SLURM_JOB_NODELIST": f"node[1-{nodes}]",
        "SLURM_CPUS_ON_NODE": "2",
    }
    while True:
        job = subprocess.Popen(["bash", copy, *arguments[1:]], env=environment, start_new_session=True)
        (folder / "job.pid").write_text(str(job.pid), encoding="utf-8")
        status = job.wait()
        if not (folder / "requeued").exists():
            return status
        (folder / "requeued").unlink()


def scontrol(arguments: list[str], folder: Path) -> int:
    if arguments[0] == "requeue":
        (folder / "requeued").touch()
    else:
        assert arguments[:2] == ["show", "hostnames"], arguments
        print("127.0.0.1\nother-node")  # the first is where all meet
    return 0


def srun(arguments: list[str], pyxis: bool) -> int:
    if arguments == ["--help"]:
        print("Usage: srun\n" + "  --container-image=IMAGE  [pyxis]\n" * pyxis)
        return 0
    mounts = ""
    while arguments[0].startswith("--"):
        option, _, value = arguments.pop(0).partition("=")
        if option == "--container-mounts":
            mounts = value
    command = translated(arguments, mounts)
    tasks: list[subprocess.Popen] = []
    for number in range(int(os.environ["SLURM_NNODES"])):
        environment = {**os.environ, "SLURM_NODEID": str(number), "SLURM_PROCID": str(number)}
        tasks.append(subprocess.Popen(command, env=environment))

    def hand_on(received: int, frame: object) -> None:
        for task in tasks:
            if task.poll() is None:
                task.send_signal(signal.SIGKILL if received == signal.SIGTERM else received)

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGUSR1, hand_on)
    while any(task.poll() is None for task in tasks):
        time.sleep(0.05)
    return max(task.returncode if task.returncode >= 0 else 128 - task.returncode for task in tasks)


def apptainer(arguments: list[str], folder: Path) -> int:
    """Becomes the command, so that signals reach it as the real one hands them on."""
    assert arguments.pop(0) == "exec"
    mounts = ""
    while arguments[0].startswith("--"):
        option = arguments.pop(0)
        if option in OPTIONS_WITH_VALUE:
            value = arguments.pop(0)
            mounts = value if option == "--bind" else mounts
    command = translated(arguments[1:], mounts)
    os.execvp(command[0], command)
    return 1


def translated(words: list[str], mounts: str) -> list[str]:
    """The command as it is outside of the container that would have these mounts, HOST:INSIDE,HOST:INSIDE."""
    for mount in filter(None, mounts.split(",")):
        host, inside = mount.split(":")
        assert Path(host).is_dir(), f"{host} cannot be mounted"
        words = [word.replace(inside, host) for word in words]
    return words


if __name__ == "__main__":
    sys.exit(main())
