"""Work in processes: order, bounded look-ahead, and no failure that hangs or passes unnoticed."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection

import psutil
import pytest

from common.errors import UserError
from common.workers import TASKS_AHEAD, workers

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")


def mapped(function, tasks, n_processes, stage="counting"):
    with workers(n_processes) as pool:
        yield from pool.map(function, tasks, stage)


def slow_if_early(number):
    time.sleep(0.02 if number < 3 else 0)
    return number, os.getpid()


def fail_at_five(number):
    if number == 5:
        raise UserError("five is bad")
    return number


def raise_a_key_error(number):
    return {}[number]


def die_idle(number):
    """End the other worker, which has nothing to do, as its task slept less."""
    time.sleep(0.2 * number)
    for other in psutil.Process(os.getppid()).children():
        if number and other.pid != os.getpid():
            other.kill()
    return number


def die_while_answering(number):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return bytes(10**7)  # more than the pipe holds


def die_at_five(number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_order_and_processes():
    results = list(mapped(slow_if_early, range(40), 2))
    assert [number for number, _ in results] == list(range(40))
    assert os.getpid() not in {pid for _, pid in results}


def test_one_process_is_this_one():
    assert list(mapped(slow_if_early, [7], 1)) == [(7, os.getpid())]


def test_more_processes_than_tasks_and_no_tasks():
    assert list(mapped(fail_at_five, [1, 2], 3)) == [1, 2]
    assert list(mapped(fail_at_five, [], 2)) == []


@pytest.mark.parametrize("n_processes", [1, 2])
def test_tasks_are_taken_as_results_are(n_processes):
    tasks = itertools.count(10)
    results = mapped(fail_at_five, tasks, n_processes)
    assert [next(results) for _ in range(3)] == [10, 11, 12]
    results.close()
    assert next(tasks) <= 13 + n_processes * TASKS_AHEAD


@pytest.mark.parametrize("n_processes", [1, 2])
def test_exception_of_a_worker_comes_out(n_processes):
    results = []
    with pytest.raises(UserError) as raised:
        results.extend(mapped(fail_at_five, range(1000), n_processes))
    assert str(raised.value) == "five is bad"


def test_exception_of_the_tasks_comes_out():
    def tasks():
        yield 1
        raise UserError("no more tasks")

    with pytest.raises(UserError, match="no more tasks"):
        list(mapped(fail_at_five, tasks(), 2))


def test_killed_worker_is_reported_and_nothing_hangs():
    start = time.monotonic()
    with pytest.raises(UserError, match=r"A process of counting was killed.*smaller --n_processes"):
        list(mapped(die_at_five, range(1000), 2))
    assert time.monotonic() - start < 20


def test_the_task_that_a_worker_died_at_is_named():
    with (
        workers(2) as pool,
        pytest.raises(UserError, match=r"^A process of counting at work on number 5 was killed"),
    ):
        list(pool.map(die_at_five, range(1000), "counting", "number {}".format))


def test_an_idle_worker_may_die():
    assert list(mapped(die_idle, [0, 1], 2)) == [0, 1]


def test_a_worker_that_dies_halfway_through_its_result(monkeypatch):
    parent, receive = os.getpid(), Connection.recv

    def receive_late(connection):
        if os.getpid() == parent:
            time.sleep(0.6)
        return receive(connection)

    monkeypatch.setattr(Connection, "recv", receive_late)
    with workers(2) as pool, pytest.raises(UserError, match="was killed"):
        list(pool.map(die_while_answering, [1], "counting"))


def test_where_a_worker_raised_is_told():
    with pytest.raises(KeyError) as caught:
        list(mapped(raise_a_key_error, [1], 2))
    assert "in raise_a_key_error" in caught.value.__notes__[0]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(sent):
    code = (
        "import time\nfrom common.workers import workers\n"
        "with workers(2) as pool:\n"
        "    results = pool.map(time.sleep, [0.1] * 2 + [0.2] * 1000, 'waiting')\n"
        "    print(next(results), flush=True)\n    list(results)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        parent.stdout.readline()
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) == 2
        parent.send_signal(sent)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
