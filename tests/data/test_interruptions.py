"""kill -9 at random moments in every stage, again and again: in the end there is what an undisturbed run makes.

Only the stage's own process is killed. The workers it leaves must end by themselves, or they would go on writing.
"""

import bz2
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from corpora import SAMPLE, tree, write_vocab

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("download", "text_formatting", "sharding", "create_hdf5_files")
KILLS_PER_STAGE = 5
TIMES_LONGER = 40


def write_long_dump(path):
    """The sample's pages many times over, so that most of each stage is work and not imports."""
    dump = bz2.decompress((SAMPLE / "wikicorpus_sample.xml.bz2").read_bytes())
    start, end = dump.index(b"<page>"), dump.rindex(b"</page>") + len(b"</page>")
    path.write_bytes(bz2.compress(dump[:start] + dump[start:end] * TIMES_LONGER + dump[end:], 1))


def command(stage, vocab):
    flags = ["--action", stage, "--dataset", "wikicorpus_en", "--n_processes", "2"]
    if stage == "download":
        flags += ["--source", vocab.parent / "dump.xml.bz2"]
    if stage in ("sharding", "create_hdf5_files"):
        flags += ["--n_training_shards", "5", "--n_test_shards", "2"]
    if stage == "create_hdf5_files":
        flags += ["--max_seq_length", "128", "512", "--max_predictions_per_seq", "20", "80", "--vocab_file", vocab]
    return [sys.executable, ROOT / "data" / "bertPrep.py", *map(str, flags)]


def start(stage, working_dir, vocab):
    """The stage in a session of its own, so that all its processes can be found."""
    environment = {**os.environ, "BERT_PREP_WORKING_DIR": str(working_dir), "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(stage, vocab), env=environment, start_new_session=True, **quiet)


def session_of(pid):
    """Living processes of the session that `pid` leads."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found


def output(working_dir):
    """All files but locks."""
    return {name: content for name, content in tree(working_dir).items() if not name.endswith(".lock")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The working folder before each stage and after the last, how long each took, and the vocabulary."""
    vocab = write_vocab(tmp_path_factory.mktemp("vocab") / "vocab.txt")
    write_long_dump(vocab.parent / "dump.xml.bz2")
    folder = tmp_path_factory.mktemp("undisturbed")
    before, seconds = {}, {}
    for stage in STAGES:
        before[stage] = tmp_path_factory.mktemp(f"before_{stage}") / "copy"
        shutil.copytree(folder, before[stage])
        started = time.monotonic()
        process = start(stage, folder, vocab)
        assert process.wait() == 0, process.stderr.read()
        seconds[stage] = time.monotonic() - started
    return before, folder, seconds, vocab


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_started_again_ends_with_the_same_bytes(undisturbed, tmp_path, stage):
    before, after, seconds, vocab = undisturbed
    rng = random.Random(stage)
    working_dir = tmp_path / "work"
    shutil.copytree(before[stage], working_dir)
    following = STAGES[STAGES.index(stage) + 1 :]
    expected = output(before[following[0]] if following else after)
    n_killed = 0
    while n_killed < KILLS_PER_STAGE:
        process = start(stage, working_dir, vocab)
        time.sleep(rng.uniform(0.2, 0.95) * seconds[stage])
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:  # it was quicker, as less was left to do
            assert output(working_dir) == expected
            shutil.rmtree(working_dir)
            shutil.copytree(before[stage], working_dir)
            continue
        n_killed += 1
        deadline = time.monotonic() + 5
        while session_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert session_of(process.pid) == []
    process = start(stage, working_dir, vocab)
    assert process.wait() == 0, process.stderr.read()
    assert output(working_dir) == expected
