#!/usr/bin/env python3
"""MLPerf BERT's data and starting checkpoint, from the published files to what the benchmark reads.

  python3 data/mlperf_bert.py                          downloads the files
  python3 data/mlperf_bert.py --files DIR --parts 500  takes those that lie in a folder, and all of the text

Everything lies in mlperf_bert/ under $BERT_PREP_WORKING_DIR (by default this script's folder). Started again, it
resumes where it stopped and skips what is finished. data/mlperf_bert.sh is the same with variables; docs/mlperf.md says
what is made.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # started as a script, Python looks for imports beside it and not in the project's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    __import__("common.packages").packages.explain_missing()
from common.addresses import is_remote, shown
from common.command_line import CommandLine
from common.errors import Problems, run_main
from common.packages import project_command
from common.words import counted
from common.workers import usable_cores, workers
from data.artifacts.layout import Layout, default_working_dir
from data.artifacts.stage_output import Preparation
from data.masked_lm.hdf5_writer import COMPRESSIONS
from data.mlperf.published import EVALUATION_TEXT, N_PARTS, part_paths, wanted_files
from data.mlperf.sources import CHECKPOINT_URI, TEXT_URI, LocalFolder, Server, take_files
from data.mlperf.stages import make_evaluation_shard, make_training_shards, write_tanh_config
from data.stages import verify_folders
from file_utils import locked

FOLDER = "mlperf_bert"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Raises UserError with everything that is wrong."""
    parser = CommandLine(__doc__)
    add = parser.add_argument
    add("--files", type=Path, help="a folder with the files, at any depth, in place of a download")
    parts = f"parts of the training text, of {N_PARTS}: 12 hold more examples than any run sees (default: 12)"
    add("--parts", type=int, default=12, help=parts)
    add("--checkpoint_uri", default=CHECKPOINT_URI, help="of MLCommons' set of input files (default: %(default)s)")
    add("--text_uri", default=TEXT_URI, help="of MLCommons' set of the text (default: %(default)s)")
    stand_ins = "take other files of these names too, for trials; results are none of the benchmark's"
    add("--stand_ins", action="store_true", help=stand_ins)
    add("--n_processes", type=int, default=usable_cores(), help="side by side (default: all usable cores)")
    add("--compression", choices=tuple(COMPRESSIONS), default="gzip", help="of the HDF5 files (default: gzip)")
    add("--overwrite", action="store_true", help="replace rows that were made otherwise and lie in the way")
    flags, problems = parser.parse_args(arguments), Problems()
    problems.check(1 <= flags.parts <= N_PARTS, f"--parts {flags.parts} must lie in 1 to {N_PARTS}.")
    problems.check(flags.n_processes >= 1, f"--n_processes {flags.n_processes} must be 1 or more.")
    is_folder = flags.files is None or flags.files.is_dir()
    problems.check(is_folder, f"--files {flags.files} is no folder", "give one with MLPerf's files, or leave it out")
    for flag in ("checkpoint_uri", "text_uri"):
        address = getattr(flags, flag)
        is_right = is_remote(address) and address.endswith(".uri")
        problems.check(is_right, f"--{flag} {shown(address)} is no address that ends with .uri", "leave it out")
    problems.raise_if_any()
    return flags


def prepare(flags: argparse.Namespace, preparation: Preparation) -> None:
    """All stages in turn; prints what was done."""
    folder = preparation.layout.working_dir / FOLDER
    source = LocalFolder(flags.files) if flags.files else Server(flags.checkpoint_uri, flags.text_uri)
    records = take_files(folder, wanted_files(flags.parts, flags.stand_ins), source)
    total = sum(record.bytes for record in records.values())
    kind = "stand-ins" if flags.stand_ins else "checked"
    print(f"{counted(len(records), 'file')}, {total / 1e6:,.1f} MB, {kind}: {folder}")
    print(write_tanh_config(folder))
    evaluation = preparation, folder, records[EVALUATION_TEXT], flags.compression, flags.stand_ins
    for line in make_evaluation_shard(*evaluation):
        print(line, flush=True)
    texts = {path: records[path] for path in part_paths(flags.parts)}
    for line in make_training_shards(preparation, folder, texts, flags.compression):
        print(line, flush=True)
    print(verify_folders([folder / "eval", folder / "training"], preparation.pool, None, None))
    print(
        f"to train on it: DATA_DIR={shlex.quote(str(folder))} {project_command('bash', 'scripts/run_mlperf_bert.sh')}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare everything."""
    flags = parse_arguments(arguments)
    layout = Layout(default_working_dir().absolute(), FOLDER)
    with locked(layout.working_dir / f".{FOLDER}.lock"), workers(flags.n_processes) as pool:
        prepare(flags, Preparation(layout, pool, flags.overwrite))


if __name__ == "__main__":
    run_main(main)
