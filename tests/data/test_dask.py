"""Tasks on a real Dask scheduler with two workers, one of which is killed; test_interruptions.py has stages."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from text_corpora import PROSE, download_text, json_lines, parquet, write

from common import dask_workers
from common.errors import UserError
from common.workers import workers
from data.artifacts.layout import Layout
from data.artifacts.stage_output import Preparation
from data.corpus import document_files
from data.corpus.documents import FormatOptions
from data.stages import format_text

PATH = os.pathsep.join(sys.path)  # to this file's functions, and the project
distributed = pytest.importorskip("distributed")


def square(number):
    time.sleep(0.01)
    return number * number, os.getpid()


def die_once(task):
    number, marker = task
    if number == 5 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def die_always(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def cluster():
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as local:
        yield local.scheduler_address


def test_order_and_a_killed_worker(cluster, tmp_path, capsys):
    with workers(1, cluster) as pool:
        results = list(pool.map(square, range(40), "counting"))
        assert [result for result, _ in results] == [number**2 for number in range(40)]
        assert len({pid for _, pid in results} - {os.getpid()}) == 2
        tasks = [(number, str(tmp_path / "died")) for number in range(40)]
        assert list(pool.map(die_once, tasks, "counting")) == [number**2 for number in range(40)]
    assert (tmp_path / "died").exists()
    assert "2 workers of one thread each" in capsys.readouterr().out


def test_workers_that_die_again_and_again(cluster):
    with workers(1, cluster) as pool, pytest.raises(UserError, match="Several Dask workers of counting at work on 7"):
        list(pool.map(die_always, [7], "counting", str))


def test_threads_are_refused():
    local = distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None)
    with local, pytest.raises(UserError, match=r"--nthreads 1"), workers(1, local.scheduler_address):
        pass


def test_scheduler_that_is_no_file():
    assert "nowhere.json is no file" in dask_workers.scheduler_problem("nowhere.json")


def test_scheduler_file(cluster, tmp_path):
    (tmp_path / "scheduler.json").write_text(f'{{"address": "{cluster}"}}')
    with workers(1, str(tmp_path / "scheduler.json")) as pool:
        assert [result for result, _ in pool.map(square, [3, 4], "counting")] == [9, 16]


def test_nobody_there(monkeypatch):
    monkeypatch.setattr(dask_workers, "SECONDS_TO_WAIT", 1)
    with (
        pytest.raises(UserError, match=r"tcp://127\.0\.0\.1:9 or its workers are out of reach"),
        workers(1, "tcp://127.0.0.1:9"),
    ):
        pass
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as local,
        pytest.raises(UserError, match="its workers are out of reach"),
        workers(1, local.scheduler_address),
    ):
        pass


@contextlib.contextmanager
def worker_process(scheduler, folder, **environment):
    """A worker without a nanny that would start it again."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--nthreads", "1", "--no-nanny"]
    with subprocess.Popen([*command, "--no-dashboard"], cwd=folder, env=environment, stderr=-3) as worker:
        yield worker
        worker.kill()


def test_all_workers_go_away(tmp_path, monkeypatch):
    monkeypatch.setattr(dask_workers, "SECONDS_TO_WAIT", 3)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as local,
        worker_process(local.scheduler_address, tmp_path, **{**os.environ, "PYTHONPATH": PATH}) as worker,
        workers(1, local.scheduler_address) as pool,
    ):
        results = pool.map(square, range(10**6), "counting")
        assert next(results) == (0, worker.pid)
        worker.kill()
        with pytest.raises(UserError, match="All Dask workers of counting are gone"):
            list(results)


class LostScheduler:
    """A client, and its only future, of a scheduler that was killed or frozen while the future was waited for."""

    def __init__(self, how):
        self.error = distributed.client.FutureCancelledError("key", "scheduler-connection-lost")
        self.error = self.error if how == "killed" else TimeoutError()
        self.scheduler = SimpleNamespace(ncores=None)

    def submit(self, *_, **__):
        return self

    def result(self, timeout):
        raise self.error

    def done(self):
        return False

    def sync(self, function, callback_timeout):
        raise TimeoutError


@pytest.mark.parametrize(("how", "told"), [("killed", "or the scheduler was"), ("frozen", "has not answered for 60")])
def test_a_scheduler_that_is_lost_while_a_stage_runs(how, told):
    pool = dask_workers._DaskCluster(LostScheduler(how), 1)
    with pytest.raises(UserError, match=f"counting.*{told}.*start this stage again"):
        list(pool.map(square, [1], "counting"))


def test_a_worker_that_leaves_while_it_is_checked_is_no_error():
    client = SimpleNamespace(run=lambda *_, **__: {})
    dask_workers._check_workers(client, {"tcp://10.0.0.1:80": 1}, None)


def test_a_worker_without_the_project(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as local,
        worker_process(local.scheduler_address, tmp_path, **environment),
        pytest.raises(UserError, match="cannot import the project; set PYTHONPATH"),
        workers(1, local.scheduler_address),
    ):
        pass


def test_a_worker_without_the_folder(cluster, tmp_path, monkeypatch):
    # Another machine's files cannot be had here, so the worker is asked for a file that is nowhere.
    probe = contextlib.nullcontext(SimpleNamespace(name="/another/machine/probe"))
    monkeypatch.setattr(dask_workers, "tempfile", SimpleNamespace(NamedTemporaryFile=lambda **_: probe))
    with pytest.raises(UserError, match=r"does not see .*; use a shared file system"), workers(1, cluster, tmp_path):
        pass


def test_text_from_files_is_the_same_bytes_on_a_cluster(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(document_files, "BYTES_PER_PART", 200)
    texts = [f"{PROSE} This is number {number}." for number in range(30)]
    files = {"a.jsonl": json_lines(texts[:20]), "b.parquet": parquet(texts[20:], row_group_size=3)}
    folder, formatted = write(tmp_path / "corpus", files), {}
    for name, scheduler in (("alone", None), ("cluster", cluster)):
        layout = Layout(tmp_path / name, "text")
        download_text(layout, folder)
        with workers(1, scheduler) as pool:
            format_text(Preparation(layout, pool), FormatOptions())
        formatted[name] = (layout.formatted / "text_one_document_per_line.txt").read_bytes()
    assert formatted["cluster"] == formatted["alone"] == "".join(f"{text}\n" for text in texts).encode()
