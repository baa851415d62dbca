"""Sweeps that run, of the tiny model on the CPU, in a process of their own."""

import os
import subprocess
import sys

from paths import ROOT

TINY = ("--bert_model", "tiny", "--max_seq_lengths", "32", "--precisions", "fp32", "--start", "1", "--stop", "3")


def cpu_environment():
    """Variables of a process that sees no GPU and takes one core."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(folder, *flags, limit="", cwd=None):
    """A real sweep in a process of its own, with at most so many KiB of memory where `limit` says so."""
    words = [sys.executable, str(ROOT / "benchmark" / "sweep.py"), "pretrain", "--output_dir", str(folder)]
    before = f"ulimit -v {limit}; " if limit else ""
    words = ["bash", "-c", before + 'exec "$@"', "sweep", *words, *TINY, *flags]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=cpu_environment(), cwd=cwd)
