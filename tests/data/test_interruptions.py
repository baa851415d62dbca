"""kill -9 at random moments in every stage, and a full disk: in the end there is what an undisturbed run makes.

Only the stage's own process is killed. The workers it leaves must end by themselves, or they would go on writing.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from corpora import write_vocab
from paths import AS_USERS
from preparation_runs import STAGES, command, output, write_long_dump

KILLS_PER_STAGE = 3


def start(stage, working_dir, vocab, *flags):
    """The stage in a session of its own, so that all its processes can be found."""
    environment = {**os.environ, "BERT_PREP_WORKING_DIR": str(working_dir), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(AS_USERS)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command(stage, vocab), *flags], env=environment, start_new_session=True, **quiet)


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


@contextlib.contextmanager
def small_disk(folder, n_bytes):
    """A file system of so many bytes at `folder`, where one may be mounted; yields a function that resizes it."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield lambda n: subprocess.run(["mount", "-o", f"remount,size={n}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


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
@pytest.mark.slow
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


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.slow
def test_a_killed_worker_ends_the_stage_and_leaves_nothing_half_done(undisturbed, tmp_path, stage):
    """As the kernel does when memory runs out."""
    before, after, seconds, vocab = undisturbed
    following = STAGES[STAGES.index(stage) + 1 :]
    there, expected = output(before[stage]), output(before[following[0]] if following else after)
    working_dir = tmp_path / "work"
    rng = random.Random(stage)
    for _ in range(20):
        shutil.rmtree(working_dir, ignore_errors=True)
        shutil.copytree(before[stage], working_dir)
        process = start(stage, working_dir, vocab)
        time.sleep(rng.uniform(0.2, 0.8) * seconds[stage])
        # One alone may be what a library asks about the machine while it is imported.
        if len(children := psutil.Process(process.pid).children()) == 2:
            children[0].kill()
        errors = process.communicate(timeout=30)[1]
        if process.returncode != 0:
            break
        # The worker had nothing left to do, or there was none yet.
        assert output(working_dir) == expected
    assert process.returncode == 2, errors
    assert "was killed, most likely by the system for lack of memory" in errors
    assert "smaller --n_processes" in errors
    assert session_of(process.pid) == []
    # What it was writing may lie there under a hidden name, until the next start.
    left = {
        name: content
        for name, content in output(working_dir).items()
        if "manifest" not in name and not any(part.startswith(".") for part in Path(name).parts)
    }
    assert left.items() <= {**there, **expected}.items()
    process = start(stage, working_dir, vocab)
    assert process.wait() == 0, process.stderr.read()
    assert output(working_dir) == expected


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_loses_nothing(undisturbed, tmp_path, stage):
    before, after, _, vocab = undisturbed
    following = STAGES[STAGES.index(stage) + 1 :]
    there, expected = output(before[stage]), output(before[following[0]] if following else after)
    n_before, n_after = (sum(map(len, files.values())) for files in (there, expected))
    # Half of what is to be written fits; 4096 per file, and the folders, are for the file system itself.
    with small_disk(tmp_path / "disk", n_before + 4096 * (len(there) + 30) + (n_after - n_before) // 2) as resize:
        working_dir = tmp_path / "disk" / "work"
        shutil.copytree(before[stage], working_dir)
        process = start(stage, working_dir, vocab)
        errors = process.communicate()[1]
        assert process.returncode == 2, errors
        assert "Traceback" not in errors
        (sentence,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert "disk" in sentence
        assert "start again" in sentence or "start it again" in sentence
        assert output(working_dir).items() >= there.items()
        resize(2 * n_after + 10**7)
        process = start(stage, working_dir, vocab)
        assert process.wait() == 0, process.stderr.read()
        assert output(working_dir) == expected


@pytest.mark.slow
def test_dask_workers_make_the_same_bytes_while_one_is_killed(undisturbed, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    before, after, _, vocab = undisturbed
    working_dir = tmp_path / "work"
    shutil.copytree(before["sharding"], working_dir)
    monkeypatch.syspath_prepend(AS_USERS)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        for stage in ("sharding", "create_hdf5_files"):
            process = start(stage, working_dir, vocab, "--scheduler", cluster.scheduler_address)
            if stage == "create_hdf5_files":
                while not list(working_dir.glob("hdf5*/*/*.hdf5")):
                    assert process.poll() is None, process.stderr.read()
                    time.sleep(0.01)
                with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
                    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
            assert process.wait() == 0, process.stderr.read()
    assert output(working_dir) == output(after)
