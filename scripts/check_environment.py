"""Says whether training can run here, and what to do where it cannot: a table, and a sentence for every problem.

Usually started as scripts/check_environment.sh. It needs nothing but Python: what cannot be imported is reported as
that, and the checks that need it are left out. The facts are those that each run writes into its log; what they mean is
judged in training/environment/machine_checks.py, and the data by the code that training and the preparation use.
"""

import argparse
import dataclasses
import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from common.command_line import CommandLine
from common.errors import run_main
from common.packages import install_command
from training.environment import description, machine_checks
from training.environment.machine_checks import OK, PROBLEM, WARNING, Finding, finding

PROJECT = Path(__file__).resolve().parent.parent
GIB = 2**30
CHECKPOINTS_BYTES = 16 * GIB  # four of BERT-large: three that are kept, one that is being written
DATA_BYTES = 250 * GIB  # the full preparation; docs/data.md
ALL_REDUCE_SECONDS = 120


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(
        "Check hardware, software, folders and data before training.",
        epilog="Ends with 0 where training can run, if only on the CPU, and with 1 where it cannot.",
    )
    data = os.environ.get("BERT_PREP_WORKING_DIR") or PROJECT / "data"
    results = os.environ.get("OUTPUT_DIR") or PROJECT / "results"
    parser.add_argument("--data_dir", type=Path, default=data, help="the preparation's, or of shards (%(default)s)")
    parser.add_argument("--results_dir", type=Path, default=results, help="where checkpoints go (%(default)s)")
    parser.add_argument("--vocab_file", type=Path, default=None, help="default: one that the preparation downloaded")
    parser.add_argument("--verify_data", action="store_true", help="read all shards, not only their sizes")
    parser.add_argument("--all_reduce", action="store_true", help="have all GPUs of this machine add up a number")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write findings and facts there too")
    return parser.parse_args(argv)


def check_all(args: argparse.Namespace) -> Iterator[Finding]:
    """All findings, in the order of the table."""
    has_torch = import_error("torch") is None
    facts = description.gpu_facts() if has_torch else {"gpus": ()}
    n_gpus = len(facts["gpus"])
    error = import_error("run_pretraining", "run_squad")
    yield from machine_checks.machine_findings(description.machine_facts(), n_gpus, error)
    if has_torch:
        are_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        shown = [] if are_hidden else description.gpus_of_driver()
        yield from machine_checks.gpu_findings(shown, facts, matrix_product_error)
        if args.all_reduce:
            yield all_reduce_finding(n_gpus)
    yield folder_finding("results folder", args.results_dir, CHECKPOINTS_BYTES, "four checkpoints of BERT-large take")
    needed = 0 if any(args.data_dir.glob("hdf5_*/*/*.hdf5")) else DATA_BYTES
    yield folder_finding("data folder", args.data_dir, needed, "the full corpora take")
    if error := import_error("scripts.data_checks"):
        yield Finding("data", f"not checked ({error})", WARNING, f"Install what is missing: {install_command()}")
        return
    data_findings = importlib.import_module("scripts.data_checks").data_findings
    try:
        yield from data_findings(args.data_dir, args.vocab_file, args.verify_data)
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
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_gpus or 2)]
    command = [*torchrun, str(PROJECT / "scripts" / "all_reduce.py")]
    try:
        ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=ALL_REDUCE_SECONDS)
        is_right, said = ended.returncode == 0, (ended.stderr + ended.stdout).strip().splitlines()
        lines = [f"it ended with status {ended.returncode} and said nothing", *said]
        found = next((line for line in lines if line.startswith("error: ")), lines[-1])
    except subprocess.TimeoutExpired:
        found, is_right = f"it took longer than {ALL_REDUCE_SECONDS} seconds", False
    remedy = "Try NCCL_P2P_DISABLE=1, which keeps GPUs from direct access; what NCCL does tells: NCCL_DEBUG=INFO"
    return finding("all-reduce", found, is_right, f"{remedy} {shlex.join([sys.executable, *command])}", PROBLEM)


def folder_finding(check: str, folder: Path, needed: int, what: str) -> Finding:
    """Whether a folder, or the one that it would be made in, can be written and has room for `needed` bytes."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            free = shutil.disk_usage(nearest).free
    except OSError as error:
        state = WARNING if check == "data folder" else PROBLEM  # training only reads the data
        remedy = "Give a folder that this user may write to, and that is not full."
        return Finding(check, f"{folder} cannot be written ({error.strerror})", state, remedy)
    remedy = f"Free some, or give another folder: {what} {needed / GIB:.0f} GiB."
    return finding(check, f"{folder}: {free / GIB:,.0f} GiB free", free >= needed, remedy)


def report(findings: Sequence[Finding]) -> str:
    """The table, and below it what to do about each line that is not ok."""
    rows = [Finding("check", "found", "state"), *findings]
    width = max(len(row.check) for row in rows)
    lines = [f"{row.check:{width}}  {row.state:{len(WARNING)}}  {row.found}" for row in rows]
    remedies = [f"{each.state}: {each.check}: {each.remedy}" for each in findings if each.state != OK]
    return "\n".join([*lines, "", *remedies])


def conclusion(findings: Sequence[Finding]) -> str:
    """One sentence."""
    counts = Counter(finding.state for finding in findings)
    if counts[PROBLEM]:
        return f"Training cannot run here as it is (problems: {counts[PROBLEM]})."
    on = "on the CPU only" if any(f.check == "GPU" and f.state != OK for f in findings) else "here"
    return f"Training can run {on} (warnings: {counts[WARNING]})."


def main(argv: list[str] | None = None) -> None:
    """Check, print, and end with the status that says whether training can run."""
    args = parse_arguments(argv)
    findings = list(check_all(args))
    can_train = all(each.state != PROBLEM for each in findings)
    print(report(findings), end="\n\n")
    if args.json is not None:
        facts = description.machine_facts() if import_error("torch", "numpy") else description.describe_environment()
        content = {"can_train": can_train, "findings": list(map(dataclasses.asdict, findings)), "environment": facts}
        args.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        print(f"Written: {args.json}")
    print(conclusion(findings))
    sys.exit(0 if can_train else 1)


if __name__ == "__main__":
    run_main(main)
