"""Tasks on a real Dask scheduler with two worker processes, one of which is killed."""

import os
import signal
import time
from pathlib import Path

import pytest

from data.parallel import workers
from errors import UserError

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
    with pytest.raises(UserError, match=r"nowhere\.json is no file"), workers(1, "nowhere.json"):
        pass
