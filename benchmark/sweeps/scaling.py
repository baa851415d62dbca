"""Makes the measurements of a scaling table, side by side where there are GPUs for it, until a time is over.

Most of a short measurement is its start, and while one GPU is measured the others are idle. So those of fewer GPUs than
the machine has run side by side, each on GPUs of its own. They share the host and the machine's power and cooling, as
the ranks of one run do. A point says how many ran side by side. Processes that share a CPU would only wait for each
other, and run one after the other.
"""

import argparse
import os
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from benchmark.sweeps.measurement import SECONDS_BETWEEN_LOOKS, command, measure
from benchmark.sweeps.plan import Job
from benchmark.sweeps.points import Point, Repeats
from benchmark.sweeps.record import Record
from common.workers import usable_cores


class Scaling:
    """Makes the measurements of a plan that the record has not.

    Args:
        args: of benchmark/scaling.py.
        groups: of jobs that take as many GPUs, in their order.
        environment: by `describe_machine`.
        deadline: by `time.monotonic`; what would probably end later is not begun.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        groups: Sequence[Sequence[Job]],
        record: Record,
        environment: Mapping[str, Any],
        deadline: float,
    ):
        self.args, self.record, self.environment, self.deadline = args, record, environment, deadline
        self.groups = [[job for job in jobs if record.find(job.configuration) is None] for jobs in groups]
        self.left_out: list[Job] = []
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._paces: list[float] = []  # seconds of each measurement, over its estimate
        n_gpus = len(environment["gpus"])
        numbers = ",".join(map(str, range(n_gpus)))
        self._gpus = os.environ.get("CUDA_VISIBLE_DEVICES", numbers).split(",")[:n_gpus]
        # As scripts/launch.sh has it. torchrun's one thread would differ from what a single process takes.
        most = max((job.n_gpus for jobs in groups for job in jobs), default=1)
        self._threads = max(1, usable_cores() // max(len(self._gpus), most))

    def estimates(self) -> Iterator[tuple[str, float]]:
        """Each group that is to be measured, in words, and its seconds."""
        for jobs in filter(None, self.groups):
            at_a_time = self._side_by_side(jobs)
            rounds = [jobs[first : first + at_a_time] for first in range(0, len(jobs), at_a_time)]
            yield (
                f"{len(jobs)} on {jobs[0].resources}, {at_a_time} at a time",
                sum(max(job.estimate for job in each) for each in rounds),
            )

    def run(self, after_each: Callable[[], None]) -> None:
        """Measure, group by group; `after_each` is called when a measurement is in the record."""
        for jobs in filter(None, self.groups):
            self._run_group(jobs, after_each)

    def _side_by_side(self, jobs: Sequence[Job]) -> int:
        room = len(self._gpus) // jobs[0].n_gpus if self.args.side_by_side else 1
        return max(1, min(room, len(jobs)))

    def _run_group(self, jobs: Sequence[Job], after_each: Callable[[], None]) -> None:
        at_a_time, n_gpus = self._side_by_side(jobs), jobs[0].n_gpus
        free: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        for place in range(at_a_time):
            free.put(self._gpus[place * n_gpus : (place + 1) * n_gpus])

        def run(job: Job) -> None:
            gpus = free.get()
            try:
                if self._may_begin(job):
                    point = self._measure(job, gpus) | {"side_by_side": at_a_time}
                    with self._lock:
                        self._keep(job, point)
                        after_each()
            finally:
                free.put(gpus)

        with ThreadPoolExecutor(at_a_time) as pool:
            try:
                waiting = {pool.submit(run, job) for job in jobs}
                while waiting:  # with a timeout: a signal that comes as a wait begins is heard when it ends
                    ended, waiting = wait(waiting, SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
                    for future in ended:
                        future.result()
            except BaseException:  # a signal too, of which the threads do not hear
                self._stopped.set()
                raise

    def _may_begin(self, job: Job) -> bool:
        with self._lock:
            pace = statistics.fmean(self._paces) if self._paces else 1.0
            has_time = time.monotonic() + pace * job.estimate <= self.deadline
            if not has_time:
                self.left_out.append(job)
            return has_time and not self._stopped.is_set()

    def _measure(self, job: Job, gpus: Sequence[str]) -> Point:
        folder = self.args.output_dir / "runs" / job.folder_name
        variables = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self._threads))}
        variables |= {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
        words = command(job.configuration, job.data, folder)
        point = measure(job.configuration, 0, words, folder, self.args.timeout, variables, self._stopped)
        if point["environment"].get("gpus"):  # of the machine, of which the process saw a part
            point["environment"]["gpus"] = self.environment["gpus"]
        return point

    def _keep(self, job: Job, point: Point) -> None:
        self.record.add(point)
        repeats, seconds = Repeats(job.configuration, points=[point]), point["wall_seconds"]
        outcome = repeats.problem or repeats.status
        if outcome == "ok":
            self._paces.append(seconds / job.estimate)
            outcome = f"{repeats.cells()['sequences/s']} sequences/s"
        print(f"  {job}: {outcome} ({seconds:.0f} s)", flush=True)
        if point["status"] == "failed":
            print("    " + point["error"].replace("\n", "\n    "), flush=True)
