"""Every flag that some command of the project takes, for tests of what documents and messages name."""

import dataclasses
import re

from paths import ROOT

from tasks.table import TASKS
from training.config.settings import SHARED

# Named as what is not there, or as belonging to others.
FOREIGN_FLAGS = {
    "--help",
    "--version",
    "--external-sources",
    "--signal",
    "--max_restarts",
    "--network",
    "--nv",
    "--batch",
}
FOREIGN_FLAGS |= {"--version"}  # of every command
FOREIGN_FLAGS |= {"--env", "--gpus", "--interactive", "--runtime", "--shm-size"}  # of Docker and NVIDIA's toolkit
FOREIGN_FLAGS |= {"--force-reinstall", "--index-url", "--local-dir", "--repo-type", "--requirement"}  # of pip and hf


def known_flags():
    """Every flag that some entry takes."""
    folders = ("tasks", "training", "benchmark", "data", "scripts")
    sources = [path for folder in folders for path in ROOT.glob(f"{folder}/**/*.py")]
    groups = (*SHARED, *(task.flags for task in TASKS.values()))
    fields = [field for group in groups for field in dataclasses.fields(group)]
    declared = {name for field in fields for name in (field.metadata["names"] or (f"--{field.name}",))}
    declared |= {f"--no-{name.removeprefix('--')}" for name in declared}
    return FOREIGN_FLAGS.union(
        declared, *(re.findall(r'"(--[a-zA-Z][\w-]*)"', path.read_text("utf-8")) for path in sources)
    )
