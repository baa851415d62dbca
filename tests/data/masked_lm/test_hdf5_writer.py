"""HDF5 files of instances: their content, every compression, and a disk that is full at any moment."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from corpora import SPECIAL, tokenized, tree
from paths import ROOT

from data.masked_lm.hdf5_writer import COMPRESSIONS, write_instances
from data.masked_lm.instances import InstanceOptions, make_instances

DOCUMENTS = tokenized([[5, 9, 3]] * 200)
OPTIONS = InstanceOptions(16, 2, 0.15, 0.1, 5)


def instances():
    return make_instances(DOCUMENTS, OPTIONS, SPECIAL, np.random.SeedSequence(0))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_content_and_counts(tmp_path, compression):
    n_rows, blocks = instances()
    record = write_instances(tmp_path / "ours.hdf5", n_rows, blocks, compression)
    (block,) = instances()[1]
    with h5py.File(tmp_path / "ours.hdf5") as file:
        assert list(file) == sorted(vars(block))
        for name, rows in vars(block).items():
            assert file[name].dtype == rows.dtype
            assert file[name].chunks == (1024, *rows.shape[1:])
            np.testing.assert_array_equal(file[name][:], rows)
    assert record.counts == {
        "rows": n_rows,
        "tokens": int(block.input_mask.sum()),
        "masked": int((block.masked_lm_positions > 0).sum()),
    }


def test_compressions_hold_the_same(tmp_path):
    for compression in COMPRESSIONS:
        write_instances(tmp_path / compression, *instances(), compression)
    with h5py.File(tmp_path / "gzip") as first:
        for compression in COMPRESSIONS:
            with h5py.File(tmp_path / compression) as other:
                for name in first:
                    np.testing.assert_array_equal(other[name][:], first[name][:])
    sizes = [(tmp_path / compression).stat().st_size for compression in ("gzip", "lzf", "none")]
    assert sizes == sorted(set(sizes))


# In a process of its own: the HDF5 library is known to take its process down when a disk is full.
PROGRAM = """
import resource, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from test_hdf5_writer import instances
from data.masked_lm.hdf5_writer import write_instances
from common.errors import run_main
n_rows, blocks = instances()
if {limit} >= 0:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
run_main(lambda: write_instances(Path({output!r}), n_rows, blocks, "gzip"))
"""


def write_in_a_process(output, limit=-1):
    paths = {"root": str(ROOT), "tests": str(Path(__file__).parent)}
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "helpers"), "PYTHONDONTWRITEBYTECODE": "1"}
    program = PROGRAM.format(limit=limit, output=str(output), **paths)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)


def assert_refused(finished, output):
    assert finished.returncode == 2, finished.stderr
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"error: {output} cannot be used (File too large)") or "no space left on the disk" in line


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, -1])
def test_no_more_can_be_written_from_some_byte_on(tmp_path, share):
    whole = tmp_path / "whole.hdf5"
    write_instances(whole, *instances(), "gzip")
    size = whole.stat().st_size
    output = tmp_path / "out.hdf5"
    output.write_bytes(b"before")
    before = tree(tmp_path)
    limit = size - 1 if share == -1 else int(share * size)
    assert_refused(write_in_a_process(output, limit), output)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("pages", [1, 4, 16])
def test_full_disk(tmp_path, pages):
    """On a file system of a few pages of memory, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={pages * 4096}", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        (disk / "kept").write_bytes(b"before")
        output = disk / "out.hdf5"
        assert_refused(write_in_a_process(output), output)
        assert tree(disk) == {"kept": b"before"}
    finally:
        subprocess.run(["umount", str(disk)], check=True)
