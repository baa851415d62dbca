"""Says whether training can run here, and what to do where it cannot: a table, and a sentence for all that is amiss.

Usually started as scripts/check_environment.sh. It needs nothing but Python: what cannot be imported is reported as
that, and the checks that need it are left out. The facts are those that each run writes into its log; what they mean is
judged in training/environment/machine_checks.py, and the data by the code that training and the preparation use.
"""

import argparse
import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.errors import run_main
from training.environment import machine, machine_checks
from training.environment.machine_checks import OK, PROBLEM, WARNING, Finding

PROJECT = Path(__file__).resolve().parent.parent
GIB = 2**30
CHECKPOINTS_BYTES = 16 * GIB  # four of BERT-large: three that are kept, one that is being written
DATA_BYTES = 250 * GIB  # the full preparation; docs/data.md
TABLE_WIDTH = 118
ALL_REDUCE_SECONDS = 120


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Check hardware, software, folders and data before training.",
        epilog="Ends with 0 where training can run, if only on the CPU, and with 1 where it cannot.",
    )
    data = os.environ.get("BERT_PREP_WORKING_DIR") or PROJECT / "data"
    parser.add_argument(
        "--data_dir", type=Path, default=data, help="the preparation's folder, or one of shards (default: %(default)s)"
    )
    parser.add_argument(
        "--results_dir",
        type=Path,
        default=os.environ.get("OUTPUT_DIR") or PROJECT / "results",
        help="where checkpoints go (default: %(default)s)",
    )
    parser.add_argument("--vocab_file", type=Path, default=None, help="default: one that the preparation downloaded")
    parser.add_argument("--verify_data", action="store_true", help="read all shards, not only their sizes")
    parser.add_argument("--all_reduce", action="store_true", help="have all GPUs of this machine add up a number")
    parser.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="write the findings and facts there too"
    )
    return parser.parse_args(argv)


def check_all(args: argparse.Namespace) -> Iterator[Finding]:
    """All findings, in the order of the table."""
    in_container, in_image = machine.container() is not None, machine.is_in_image()
    install = machine_checks.REBUILD if in_image else machine_checks.INSTALL
    pins, missing = machine.pins_of(PROJECT / "requirements.txt"), import_error("run_pretraining", "run_squad")
    yield from machine_checks.python_findings(sys.version_info[:3], pins, missing, install)
    n_gpus = 0
    if import_error("training.environment.description") is None:
        facts = importlib.import_module("training.environment.description").gpu_facts()
        n_gpus = len(facts["gpus"])
        yield from torch_findings(facts)
        if args.all_reduce:
            yield all_reduce_finding(n_gpus)
    memory = machine.shared_memory_bytes(), machine.locked_memory_bytes()
    yield from machine_checks.memory_findings(*memory, n_gpus, in_container)
    versions = {name: machine.profiler_version(name) for name in machine.PROFILERS}
    yield from machine_checks.profiler_findings(versions, machine.may_read_gpu_counters(), in_container, in_image)
    yield machine_checks.apex_finding(machine.apex())
    yield folder_finding("results folder", args.results_dir, CHECKPOINTS_BYTES, "four checkpoints of BERT-large take")
    needed = 0 if any(args.data_dir.glob("hdf5_*/*/*.hdf5")) else DATA_BYTES
    yield folder_finding("data folder", args.data_dir, needed, "the full corpora take")
    if error := import_error("scripts.data_checks"):
        yield Finding("data", f"not checked ({error})", WARNING, f"Install what is missing: {install}")
        return
    data_findings = importlib.import_module("scripts.data_checks").data_findings
    try:
        yield from data_findings(args.data_dir, args.vocab_file, args.verify_data, in_image)
    except OSError as error:
        yield Finding("data", str(error), PROBLEM, "See who may read there, and that the disk is in order.")


def import_error(*modules: str) -> str | None:
    """What is raised when these are imported, in a line; None where nothing is."""
    try:
        for module in modules:
            importlib.import_module(module)
    except Exception as error:  # a library that is broken may raise anything
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None


def torch_findings(facts: dict[str, Any]) -> Iterator[Finding]:
    """GPU, driver, CUDA and PyTorch of this machine."""
    import torch

    are_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    shown = machine.gpus_of_driver()
    return machine_checks.gpu_findings(shown, torch.__version__, facts, matrix_product_error, are_hidden)


def matrix_product_error(index: int) -> str | None:
    """What is wrong with a small product of whole numbers, exact in every precision, on the GPU of this index."""
    import torch

    factor = torch.arange(64.0).reshape(8, 8)
    try:
        on_gpu = factor.to(torch.device("cuda", index))
        product = (on_gpu @ on_gpu).cpu()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None if torch.equal(product, factor @ factor) else "the result is wrong"


def all_reduce_finding(n_gpus: int) -> Finding:
    """Whether processes of this machine can add up a number: one per GPU, or two on the CPU."""
    n_processes = max(n_gpus, 2 if n_gpus == 0 else 1)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes)]
    command += [str(PROJECT / "scripts" / "all_reduce.py")]
    try:
        ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=ALL_REDUCE_SECONDS)
        if ended.returncode == 0:
            return Finding("all-reduce", ended.stdout.strip().splitlines()[-1])
        output = ended.stdout + ended.stderr
    except subprocess.TimeoutExpired:
        output = f"error: it took longer than {ALL_REDUCE_SECONDS} seconds"
    errors = [line.partition("error: ")[2] for line in output.splitlines() if "error: " in line]
    remedy = "Try NCCL_P2P_DISABLE=1, which keeps GPUs from direct access; what NCCL does tells: NCCL_DEBUG=INFO"
    remedy += f" python3 {' '.join(command)}"
    return Finding("all-reduce", errors[0] if errors else output.strip()[-300:], PROBLEM, remedy)


def folder_finding(check: str, folder: Path, needed: int, what: str) -> Finding:
    """Whether a folder, or the one that it would be made in, can be written and has room for `needed` bytes."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        return Finding(check, f"{nearest} is a file", PROBLEM, "Give a folder.")
    free = shutil.disk_usage(nearest).free
    found = f"{folder}: {free / GIB:,.0f} GiB free"
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        state = WARNING if check == "data folder" else PROBLEM  # training only reads the data
        remedy = "Give a folder that this user may write to, and that is not full."
        return Finding(check, f"{folder} cannot be written ({error.strerror})", state, remedy)
    if free < needed:
        remedy = f"Free some, or give another folder: {what} {needed / GIB:.0f} GiB."
        return Finding(check, found, WARNING, remedy)
    return Finding(check, found)


def report(findings: Sequence[Finding]) -> str:
    """The table, and below it what to do about each line that is not ok."""
    rows = [(finding.check, finding.found, finding.state) for finding in findings]
    first, last = (max(len(row[column]) for row in rows) for column in (0, 2))
    lines = [f"{'check':{first}}  {'state':{last}}  found"]
    for check, found, state in rows:
        # A path is better left whole than broken.
        text = textwrap.wrap(found, TABLE_WIDTH - first - last - 4, break_long_words=False, break_on_hyphens=False)
        lines.append(f"{check:{first}}  {state:{last}}  {text[0]}")
        lines += [" " * (first + last + 4) + more for more in text[1:]]
    amiss = [finding for finding in findings if finding.state != OK]
    lines += [""] * bool(amiss) + [f"{finding.state}: {finding.check}: {finding.remedy}" for finding in amiss]
    return "\n".join(lines)


def conclusion(findings: Sequence[Finding]) -> str:
    """One sentence."""
    counts = Counter(finding.state for finding in findings)
    if counts[PROBLEM]:
        return f"Training cannot run here as it is: {_number(counts[PROBLEM], 'problem')}."
    on = "on the CPU only" if any(f.check == "GPU" and f.state != OK for f in findings) else "here"
    return f"Training can run {on} ({_number(counts[WARNING], 'warning')})."


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def write_json(file: Path, findings: Sequence[Finding]) -> None:
    """Findings and facts."""
    facts = machine.machine_facts(PROJECT / "requirements.txt")
    if import_error("training.environment.description") is None:
        facts = importlib.import_module("training.environment.description").describe_environment()
    can_train = all(finding.state != PROBLEM for finding in findings)
    content = {"can_train": can_train, "findings": list(map(dataclasses.asdict, findings)), "environment": facts}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Check, print, and end with the status that says whether training can run."""
    args = parse_arguments(argv)
    findings = list(check_all(args))
    print(report(findings))
    print()
    if args.json is not None:
        write_json(args.json, findings)
        print(f"Written: {args.json}")
    print(conclusion(findings))
    if any(finding.state == PROBLEM for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
